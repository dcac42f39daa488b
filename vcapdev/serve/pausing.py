# SPDX-License-Identifier: GPL-2.0-or-later
"""Stopping the vCPUs while a finding is looked at: as long as there is a QEMU, and a QMP socket was named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from vcapdev.errors import GuestError
from vcapdev.vm.pause import VcpuPause


class Pausing:
    """Connects anew for every QEMU that comes, in a thread: QEMU answers QMP only after it has set us up.

    :param qmp: the QMP socket, None when there is none.
    :param serve: answers the device's pending messages without blocking.
    """

    def __init__(self, qmp: Path | None, serve: Callable[[], None]) -> None:
        self._qmp = qmp
        self._serve = serve
        self._lock = threading.Lock()  # over the two that follow
        self._wanted: VcpuPause | None = None  # for the QEMU that is there
        self._ready: VcpuPause | None = None  # the same, once it is connected

    def connect(self) -> None:
        """A QEMU has come."""
        if self._qmp is None:
            return
        with self._lock:
            pause = self._wanted = VcpuPause(self._qmp)
        threading.Thread(target=self._start, args=(pause,), name="qmp-connect", daemon=True).start()

    def disconnect(self) -> None:
        """It has gone."""
        with self._lock:
            ready, self._ready, self._wanted = self._ready, None, None
        if ready is not None:
            ready.close()

    def pause(self) -> AbstractContextManager[bool]:
        """A context in which the vCPUs stand; yields False when they cannot be stopped."""
        ready = self._ready
        return _not_paused() if ready is None else ready.pause(self._serve)

    @property
    def active(self) -> bool:
        """Whether the vCPUs stand in a pause that has not ended yet."""
        return self._ready is not None and self._ready.active

    def keep(self) -> None:
        """Within a pause: let the guest stay stopped behind its end, until :meth:`go_on`."""
        if self._ready is not None:
            self._ready.keep()

    def go_on(self) -> None:
        """Let a guest run that was kept stopped."""
        if self._ready is not None:
            self._ready.go_on()

    def _start(self, pause: VcpuPause) -> None:
        try:
            pause.start()
        except GuestError:
            return  # findings are then explained while the guest runs, and say so
        with self._lock:
            wanted = self._wanted is pause
            if wanted:
                self._ready = pause
        if not wanted:
            pause.close()


@contextmanager
def _not_paused() -> Iterator[bool]:
    yield False
