# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's end of the control channel to guest/src/vcap-agent.c: commands, files, the kernel log.

Synchronous and without threads: whoever waits turns :meth:`Agent.pump`, which serves everything that is
under way (processes, transfers, the kernel log) and calls the watcher that looks for a crash. The frames are
described in docs/agent.md.
"""

from __future__ import annotations

import json
import secrets
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vcapdev.errors import GuestError
from vcapdev.vm import frames as wire
from vcapdev.vm.frames import Decoder, Frame, encode

_TURN = 0.1  # seconds a pump waits at most before the watcher looks again
_KEEP_OUTPUT = 4 << 20  # bytes of a process's output that are kept; the newest win
_SEED = 64  # bytes of random numbers for a restored guest; its generators' keys have 32
_LONGEST_LINE = 1 << 20  # bytes; a longer one is given out in pieces
_LARGEST_FILE = 256 << 20  # bytes; the guest is not trusted to end

LineCallback = Callable[[str], None]


class AgentError(GuestError):
    """The guest refused a request."""


class GuestTimeoutError(GuestError):
    """The guest did not do something in time."""


class AgentGoneError(GuestError):
    """The channel was closed: QEMU ended."""


class Result(NamedTuple):
    """What a command left behind."""

    status: int  # exit status, or minus the number of the signal that ended it
    stdout: str
    stderr: str


class _Stream:
    """One output of a process: kept as text, and given out line by line."""

    def __init__(self, on_line: LineCallback | None) -> None:
        self._on_line = on_line
        self._partial = b""
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > _KEEP_OUTPUT:
            del self._kept[: len(self._kept) - _KEEP_OUTPUT]
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._emit(line)
        if len(self._partial) > _LONGEST_LINE:
            self.finish()

    def finish(self) -> None:
        if self._partial:
            self._emit(self._partial)
            self._partial = b""

    def _emit(self, line: bytes) -> None:
        if self._on_line is not None:
            self._on_line(line.decode("utf-8", "replace"))

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


class Process:
    """A program that runs in the guest. Made by :meth:`Agent.spawn`."""

    def __init__(self, agent: Agent, ident: int, argv: Sequence[str], out: _Stream, err: _Stream) -> None:
        self._agent = agent
        self._id = ident
        self._out, self._err = out, err
        self.argv = list(argv)
        self.pid: int | None = None  # in the guest
        self.status: int | None = None  # None while it runs, else as in ``Result``

    @property
    def stdout(self) -> str:
        """Its standard output so far (the last 4 MiB)."""
        return self._out.text

    @property
    def stderr(self) -> str:
        """Its standard error so far (the last 4 MiB)."""
        return self._err.text

    def wait(self, timeout: float) -> Result:
        """Wait for its end, seconds.

        :raise GuestTimeoutError: when it still runs then (and goes on running).
        :raise GuestCrash: when the guest's kernel fails meanwhile.
        """
        self._agent.wait_for(lambda: self.status is not None, timeout, f"{self.argv[0]} in the guest")
        assert self.status is not None
        return Result(self.status, self.stdout, self.stderr)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to its process group; nothing happens when it has ended."""
        if self.status is None:
            self._agent.send(Frame(self._id, wire.SIGNAL, struct.pack("<I", number)))


class _Transfer:
    def __init__(self) -> None:
        self.data = bytearray()
        self.over = False
        self.error: str | None = None


class Agent:
    """The control channel of one guest."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        watch: Callable[[], None] = lambda: None,
        on_kmsg: Callable[[bytes], None] = lambda record: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over a connected socket.

        :param watch: called at every turn; raises to end whatever waits.
        :param on_kmsg: gets every record of the guest's /dev/kmsg, from the first since its boot.
        :param on_lost: the guest's log overran, records are missing.
        """
        sock.setblocking(False)
        self._sock = sock
        self._watch = watch
        self._on_kmsg, self._on_lost = on_kmsg, on_lost
        self._decoder = Decoder()
        self._out = bytearray()
        self._next_id = 1
        self._processes: dict[int, Process] = {}
        self._transfers: dict[int, _Transfer] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        self.hello: dict[str, Any] | None = None  # what the guest said of itself: version, release, machine
        self.closed = False
        self._excused = 0.0  # seconds that the guest stood still for a reason

    # -- what callers use

    def greet(self, timeout: float) -> dict[str, Any]:
        """Wait until the guest answers; what it says of itself (``release`` is its kernel's).

        :raise GuestTimeoutError: when it does not answer within ``timeout`` seconds.
        """
        self.hail()
        self.wait_for(lambda: self.hello is not None, timeout, "the guest to boot")
        assert self.hello is not None
        if self.hello.get("version") != wire.VERSION:
            raise AgentError(
                f"the guest's agent speaks version {self.hello.get('version')}, not {wire.VERSION}"
            )
        return self.hello

    def hail(self) -> None:
        """Ask the guest to answer as soon as it can, and to send its kernel log from then on."""
        self.send(Frame(self._new_id(), wire.HELLO))

    def spawn(
        self,
        argv: Sequence[str],
        *,
        on_stdout: LineCallback | None = None,
        on_stderr: LineCallback | None = None,
        timeout: float = 15.0,
    ) -> Process:
        """Start a program; ``argv[0]`` is looked up in the guest's PATH. Lines come without their ends.

        :raise AgentError: when the guest cannot start it.
        """
        ident = self._new_id()
        process = Process(self, ident, argv, _Stream(on_stdout), _Stream(on_stderr))
        transfer = self._transfers[ident] = _Transfer()
        self._processes[ident] = process
        self.send(Frame(ident, wire.SPAWN, b"".join(word.encode() + b"\0" for word in argv)))
        try:
            self._finish(ident, transfer, timeout, f"start {argv[0]}")
        except GuestError:
            self._processes.pop(ident, None)
            raise
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 30.0,
        on_stdout: LineCallback | None = None,
        on_stderr: LineCallback | None = None,
    ) -> Result:
        """Run a program to its end; its standard input is empty.

        :raise AgentError: when the guest cannot start it.
        :raise GuestTimeoutError: when it runs longer than ``timeout`` seconds (it is killed then).
        :raise GuestCrash: when the guest's kernel fails meanwhile.
        """
        process = self.spawn(argv, on_stdout=on_stdout, on_stderr=on_stderr)
        try:
            return process.wait(timeout)
        except GuestTimeoutError:
            process.kill(signal.SIGKILL)
            raise

    def push(self, local: Path | bytes, remote: str, *, mode: int = 0o644, timeout: float = 60.0) -> None:
        """Copy a file, or bytes, into the guest.

        :raise AgentError: when the guest cannot write it.
        """
        data = local.read_bytes() if isinstance(local, Path) else local
        ident = self._new_id()
        transfer = self._transfers[ident] = _Transfer()
        self.send(Frame(ident, wire.PUSH, struct.pack("<I", mode) + remote.encode() + b"\0"))
        for at in range(0, len(data), wire.MAX_PAYLOAD):
            self.send(Frame(ident, wire.DATA, data[at : at + wire.MAX_PAYLOAD]))
        self.send(Frame(ident, wire.END))
        self._finish(ident, transfer, timeout, f"write {remote}")

    def pull(self, remote: str, *, timeout: float = 60.0) -> bytes:
        """The content of a guest's file (also below /proc and /sys).

        :raise AgentError: when the guest cannot read it.
        """
        ident = self._new_id()
        transfer = self._transfers[ident] = _Transfer()
        self.send(Frame(ident, wire.PULL, remote.encode() + b"\0"))
        self._finish(ident, transfer, timeout, f"read {remote}")
        return bytes(transfer.data)

    def restored(self, *, timeout: float = 30.0) -> None:
        """Tell a guest that goes on from a snapshot what time it is, and give it random numbers of its own.

        :raise AgentError: when the guest cannot set its clock or reseed its generators.
        """
        ident = self._new_id()
        transfer = self._transfers[ident] = _Transfer()
        now = time.time_ns()
        payload = struct.pack("<QQ", *divmod(now, 1_000_000_000)) + secrets.token_bytes(_SEED)
        self.send(Frame(ident, wire.RESTORED, payload))
        self._finish(ident, transfer, timeout, "go on from a snapshot")

    def wait_for(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        """Turn the pump until ``done()``.

        :raise GuestTimeoutError: after ``timeout`` seconds; ``what`` completes "waited ... s for".
        """
        deadline = time.monotonic() + timeout - self._excused
        while not done():
            left = deadline + self._excused - time.monotonic()
            if left <= 0:
                raise GuestTimeoutError(
                    f"waited {timeout:g} s for {what}; see the console log, or allow more time"
                )
            self.pump(min(left, _TURN))

    def excuse(self, seconds: float) -> None:
        """The guest was stopped for so long: no wait that is under way counts that time."""
        self._excused += seconds

    def pump(self, timeout: float = 0.0) -> None:
        """One turn: send, receive, call back, and let the watcher look.

        :raise AgentGoneError: when the channel was closed.
        """
        if not self.closed:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
            self._selector.modify(self._sock, events)
            self._selector.select(timeout)
            self._flush()
            self._receive()
        self._watch()
        if self.closed:
            raise AgentGoneError("QEMU closed the channel to the guest; see its log")

    def send(self, frame: Frame) -> None:
        """Queue a frame; it leaves at the next turns of the pump."""
        self._out += encode(frame)

    def fileno(self) -> int:
        """The channel's descriptor, for a caller's own selector (then call ``pump(0)``)."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the channel; processes in the guest go on."""
        self.closed = True
        self._selector.close()
        self._sock.close()

    # -- inside

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _finish(self, ident: int, transfer: _Transfer, timeout: float, what: str) -> None:
        try:
            self.wait_for(lambda: transfer.over, timeout, f"the guest to {what}")
        finally:
            self._transfers.pop(ident, None)
        if transfer.error is not None:
            raise AgentError(f"the guest cannot {what}: {transfer.error}")

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def _receive(self) -> None:
        try:
            for _ in range(16):  # then the watcher gets its turn
                data = self._sock.recv(1 << 18)
                if not data:
                    self.closed = True
                    return
                for frame in self._decoder.feed(data):
                    self._dispatch(frame)
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def _dispatch(self, frame: Frame) -> None:
        if frame.type == wire.KMSG:
            self._on_kmsg(frame.payload)
        elif frame.type == wire.KMSG_LOST:
            self._on_lost()
        elif frame.type == wire.HELLO:
            self._take_hello(frame.payload)
        elif frame.id in self._processes:
            self._process_frame(self._processes[frame.id], frame)
        if frame.id in self._transfers:
            self._transfer_frame(self._transfers[frame.id], frame)

    def _take_hello(self, payload: bytes) -> None:
        try:
            hello = json.loads(payload)
        except (ValueError, RecursionError):
            return
        if isinstance(hello, dict):
            self.hello = hello

    def _process_frame(self, process: Process, frame: Frame) -> None:
        if frame.type == wire.STDOUT:
            process._out.add(frame.payload)
        elif frame.type == wire.STDERR:
            process._err.add(frame.payload)
        elif frame.type == wire.SPAWNED and len(frame.payload) == 4:
            (process.pid,) = struct.unpack("<I", frame.payload)
        elif frame.type == wire.EXITED and len(frame.payload) == 4:
            process._out.finish()
            process._err.finish()
            (process.status,) = struct.unpack("<i", frame.payload)
            del self._processes[frame.id]

    @staticmethod
    def _transfer_frame(transfer: _Transfer, frame: Frame) -> None:
        if frame.type == wire.DATA and len(transfer.data) + len(frame.payload) > _LARGEST_FILE:
            transfer.error = f"it has more than {_LARGEST_FILE >> 20} MiB"
            transfer.over = True
        elif frame.type == wire.DATA:
            transfer.data += frame.payload
        elif frame.type in (wire.END, wire.DONE, wire.SPAWNED):
            transfer.over = True
        elif frame.type == wire.ERROR:
            transfer.error = frame.payload[4:].decode("utf-8", "replace")
            transfer.over = True
