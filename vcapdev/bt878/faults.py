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

from collections.abc import Callable
from typing import NamedTuple

from vcapdev.bt878.chip import Bt878
from vcapdev.bt878.clock import Scheduler
from vcapdev.bt878.faulty import COURSES, Armed, Line, Stop
from vcapdev.errors import UsageError


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
        line = Line(self._chip, self._scheduler, armed, self._point)
        before = self._chip.drive
        self._chip.drive = line.drive

        def undo() -> None:
            self._chip.drive = before
            line.close()

        self._undo.append(undo)

    # Fields.

    def _arm_field(self, armed: Armed) -> None:
        clock, before = self._chip.clock, self._chip.clock.begin
        course = COURSES[armed.name](self._chip, armed)

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
        stop = Stop(self._chip, armed, self._point)
        self._undo.append(stop.close)
