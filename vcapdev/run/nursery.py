# SPDX-License-Identifier: GPL-2.0-or-later
"""Device processes that are there at once: forked by one that has loaded everything (vcapdev.nursery).

One nursery serves a whole process (a pytest session, a gallery); :func:`warm` starts it while other things
take their time, and :func:`spawn` waits until it is ready. It ends with this process, however that ends.
"""

from __future__ import annotations

import array
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import vcapdev
from vcapdev.errors import GuestError
from vcapdev.waiting import readable

LARGEST = 1 << 18  # bytes of a message: an environment may be long
_READY = 60.0  # seconds; it loads in half a one on an idle machine
_QUIT = 3.0

Json = dict[str, Any]


class NurseryError(GuestError):
    """The nursery ended, or does not answer."""


class Forked:
    """A process that the nursery has forked: the part of :class:`subprocess.Popen` that is needed here."""

    def __init__(self, nursery: Nursery, pid: int, pidfd: int) -> None:
        self._nursery, self._pidfd = nursery, pidfd
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        if self.returncode is None:
            self._nursery.hear(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        :raise subprocess.TimeoutExpired: it still runs then.
        """
        end = time.monotonic() + timeout
        while self.poll() is None:
            left = end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(["vcapdev", "serve"], timeout)
            self._nursery.hear(left)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended just now
                signal.pidfd_send_signal(self._pidfd, number)

    def ended(self, status: int) -> None:
        """It has ended."""
        self.returncode = status
        os.close(self._pidfd)


class Nursery:
    """The nursery of one process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = dict(os.environ)
        here = str(Path(vcapdev.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH", "")]))
        environment["OPENBLAS_NUM_THREADS"] = "1"  # a process with threads should not fork
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vcapdev.nursery"], stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL, start_new_session=True, env=environment,
            )  # fmt: skip
        self.lock = threading.RLock()  # several guests may be played with at a time, each in a thread
        self._socket = ours
        self._born: Forked | None = None
        self._met: set[Path] = set()
        self._children: dict[int, Forked] = {}

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._socket.fileno() >= 0 and self._process.poll() is None

    def spawn(self, argv: list[str], log: Path) -> Forked:
        """A new process of ``vcapdev ARGV``, which writes both outputs to the end of ``log``.

        :raise NurseryError: the nursery has ended, or does not answer.
        """
        request = {"argv": argv, "log": str(log.absolute()), "environment": dict(os.environ)}
        with self.lock:
            try:
                self._socket.send(json.dumps(request).encode())
            except OSError as error:
                raise NurseryError(f"no device process can be forked: {error.strerror}") from error
            self._born, end = None, time.monotonic() + _READY
            while self._born is None:
                if time.monotonic() > end or not self.alive:
                    self.close()
                    raise NurseryError("no device process can be forked: the process that does it has ended")
                self.hear(0.1)
            return self._born

    def meet(self, snapshot: Path, size: int) -> None:
        """Have it look at the kernel in a snapshot with ``size`` bytes of RAM; nobody waits for that."""
        if snapshot not in self._met:
            self._met.add(snapshot)
            with suppress(OSError):
                self._socket.send(json.dumps({"meet": str(snapshot), "size": size}).encode())

    def hear(self, timeout: float) -> None:
        """Take in what it says, waiting for the first word."""
        if timeout:
            with suppress(OSError, ValueError):  # another thread closes it
                readable(self._socket, timeout)
        with self.lock:
            while self._socket.fileno() >= 0 and readable(self._socket, 0):
                data, rights, _, _ = self._socket.recvmsg(LARGEST, socket.CMSG_SPACE(4))
                if not data:
                    self.close()
                    return
                self._take(json.loads(data), [array.array("i", each[2][:4])[0] for each in rights])

    def close(self) -> None:
        """End it and all that it has forked; harmless when repeated."""
        self._socket.close()
        try:
            self._process.wait(_QUIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for child in self._children.values():
            child.ended(-signal.SIGTERM)
        self._children.clear()

    def _take(self, message: Json, rights: list[int]) -> None:
        if "pid" in message:
            self._born = self._children[message["pid"]] = Forked(self, message["pid"], rights[0])
        else:
            child = self._children.pop(message["exited"], None)
            if child is not None:
                child.ended(message["status"])


_nursery: Nursery | None = None
_lock = threading.Lock()


def warm() -> Nursery:
    """Start the nursery unless there is one; it loads while others do what they do."""
    global _nursery
    with _lock:
        if _nursery is None or _nursery.owner != os.getpid() or not _nursery.alive:
            if _nursery is None:
                atexit.register(_end)
            _nursery = Nursery()
        return _nursery


def spawn(argv: list[str], log: Path) -> Forked:
    """A new process of ``vcapdev ARGV``; see :meth:`Nursery.spawn`."""
    return warm().spawn(argv, log)


def _end() -> None:
    if _nursery is not None and _nursery.owner == os.getpid():
        _nursery.close()
