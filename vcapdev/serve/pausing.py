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
        self._pause: VcpuPause | None = None
        self._connected = False

    def connect(self) -> None:
        """A QEMU has come."""
        if self._qmp is None:
            return
        self._pause = VcpuPause(self._qmp)
        threading.Thread(target=self._start, args=(self._pause,), name="qmp-connect", daemon=True).start()

    def disconnect(self) -> None:
        """It has gone."""
        pause, self._pause = self._pause, None
        if pause is not None and self._connected:
            pause.close()
        self._connected = False

    def pause(self) -> AbstractContextManager[bool]:
        """A context in which the vCPUs stand; yields False when they cannot be stopped."""
        if self._pause is None or not self._connected:
            return _not_paused()
        return self._pause.pause(self._serve)

    def _start(self, pause: VcpuPause) -> None:
        try:
            pause.start()
        except GuestError:
            return  # findings are then explained while the guest runs, and say so
        if self._pause is pause:
            self._connected = True
        else:
            pause.close()


@contextmanager
def _not_paused() -> Iterator[bool]:
    yield False
