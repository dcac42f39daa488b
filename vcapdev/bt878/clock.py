# SPDX-License-Identifier: GPL-2.0-or-later
"""When fields begin and end. Nothing else in the card looks at the time.

::

    begin                                   end     begin
      |  lines, as fast as they can be moved  |        |
      |----|..................................|........|----
           ^ interrupt          field period  ^        ^
                                              VRO/VRE  the next field, at once

Lines come early and the VRO or VRE only when the field's time is over, so that a slow guest has most of the
period for its handler. Modes:

``paced``  real field rate, but neither "end" nor "begin" comes before the guest has finished its interrupt
           handler: it read INT_STAT with no unmasked bit set. After 500 ms the wait is given up and counted.
``real``   free running, as the hardware is.
``fast``   the handshake of ``paced`` without the field rate; at field rate while nothing is captured.
``step``   a test moves it field by field; the handshake is kept.

Two interrupts of one field (bttv's VBI program and its video program end in one each) must not become one:
the status flags of the first would be overwritten before the handler sees them. The card holds the second
back until the first was handled, in every mode; the chip says with ``held`` that it may go on, and does in
``resume``. The end of the field ends such a wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vcapdev.errors import UsageError

MODES = ("paced", "real", "fast", "step")
HANDLER_SECONDS = 0.5
_HELD_UP_SECONDS = 0.05
_STEPS_AT_ONCE = 64  # of many steps, the rest are taken one by one, so that others get their turn


class Timer(Protocol):
    """Something that was scheduled."""

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """Where time comes from; ``vcapdev.vfiouser.reactor.Reactor`` is one."""

    def now(self) -> float: ...
    def call_at(self, when: float, fn: Callable[[], None], /) -> Timer: ...
    def call_later(self, delay: float, fn: Callable[[], None], /) -> Timer: ...


class Clock:
    """Calls ``begin`` and ``end`` of each field in turn.

    :param period: seconds of a field, asked for each one.
    :param busy: whether anything is captured, for ``fast``.
    :param held: whether the chip has held an interrupt back and may raise it now; then ``resume`` is called.
    :ivar begin: called when a field begins; a fault may stand in its place.
    :ivar timeouts: handlers that were not awaited any longer.
    :ivar late: fields that began more than a period late, so that the time-line was moved.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        begin: Callable[[], None],
        end: Callable[[], None],
        period: Callable[[], float],
        busy: Callable[[], bool],
        mode: str = "paced",
        *,
        held: Callable[[], bool] = lambda: False,
        resume: Callable[[], None] = lambda: None,
    ) -> None:
        self._scheduler = scheduler
        self.begin, self._end = begin, end
        self._period, self._busy = period, busy
        self._held, self._resume = held, resume
        self._mode = _checked(mode)
        self._inside = False  # between begin and end
        self._awaiting = False
        self._deadline: Timer | None = None
        self._timer: Timer | None = None
        self._running = False  # within begin or end
        self._start = self._due = scheduler.now()
        self._stopped = False
        self._frozen: float | None = None  # since when time stands still
        self.steps = 0
        """Fields that :meth:`step` still owes."""
        self.timeouts = 0
        self.late = 0
        self._plan()

    @property
    def mode(self) -> str:
        """One of :data:`MODES`.

        :raise UsageError: on assignment of anything else.
        """
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode = _checked(mode)
        self.steps = 0
        self.kick()

    @property
    def awaiting(self) -> bool:
        """Whether the next event waits for the guest's interrupt handler."""
        return self._awaiting and self._mode != "real"

    def kick(self) -> None:
        """Circumstances have changed (DMA was switched on): decide again when the next event is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._running:
            self._plan()

    def stop(self) -> None:
        """No more fields, ever."""
        self._stopped = True
        self._drop_timers()

    def freeze(self) -> None:
        """Time stands still for the card, as it does for a guest that is stopped: until :meth:`thaw`.

        No field begins or ends, and no handler is given up. Harmless when repeated.
        """
        if self._frozen is None:
            self._frozen = self._scheduler.now()
            self._drop_timers()

    def thaw(self) -> None:
        """Time goes on where it stood."""
        if self._frozen is None:
            return
        lost, self._frozen = self._scheduler.now() - self._frozen, None
        self._start += lost
        self._due += lost
        if self._awaiting and not self._stopped:
            self._arm()
        self._plan()

    def _drop_timers(self) -> None:
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        self._timer = self._deadline = None

    def step(self, fields: int = 1) -> None:
        """In mode ``step``: end the present field and begin the next, ``fields`` times.

        What the handshake holds back is done as soon as it allows; until then :attr:`steps` is not 0.

        :raise UsageError: in another mode.
        """
        if self._mode != "step":
            raise UsageError(f"the clock is {self._mode}: set it to step before stepping it")
        self.steps += fields
        budget = _STEPS_AT_ONCE
        while budget and self.steps and not self.awaiting and not self._running and self._frozen is None:
            budget -= 1
            self._advance()
        self.kick()

    # The handshake.

    def expect_handler(self) -> None:
        """An unmasked interrupt was raised: the guest's handler will run."""
        if self._stopped:
            return
        self._awaiting = True
        if self._deadline is None and self._frozen is None:
            self._arm()

    def handler_done(self) -> None:
        """The handler has finished, or was told not to run."""
        if not self._awaiting:
            return
        self._awaiting = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._held():
            self.kick()
        elif not self._running:
            self._plan()

    def _arm(self) -> None:
        when = self._scheduler.now() + HANDLER_SECONDS
        self._deadline = self._scheduler.call_at(when, lambda: self._give_up(when))

    def _give_up(self, when: float) -> None:
        self._deadline = None
        if self._scheduler.now() > when + _HELD_UP_SECONDS:
            # It was this process that stood still, the guest with it perhaps: it has another chance.
            self._arm()
            return
        if self.awaiting:
            self.timeouts += 1
        self.handler_done()

    # Fields.

    def _plan(self) -> None:
        if self._timer is not None or self._stopped or self._frozen is not None or self.awaiting:
            return
        held = self._held()
        if self._mode == "step" and not self.steps and not held:
            return
        at_once = held or self._mode == "step" or (self._mode == "fast" and self._busy())
        now = self._scheduler.now()
        self._timer = self._scheduler.call_at(now if at_once else max(now, self._due), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self.awaiting:  # an interrupt may have come since this was planned
            self._advance()
        self._plan()

    def _advance(self) -> None:
        """What was held back; else the end of the field, and the next unless an interrupt comes between."""
        self._running = True
        try:
            if self._held():
                self._resume()
                return
            if self._inside:
                self._inside = False
                self._end()
                self._due = self._scheduler.now()
            if not self.awaiting and self._frozen is None:
                self._move_on()
                self._inside = True
                self.begin()
        finally:
            self._running = False

    def _move_on(self) -> None:
        now, period = self._scheduler.now(), self._period()
        following = self._start + period
        if now - following > period:
            self.late += self._mode == "real"
            following = now
        self._start = min(following, now)
        self._due = self._start + period
        self.steps -= self._mode == "step"


def _checked(mode: str) -> str:
    if mode not in MODES:
        raise UsageError(f"the clock has no mode {mode!r}; it has {', '.join(MODES)}")
    return mode
