# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops the guest's vCPUs for a moment, from the device process, without blocking the device.

QEMU blocks on ``stop`` while a vCPU waits for our answer to a register read, so the command is sent from a
thread of its own while the caller goes on answering (docs/agent.md; the device would be dead after QEMU's
message time-out otherwise).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import QMPClient

from vcapdev.errors import GuestError

_SERVE_EVERY = 0.0005  # seconds between two looks at the device's messages while waiting
_CONNECT = 20.0  # seconds for QEMU to open the socket

T = TypeVar("T")


class VcpuPause:
    """Owns one QMP connection, and the thread that speaks on it."""

    def __init__(self, qmp_socket: Path, *, deadline: float = 2.0) -> None:
        """:param deadline: seconds after which a pause is given up."""
        self._path = qmp_socket
        self._deadline = deadline
        self._client = QMPClient("vcapdev-pause")
        self._client.logger.propagate = False  # what matters of it comes as an exception
        self._client.logger.addHandler(logging.NullHandler())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="vcpu-pause", daemon=True)
        self._depth = 0
        self._keep = False  # whether the guest stays stopped when the outermost pause ends
        self._kept = False  # whether it does
        self.given_up = 0  # pauses that did not come about in time
        self.longest = 0.0  # seconds that a successful stop took at most

    def start(self) -> None:
        """Start the thread and connect, waiting for the socket to appear.

        :raise GuestError: when there is no QMP server at the path within 20 s.
        """
        self._thread.start()
        future = asyncio.run_coroutine_threadsafe(self._connect(), self._loop)
        try:
            future.result(_CONNECT + 1)
        except Exception as error:
            self.close()
            raise GuestError(f"cannot pause the guest: no QMP at {self._path} ({error})") from error

    def close(self) -> None:
        """Let go of the connection and end the thread; the guest runs on."""
        if not self._thread.is_alive():
            return
        future = asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop)
        with contextlib.suppress(Exception):
            future.result(self._deadline)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self._deadline)
        if not self._thread.is_alive():
            self._loop.close()

    def pause(self, serve: Callable[[], None]) -> AbstractContextManager[bool]:
        """A context in which the vCPUs stand; it yields False when they could not be stopped in time.

        :param serve: answers the device's pending messages without blocking; called again and again while
            waiting. May be nested: only the outermost one stops and continues.
        """
        return self._pause(serve)

    @contextlib.contextmanager
    def _pause(self, serve: Callable[[], None]) -> Iterator[bool]:
        if self._depth:
            yield True
            return
        begin = time.monotonic()
        future = self._submit(self._stop())
        state = self._wait(future, serve, begin + self._deadline)
        if state is None:
            self.given_up += 1
            self._submit(self._undo(future))
            yield False
            return
        self.longest = max(self.longest, time.monotonic() - begin)
        self._depth += 1
        try:
            yield True
        finally:
            self._depth -= 1
            self._kept = self._kept or (self._keep and state == "running")
            if state == "running" and not self._kept:
                # Not waited for: the next stop is sent behind it on the same connection.
                self._submit(self._continue())

    @property
    def active(self) -> bool:
        """Whether the vCPUs stand in a pause that has not ended yet."""
        return bool(self._depth)

    def keep(self) -> None:
        """Within a pause: let the guest stay stopped behind its end, until :meth:`go_on`."""
        self._keep = True

    def go_on(self) -> None:
        """Let a guest run that :meth:`keep` has kept stopped; harmless when none is."""
        self._keep = False
        if self._kept and not self._depth:
            self._kept = False
            self._submit(self._continue())

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    @staticmethod
    def _wait(future: Future[str], serve: Callable[[], None], deadline: float) -> str | None:
        """What the guest was doing before it stood ("running", "paused", ...); None: it does not stand."""
        while not future.done():
            if time.monotonic() > deadline:
                return None
            serve()
            with contextlib.suppress(TimeoutError):
                future.exception(_SERVE_EVERY)
        serve()
        return None if future.exception() is not None else future.result()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _connect(self) -> None:
        end = self._loop.time() + _CONNECT
        while True:
            try:
                await self._client.connect(str(self._path))
                return
            except Exception:
                if self._loop.time() > end:
                    raise
                await asyncio.sleep(0.05)

    async def _disconnect(self) -> None:
        await self._client.disconnect()

    async def _stop(self) -> str:
        status = await self._client.execute("query-status")
        state = str(status["status"]) if isinstance(status, dict) else "unknown"
        if state == "running":
            await self._client.execute("stop")
        return state

    async def _undo(self, stop: Future[str]) -> None:
        """Once a stop that nobody waits for any more is through, take it back."""
        with contextlib.suppress(Exception):
            if await asyncio.wrap_future(stop) == "running":
                await self._continue()

    async def _continue(self) -> None:
        # A guest that panicked meanwhile refuses to go on, and shall: its memory is kept as it is.
        with contextlib.suppress(Exception):
            await self._client.execute("cont")
