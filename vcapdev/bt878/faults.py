# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that the card commits on demand: one at a time, at a counted point, so that a sweep can try each.

::

    chip --drive--> interrupt line        interrupts: lost, late, doubled, stuck
    clock --begin--> chip                 fields: sync, signal, norm, errors of engine, FIFO and bus
    I2C bus, GPIO_DMA_CTL                 no acknowledge; a stop of DMA that is not obeyed at once

The box stands in these ways only while a fault is armed; otherwise the card does not know of it. Points are
counted from the moment of arming, so the same guest doing the same meets the same points. ``unplug`` and
``device-killed`` are carried out by whoever runs the device process: the card stands still at the point and
tells ``on_point``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vcapdev.bt878.chip import Bt878
from vcapdev.bt878.clock import Scheduler
from vcapdev.bt878.fifo import Block
from vcapdev.bt878.registers import GpioDmaCtl, IntStat
from vcapdev.dma import Abort, Batch, Checkpoint, Program
from vcapdev.errors import UsageError

_RISC, _FIFO = GpioDmaCtl.RISC_ENABLE.mask, GpioDmaCtl.FIFO_ENABLE.mask


class Fault(NamedTuple):
    """One fault: at what kind of point it comes, what happens, and how long it lasts by default."""

    point: str  # "interrupt", "field", "i2c" or "stop"
    doc: str
    lasts: int = 0  # milliseconds of "late", handler runs of "stuck", fields of all others


#: Every fault, by name. Fields count only while the RISC engine runs.
FAULTS = {
    "interrupt-lost": Fault("interrupt", "the line rises and nobody notices; the next cause raises it again"),
    "interrupt-late": Fault("interrupt", "the line rises later", 200),
    "interrupt-doubled": Fault(
        "interrupt", "after the handler has run the line rises again, without a cause"
    ),
    "interrupt-stuck": Fault(
        "interrupt", "the line stays up without a cause, for some runs of the handler", 20
    ),
    "sync-lost": Fault("field", "lock is lost within a field: its second half is missing"),
    "signal-lost": Fault("field", "the cable is pulled and put back: no lines, no presence", 40),
    "norm-changed": Fault("field", "the camera sends the other number of lines for a while", 4),
    "risc-error": Fault("field", "OCERR: the engine meets an illegal instruction, and stops"),
    "parity-error": Fault("field", "RIPERR: a fetched instruction is damaged, and the engine stops"),
    "sync-error": Fault("field", "SCERR: lines and program are out of step"),
    "fifo-overrun": Fault("field", "FBUS: the bus is not granted, the rest of a field's lines is lost"),
    "master-abort": Fault("field", "PABORT: a write is refused by the bus, and the engine stops"),
    "i2c-nack": Fault("i2c", "nobody acknowledges an address on the I2C bus"),
    "dma-stop-ignored": Fault("stop", "DMA goes on for some fields after it was switched off", 2),
    "unplug": Fault("field", "the card is pulled out of its slot while it works"),
    "device-killed": Fault("field", "the device process is killed, and another one started"),
}
#: Those that the runner of the device process carries out.
BY_RUNNER = ("unplug", "device-killed")


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


class FaultBox:
    """The faults of one chip.

    :param on_point: told of a fault that the runner has to carry out; the clock is frozen then.
    :ivar armed: the fault that is armed, or was last; None when there is none.
    """

    def __init__(self, chip: Bt878, scheduler: Scheduler, on_point: Callable[[Armed], None]) -> None:
        self._chip, self._scheduler, self._on_point = chip, scheduler, on_point
        self.armed: Armed | None = None
        self._undo: list[Callable[[], None]] = []

    def arm(self, name: str, at: int = 1, lasts: int | None = None) -> Armed:
        """Commit a fault at its ``at``-th point from now on; another that was armed is taken back.

        :raise UsageError: there is no such fault.
        """
        if name not in FAULTS:
            raise UsageError(f"no fault {name!r}; there are {', '.join(FAULTS)}")
        self.disarm()
        fault = FAULTS[name]
        armed = self.armed = Armed(name, at, fault.lasts if lasts is None else lasts)
        acts: dict[str, Callable[[Armed], None]] = {
            "interrupt": self._arm_interrupt,
            "field": self._arm_field,
            "i2c": self._arm_i2c,
            "stop": self._arm_stop,
        }
        acts[fault.point](armed)
        return armed

    def disarm(self) -> None:
        """Take back what is armed, and put everything right that it has left."""
        self.armed = None
        while self._undo:
            self._undo.pop()()

    def _point(self, armed: Armed) -> bool:
        """A point has come; whether it is the one."""
        armed.seen += 1
        if armed.fired or armed.seen != armed.at:
            return False
        armed.fired = True
        return True

    # Interrupts.

    def _arm_interrupt(self, armed: Armed) -> None:
        line = _Line(self._chip, self._scheduler, armed, self._point)
        before = self._chip.drive
        self._chip.drive = line.drive

        def undo() -> None:
            self._chip.drive = before
            line.close()

        self._undo.append(undo)

    # Fields.

    def _arm_field(self, armed: Armed) -> None:
        clock, before = self._chip.clock, self._chip.clock.begin
        course = _COURSES[armed.name](self._chip, armed)

        def begin() -> None:
            if not self._chip.engine.running:
                before()
                return
            if self._point(armed):
                if armed.name in BY_RUNNER:
                    clock.freeze()
                    self._on_point(armed)
                else:
                    course.start()
            course.begins()
            before()
            course.begun()

        def undo() -> None:
            clock.begin = before
            course.end()
            if armed.name in BY_RUNNER and armed.fired:
                clock.thaw()

        clock.begin = begin
        self._undo.append(undo)

    # I2C.

    def _arm_i2c(self, armed: Armed) -> None:
        bus = self._chip.i2c.bus

        def undo() -> None:
            bus.refuses = None

        bus.refuses = lambda byte: self._point(armed)
        self._undo.append(undo)

    # Stopping.

    def _arm_stop(self, armed: Armed) -> None:
        stop = _Stop(self._chip, armed, self._point)
        self._undo.append(stop.close)


class _Line:
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


class _Course:
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


class _Lines(_Course):
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


class _SyncLost(_Lines):
    latched = IntStat.HLOCK.mask


class _Overrun(_Lines):
    latched = IntStat.FBUS.mask


class _SignalLost(_Course):
    def act(self) -> None:
        self.chip.spoil = lambda blocks: []
        for pin in self.chip.decoder.board.inputs:
            self.chip.decoder.plug(pin.muxsel, False)

    def undo(self) -> None:
        self.chip.spoil = None
        for pin in self.chip.decoder.board.inputs:
            self.chip.decoder.plug(pin.muxsel, True)


class _NormChanged(_Course):
    def act(self) -> None:
        decoder = self.chip.decoder
        self._before = decoder.norm
        decoder.set_norm("NTSC" if decoder.norm.has_625_lines else "PAL")

    def undo(self) -> None:
        self.chip.decoder.set_norm(self._before)


class _RiscError(_Course):
    def act(self) -> None:
        self.chip.engine.fetch_error = IntStat.OCERR.mask


class _ParityError(_Course):
    def act(self) -> None:
        self.chip.inject_parity_error()


class _SyncError(_Course):
    def begun(self) -> None:
        if self.on:
            self.chip.latch(IntStat.SCERR.mask)


class _MasterAbort(_Course):
    """An observer of the bus master that refuses the first batch of the field."""

    def act(self) -> None:
        self.chip.bus.observers.insert(0, self)

    def undo(self) -> None:
        self.chip.bus.observers.remove(self)

    def before_write(self, batch: Batch) -> None:
        self.end()
        self.chip.bus.refuse_piece(batch, 0, Abort.UNMAPPED)

    def program(self, program: Program) -> None:
        pass

    def gone(self, program_id: int) -> None:
        pass

    def after_write(self, batch: Batch) -> None:
        pass

    def device_read(self, addr: int, length: int, origin: int) -> None:
        pass

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        pass

    def checkpoint(self, what: Checkpoint) -> None:
        pass


_COURSES: dict[str, type[_Course]] = {
    "sync-lost": _SyncLost,
    "signal-lost": _SignalLost,
    "norm-changed": _NormChanged,
    "risc-error": _RiscError,
    "parity-error": _ParityError,
    "sync-error": _SyncError,
    "fifo-overrun": _Overrun,
    "master-abort": _MasterAbort,
    "unplug": _Course,
    "device-killed": _Course,
}


class _Stop:
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
