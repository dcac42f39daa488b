# SPDX-License-Identifier: GPL-2.0-or-later
"""A small synchronous client of QEMU's machine protocol (QEMU docs/interop/qmp-spec.rst), with deadlines.

The runner needs commands and events in its own loop, without a thread; the checker's pause, which must not
block the device, has ``qemu.qmp`` in a thread instead (``vcapdev.vm.pause``).
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vcapdev.errors import GuestError
from vcapdev.waiting import readable, writable

_MAX_LINE = 4 << 20  # bytes; the longest honest answer (query-qmp-schema) is below 1 MB


class QmpError(GuestError):
    """QEMU refused a command, does not answer, or is gone."""


class Qmp:
    """One connection to a QMP socket."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket; call :meth:`negotiate` before anything else."""
        sock.setblocking(False)
        self._sock = sock
        self._data = b""
        self._replies: deque[dict[str, Any]] = deque()
        self._serial = 0
        self.events: deque[dict[str, Any]] = deque(maxlen=1000)
        self.closed = False

    @classmethod
    def connect(cls, path: Path, deadline: float, alive: Callable[[], bool] = lambda: True) -> Qmp:
        """Connect to the socket at ``path``, waiting until it exists.

        ``deadline`` is a ``time.monotonic()`` value; ``alive()`` tells whether QEMU still runs.

        :raise QmpError: when the deadline passes or QEMU ends.
        """
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.connect(str(path))
            except OSError as error:
                sock.close()
                if not alive() or time.monotonic() > deadline:
                    raise QmpError(
                        f"QEMU's control socket {path} does not answer: {error.strerror}"
                    ) from error
                time.sleep(0.01)
                continue
            client = cls(sock)
            client.negotiate(deadline)
            return client

    def negotiate(self, deadline: float) -> None:
        """Read the greeting and leave the negotiation mode.

        :raise QmpError: when the peer is no QMP server or says nothing before the deadline.
        """
        greeting = self._wait_reply(deadline, "its greeting")
        if "QMP" not in greeting:
            raise QmpError("QEMU's control socket does not speak QMP")
        self.execute("qmp_capabilities", timeout=max(0.1, deadline - time.monotonic()))

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        self.closed = True
        self._sock.close()

    def poll(self) -> None:
        """Take in what has arrived, without blocking; events are appended to :attr:`events`."""
        while not self.closed:
            try:
                data = self._sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._take(data)

    def execute(self, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = 5.0) -> Any:
        """Run a command and give what it returns; events that come meanwhile are kept.

        :raise QmpError: when QEMU refuses, ends, or does not answer within ``timeout`` seconds.
        """
        self._serial += 1
        serial = self._serial
        message: dict[str, Any] = {"execute": command, "id": serial}
        if arguments:
            message["arguments"] = arguments
        deadline = time.monotonic() + timeout
        self._send(json.dumps(message).encode() + b"\n", deadline, command)
        while True:
            reply = self._wait_reply(deadline, command)
            if reply.get("id") != serial:
                continue  # the late answer to a command that was given up
            if "error" in reply:
                raise QmpError(f"QEMU refused {command}: {reply['error'].get('desc', reply['error'])}")
            return reply.get("return")

    def _send(self, data: bytes, deadline: float, what: str) -> None:
        while data:
            self._require_open(what)
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                if not writable(self._sock, deadline - time.monotonic()):
                    raise QmpError(f"QEMU does not take {what}; it may be stuck") from None
            except OSError as error:
                raise QmpError(f"QEMU is gone (at {what}: {error.strerror})") from error

    def _wait_reply(self, deadline: float, what: str) -> dict[str, Any]:
        while not self._replies:
            self._require_open(what)
            left = deadline - time.monotonic()
            if left <= 0 or not readable(self._sock, left):
                raise QmpError(f"QEMU did not answer {what} in time; it may be stuck")
            self.poll()
        return self._replies.popleft()

    def _require_open(self, what: str) -> None:
        if self.closed:
            raise QmpError(f"QEMU closed its control socket (at {what})")

    def _take(self, data: bytes) -> None:
        *lines, self._data = (self._data + data).split(b"\n")
        if len(self._data) > _MAX_LINE:
            self.close()
            raise QmpError("QEMU's control socket sends a line without an end")
        for line in filter(bytes.strip, lines):
            try:
                message = json.loads(line)
            except ValueError:
                continue  # QEMU answers a broken command with JSON too, so this is not for us
            if isinstance(message, dict):
                (self.events if "event" in message else self._replies).append(message)
