# SPDX-License-Identifier: GPL-2.0-or-later
"""A test run with a fault at its first point, its second, ..., until the fault does not come any more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from vcapdev.errors import GuestError, ViolationError
from vcapdev.testing.faults import ArmedFault
from vcapdev.testing.guest import Guest
from vcapdev.testing.judge import shortfalls, spoilt
from vcapdev.testing.states import State


class Sweep:
    """One fault, swept over a test.

    :param fault: its name.
    :param test: runs the test once.
    :param lasts: how long the fault lasts, None for its default.
    """

    def __init__(
        self, guest: Guest, fault: str, test: Callable[[], object], *, lasts: int | None = None
    ) -> None:
        self._guest, self._fault, self._test, self._lasts = guest, fault, test, lasts

    def run(self, points: int | None = None) -> int:
        """Sweep; what broke the test is raised, with a note that says which fault did, and where.

        :param points: the first so many only.
        :return: how many points the fault came at.
        """
        point = 0
        while points is None or point < points:
            if not self._once(point + 1):
                break
            point += 1
        return point

    def _once(self, point: int) -> bool:
        """One run; whether the fault came."""
        guest = self._guest
        if point > 1:
            self._afresh(point)
        armed = guest.card.fault(self._fault, at=point, lasts=self._lasts)
        try:
            with armed:
                self._test()
            found = shortfalls(guest)
            if found:
                raise ViolationError("\n\n".join(found))
        except BaseException as error:
            error.add_note(self._told(armed))
            raise
        return armed.fired

    def _afresh(self, point: int) -> None:
        """The guest as it was before the run before."""
        guest, name = self._guest, f"{self._fault} at {point}"
        if not spoilt(guest):
            with suppress(GuestError):
                guest.begin(name=name)
            if guest.state is State.SHELL and not guest.has_complained:
                return
        guest.stop()
        guest.transition(State.SHELL)
        guest.begin(name=name)

    def _told(self, armed: ArmedFault) -> str:
        if armed.fired:
            return f"broken by the fault {armed!r}"
        return f"broken without a fault: {self._fault} had not come at its point {armed.at}"
