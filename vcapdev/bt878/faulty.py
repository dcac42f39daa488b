# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in the card's ways while a fault is armed (:mod:`vcapdev.bt878.faults` arms them)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vcapdev.bt878.chip import Bt878
from vcapdev.bt878.clock import Scheduler
from vcapdev.bt878.fifo import Block
from vcapdev.bt878.registers import GpioDmaCtl, IntStat
from vcapdev.dma import Abort, Batch, NullObserver

_RISC, _FIFO = GpioDmaCtl.RISC_ENABLE.mask, GpioDmaCtl.FIFO_ENABLE.mask


@dataclass
class Armed:
    """A fault that waits for its point, or has been committed."""

    name: str
    at: int
    lasts: int
    fired: bool = False
    seen: int = 0  # points that have come

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the control channel tells them."""
        return {
            "fault": self.name,
            "at": self.at,
            "lasts": self.lasts,
            "fired": self.fired,
            "seen": self.seen,
        }


class Line:
    """Stands between chip and interrupt line."""

    def __init__(
        self, chip: Bt878, scheduler: Scheduler, armed: Armed, point: Callable[[Armed], bool]
    ) -> None:
        self._chip, self._scheduler, self._armed, self._point = chip, scheduler, armed, point
        self._drive = chip.drive
        self._status = chip.registers.cell("INT_STAT")
        self._read = self._status.read_hook
        self._down = False  # held, for "late"
        self._runs = 0  # of the handler that are still to come without a cause
        self._hit = False  # the interrupt that is up is the one

    def drive(self, level: bool) -> None:
        """The chip's interrupt changes its level."""
        if level:
            self._rise()
        elif self._hit and self._armed.name in ("interrupt-doubled", "interrupt-stuck"):
            self._hit = False
            self._stay_up()
        else:
            self._drive(False)

    def _rise(self) -> None:
        name, hit = self._armed.name, self._point(self._armed)
        self._hit = self._hit or hit
        if hit and name == "interrupt-late":
            self._down = True
            self._scheduler.call_later(self._armed.lasts / 1000, self._release)
        if self._down or (hit and name == "interrupt-lost"):
            self._chip.forget_interrupt()
            return
        self._drive(True)

    def _release(self) -> None:
        if self._down:
            self._down = False
            self._chip.look_at_interrupts()

    def _stay_up(self) -> None:
        self._runs = 1 if self._armed.name == "interrupt-doubled" else max(1, self._armed.lasts)
        if self._armed.name == "interrupt-doubled":
            self._drive(False)
        self._status.read_hook = self._handler_looks
        self._drive(True)

    def _handler_looks(self) -> int:
        assert self._read is not None
        self._runs -= 1
        if self._runs <= 0:
            self._let_go()
        return self._read()

    def _let_go(self) -> None:
        if self._status.read_hook == self._handler_looks:
            self._status.read_hook = self._read
            self._drive(self._chip.interrupting)

    def close(self) -> None:
        """Put the line right."""
        self._let_go()
        self._release()


class Course:
    """What happens from a field on. ``begins`` comes before each, ``begun`` when its lines were taken."""

    def __init__(self, chip: Bt878, armed: Armed) -> None:
        self.chip, self.armed = chip, armed
        self.left = 0  # fields that it still lasts
        self.on = False

    def start(self) -> None:
        """The point has come: just before the field."""
        self.left, self.on = max(1, self.armed.lasts), True
        self.act()

    def act(self) -> None:
        """What it does."""

    def begins(self) -> None:
        """Another field, which may be the point's own."""
        if self.on and self.left == 0:
            self.end()
        self.left -= self.on

    def begun(self) -> None:
        """The field's lines were there."""

    def end(self) -> None:
        """It is over, or taken back."""
        if self.on:
            self.on = False
            self.undo()

    def undo(self) -> None:
        """What puts it right."""


class Lines(Course):
    """Lines of one field are missing; ``keep`` of a block are left."""

    latched = 0

    def act(self) -> None:
        self.chip.spoil = self._cut

    def _cut(self, blocks: Sequence[Block]) -> list[Block]:
        return [Block(block.shot, max(1, block.lines // 2)) for block in blocks]

    def begun(self) -> None:
        if self.on:
            self.chip.latch(self.latched)

    def undo(self) -> None:
        self.chip.spoil = None


class SyncLost(Lines):
    latched = IntStat.HLOCK.mask


class Overrun(Lines):
    latched = IntStat.FBUS.mask


class SignalLost(Course):
    def act(self) -> None:
        self.chip.spoil = lambda blocks: []
        for pin in self.chip.decoder.board.inputs:
            self.chip.decoder.plug(pin.muxsel, False)

    def undo(self) -> None:
        self.chip.spoil = None
        for pin in self.chip.decoder.board.inputs:
            self.chip.decoder.plug(pin.muxsel, True)


class NormChanged(Course):
    def act(self) -> None:
        decoder = self.chip.decoder
        self._before = decoder.norm
        decoder.set_norm("NTSC" if decoder.norm.has_625_lines else "PAL")

    def undo(self) -> None:
        self.chip.decoder.set_norm(self._before)


class RiscError(Course):
    def act(self) -> None:
        self.chip.engine.fetch_error = IntStat.OCERR.mask


class ParityError(Course):
    def act(self) -> None:
        self.chip.inject_parity_error()


class SyncError(Course):
    def begun(self) -> None:
        if self.on:
            self.chip.latch(IntStat.SCERR.mask)


class MasterAbort(Course, NullObserver):
    """An observer of the bus master that refuses the first batch of the field."""

    def act(self) -> None:
        self.chip.bus.observers.insert(0, self)

    def undo(self) -> None:
        self.chip.bus.observers.remove(self)

    def before_write(self, batch: Batch) -> None:
        self.end()
        self.chip.bus.refuse_piece(batch, 0, Abort.UNMAPPED)


COURSES: dict[str, type[Course]] = {
    "sync-lost": SyncLost,
    "signal-lost": SignalLost,
    "norm-changed": NormChanged,
    "risc-error": RiscError,
    "parity-error": ParityError,
    "sync-error": SyncError,
    "fifo-overrun": Overrun,
    "master-abort": MasterAbort,
    "unplug": Course,
    "device-killed": Course,
}


class Stop:
    """Stands before GPIO_DMA_CTL: a write that switches DMA off has no effect yet."""

    def __init__(self, chip: Bt878, armed: Armed, point: Callable[[Armed], bool]) -> None:
        self._chip, self._armed, self._point = chip, armed, point
        self._cell = chip.registers.cell("GPIO_DMA_CTL")
        self._write, self._begin = self._cell.write_hook, chip.clock.begin
        self._off: int | None = None  # the value that was written
        self._left = 0
        self._cell.write_hook = self._written
        chip.clock.begin = self._field

    def _written(self, value: int) -> None:
        assert self._write is not None
        if self._off is not None:
            self._obey()
            self._cell.value = value
        elif self._chip.engine.running and not value & _RISC and self._point(self._armed):
            self._off, self._left = value, max(1, self._armed.lasts)
            self._cell.value = value | _RISC | _FIFO
            return
        self._write(value)

    def _field(self) -> None:
        self._begin()
        self._left -= 1
        if self._off is not None and self._left <= 0:
            self._obey()

    def _obey(self) -> None:
        off, self._off = self._off, None
        if off is not None and self._write is not None:
            self._cell.value = off
            self._write(off)

    def close(self) -> None:
        """Everything as it was."""
        self._obey()
        self._cell.write_hook = self._write
        self._chip.clock.begin = self._begin
