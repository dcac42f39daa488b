# SPDX-License-Identifier: GPL-2.0-or-later
"""What the card did and when, while somebody wants to know: transfers, fields, interrupts, switches of DMA.

Nothing stands in the card's way until :meth:`Timeline.start`. Times are microseconds of the reactor's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from vcapdev.bt878.chip import Bt878
from vcapdev.dma import Abort, Batch, Checkpoint, DmaObserver, Program

_LENGTH = 6000  # events; the newest are kept

Json = dict[str, Any]


class Timeline:
    """A bounded ring of events; implements ``vcapdev.dma.DmaObserver``.

    :param state_of: the state of a batch's pages as they were judged, "" where they were not.
    """

    def __init__(
        self,
        chip: Bt878,
        observers: list[DmaObserver],
        now: Callable[[], float],
        state_of: Callable[[Batch], str],
    ) -> None:
        self._chip, self._observers, self._now, self._state_of = chip, observers, now, state_of
        self._ring: deque[tuple[float, str, str, str]] = deque(maxlen=_LENGTH)
        self._drive: Callable[[bool], None] | None = None
        self._began = 0.0

    def start(self) -> None:
        """Forget, and record from now on."""
        self.stop()
        self._ring.clear()
        self._began = self._now()
        self._observers.append(self)
        before = self._drive = self._chip.drive

        def drive(level: bool) -> None:
            if level:
                self._add("interrupts", "interrupt")
            before(level)

        self._chip.drive = self._mine = drive

    def stop(self) -> None:
        """Record no more. A fault that has come to stand in the interrupt's way meanwhile stays there."""
        if self in self._observers:
            self._observers.remove(self)
        if self._drive is not None and self._chip.drive is self._mine:
            self._chip.drive = self._drive
        self._drive = None

    def events(self) -> list[Json]:
        """All events, oldest first: microseconds since the start, track, name, state of the first page."""
        return [
            {"at": round((at - self._began) * 1e6), "track": track, "name": name, "state": state}
            for at, track, name, state in self._ring
        ]

    def found(self, rule: str) -> None:
        """The checker has found something."""
        if self._drive is not None:
            self._add("findings", rule, "fail")

    def _add(self, track: str, name: str, state: str = "") -> None:
        self._ring.append((self._now(), track, name, state))

    def program(self, program: Program) -> None:
        pass

    def gone(self, program_id: int) -> None:
        pass

    def before_write(self, batch: Batch) -> None:
        pass

    def after_write(self, batch: Batch) -> None:
        first = int(batch.addr[0])
        state = self._state_of(batch) or "not judged"
        self._add("DMA", f"program {batch.program}: {int(batch.length.sum())} bytes from {first:#x}", state)

    def device_read(self, addr: int, length: int, origin: int) -> None:
        pass

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        self._add("DMA", f"refused: {length} bytes at {addr:#x}: {why.value}")

    def checkpoint(self, what: Checkpoint) -> None:
        if what is Checkpoint.FIELD:
            self._add("fields", f"field {self._chip.stats.fields}")
        elif what is Checkpoint.REGISTER_WRITE:
            self._add("registers", "register write")
        else:
            self._add("DMA switches", what.value)
