# SPDX-License-Identifier: GPL-2.0-or-later
"""The control channel's wire: JSON lines over a unix socket, several clients, never blocking the device.

Request ``{"id": 1, "cmd": "stats"}``, answer ``{"id": 1, "ok": true, "result": {}}`` or
``{"id": 1, "ok": false, "error": "..."}``; who has sent ``subscribe`` also gets ``{"event": ...}`` lines.
docs/control.md lists the commands.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

Json = dict[str, Any]
Dispatch = Callable[[str, Json, "ControlSession"], Json]

MAX_LINE = 64 * 1024  # bytes of one request
MAX_BACKLOG = 8 << 20  # bytes that a client may leave unread before it is let go
MAX_CLIENTS = 16


class CommandError(Exception):
    """A command was refused; its text goes to the client."""


class Loop(Protocol):
    """What is needed of ``vcapdev.vfiouser.reactor.Reactor``."""

    def add_reader(self, fd: int, fn: Callable[[], None]) -> None: ...

    def remove_reader(self, fd: int) -> None: ...

    def add_writer(self, fd: int, fn: Callable[[], None]) -> None: ...

    def remove_writer(self, fd: int) -> None: ...

    def call_later(self, delay: float, fn: Callable[[], None]) -> object: ...


class ControlServer:
    """Accepts clients on ``listener`` and hands their commands to ``dispatch``, in the loop's thread."""

    def __init__(self, loop: Loop, listener: socket.socket, dispatch: Dispatch) -> None:
        self._loop = loop
        self._listener = listener
        self._dispatch = dispatch
        self._sessions: list[ControlSession] = []
        listener.setblocking(False)
        loop.add_reader(listener.fileno(), self._accept)

    def broadcast(self, event: Json) -> None:
        """Send ``event`` to every client that subscribed."""
        for session in list(self._sessions):
            if session.subscribed:
                session.send(event)

    def close(self) -> None:
        """Say nothing more; the listener itself belongs to the caller."""
        self._loop.remove_reader(self._listener.fileno())
        for session in list(self._sessions):
            session.flush()
            session.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # gone again, or out of descriptors: the client sees a closed socket
        if len(self._sessions) >= MAX_CLIENTS:
            connection.close()
            return
        self._sessions.append(ControlSession(self._loop, connection, self._dispatch, self._sessions.remove))


class ControlSession:
    """One client."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        dispatch: Dispatch,
        on_close: Callable[[ControlSession], None],
    ) -> None:
        self.subscribed = False
        self._loop = loop
        self._socket = connection
        self._dispatch = dispatch
        self._on_close = on_close
        self._input = b""
        self._requests: deque[bytes] = deque()  # complete ones; nothing is read while there are any
        self._output = bytearray()
        self._open = True
        connection.setblocking(False)
        loop.add_reader(connection.fileno(), self._readable)

    def send(self, message: Json) -> None:
        """Queue one line; a client that does not read is let go when its backlog is full."""
        if not self._open:
            return
        self._output += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self.flush()
        if len(self._output) > MAX_BACKLOG:
            self.close()

    def flush(self) -> None:
        """Write what the socket takes now, and come back when it takes more."""
        while self._output and self._open:
            try:
                sent = self._socket.send(self._output[: 1 << 16])
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self.flush)
                return
            except OSError:
                self.close()
                return
            del self._output[:sent]
        if self._open:
            self._loop.remove_writer(self._socket.fileno())

    def close(self) -> None:
        """Let the client go."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._on_close(self)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._input = (self._input + data).split(b"\n")
        self._requests.extend(line for line in lines if line.strip())
        if len(self._input) > MAX_LINE:
            self.send({"id": None, "ok": False, "error": f"a request is longer than {MAX_LINE} bytes"})
            self.close()
        elif self._requests:
            self._loop.remove_reader(self._socket.fileno())
            self._next_request()

    def _next_request(self) -> None:
        """One request a turn of the loop: many in one packet do not keep QEMU waiting for all of them."""
        if not self._open:
            return
        self._handle(self._requests.popleft())
        if not self._open:
            return
        if self._requests:
            self._loop.call_later(0, self._next_request)
        else:
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def _handle(self, line: bytes) -> None:
        ident: Any = None
        try:
            request = _parse(line)
            ident = _ident(request.pop("id", None))
            command = request.pop("cmd", None)
            if not isinstance(command, str):
                raise CommandError('a request needs "cmd", the name of a command')
            result = self._dispatch(command, request, self)
        except CommandError as error:
            self.send({"id": ident, "ok": False, "error": str(error)})
        else:
            self.send({"id": ident, "ok": True, "result": result})


def _ident(ident: Any) -> Any:
    """What comes back with the answer; nothing nested, which could be too deep to be written."""
    if ident is None or isinstance(ident, str | int | float):
        return ident
    raise CommandError('"id" is a number or a string')


def _parse(line: bytes) -> Json:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"not JSON: {error}") from error
    if not isinstance(request, dict):
        raise CommandError("a request is a JSON object on one line")
    return request
