# SPDX-License-Identifier: GPL-2.0-or-later
"""The other end of the control channel, for ``vcapdev run`` and for tests."""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vcapdev.errors import GuestError
from vcapdev.waiting import readable

Json = dict[str, Any]


class DeviceGoneError(GuestError):
    """The device process ended or closed its control channel."""


class ControlError(GuestError):
    """The device refused a command."""


class ControlClient:
    """Sends commands and waits for answers; events that arrive meanwhile are kept in :attr:`events`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.setblocking(False)
        self._input = b""
        self._answers: dict[int, Json] = {}
        self._next = 1
        self.events: deque[Json] = deque()

    @classmethod
    def connect(cls, path: Path, deadline: float, alive: Callable[[], bool]) -> ControlClient:
        """Connect to ``path`` as soon as it is there.

        :param deadline: seconds to keep trying.
        :param alive: whether the device process still runs; trying ends when it does not.
        :raise DeviceGoneError: when the deadline passes or the process is gone.
        """
        end = time.monotonic() + deadline
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(path))
            except OSError:
                connection.close()
            else:
                return cls(connection)
            if not alive():
                raise DeviceGoneError("the device process ended before it could be reached")
            if time.monotonic() > end:
                raise DeviceGoneError(f"the device process did not open {path} within {deadline:.0f} s")
            time.sleep(0.01)

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def call(self, command: str, *, timeout: float = 10, **arguments: Any) -> Json:
        """The result of one command.

        :raise ControlError: the device refused it; the text says why.
        :raise DeviceGoneError: the device ended, or did not answer within ``timeout`` seconds.
        """
        ident, self._next = self._next, self._next + 1
        self._send({"id": ident, "cmd": command, **arguments}, timeout)
        end = time.monotonic() + timeout
        while ident not in self._answers:
            if not self._wait(end - time.monotonic()):
                raise DeviceGoneError(f"the device process did not answer {command!r} within {timeout:.0f} s")
        answer = self._answers.pop(ident)
        if not answer.get("ok"):
            raise ControlError(f"the device refused {command!r}: {answer.get('error')}")
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def poll(self) -> None:
        """Take in what has arrived, without waiting.

        :raise DeviceGoneError: the device closed the channel.
        """
        while self._wait(0):
            pass

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: Json, timeout: float) -> None:
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise DeviceGoneError("the device process closed its control channel") from error
        finally:
            self._socket.setblocking(False)

    def _wait(self, seconds: float) -> bool:
        """Read once; False when nothing came in time."""
        if not readable(self._socket, seconds):
            return False
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            raise DeviceGoneError("the device process closed its control channel")
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return True

    def _take(self, message: Json) -> None:
        if "event" in message:
            self.events.append(message)
        elif isinstance(message.get("id"), int):
            self._answers[message["id"]] = message
