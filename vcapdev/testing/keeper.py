# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps guests for the tests of one session: those that want the same machine get the same guest.

A guest that died, or that cannot be trusted any more, is replaced when the next test wants one. A machine
that does not come up at all is not waited for a second time. What a guest complains about when no test has it
is the next test's, whichever guest that gets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from vcapdev.errors import GuestError, SetupError, UsageError, VcapdevError
from vcapdev.testing.complaints import Complaint
from vcapdev.testing.config import GuestConfig
from vcapdev.testing.guest import Guest
from vcapdev.testing.states import State

MOST = 2  # guests of one session that are up at a time


class Keeper:
    """The guests of one session; closing it ends them all.

    :param make: a guest, not started yet.
    :param most: how many are kept up; the one that was used longest ago makes room.
    :ivar boots: how many were started.
    """

    def __init__(self, make: Callable[[GuestConfig], Guest], most: int = MOST) -> None:
        self._make, self._most = make, most
        self._guests: OrderedDict[GuestConfig, Guest] = OrderedDict()
        self._hopeless: dict[GuestConfig, VcapdevError] = {}
        self._strays: list[Complaint] = []
        self.boots = 0

    def lease(self, config: GuestConfig, name: str = "") -> Guest:
        """A guest for one test, with everything as ``config`` wants it.

        :raise VcapdevError: there is none to be had, and why; the same again at once for the next test.
        """
        machine = config.machine
        if machine in self._hopeless:
            error = self._hopeless[machine]
            raise _kind(error)(f"as for an earlier test: {error}")
        guest = self._guests.pop(machine, None)
        if guest is not None and (config.fresh or not self._fit(guest, config, name)):
            self._end(guest)
            guest = None
        if guest is None:
            guest = self._start(machine)
            try:
                guest.begin(config, name)
            except BaseException as error:
                for complaint in guest.late():
                    error.add_note(complaint.told)
                self._end(guest)
                raise
        self._guests[machine] = guest
        guest.complaints[:0] = self.strays()
        return guest

    def give_back(self, guest: Guest, *, trusted: bool) -> None:
        """A test has ended. A guest that it has ruined is ended now; the next test gets a fresh one."""
        late = self._hear(guest)
        if late or not trusted or guest.has_complained or guest.state is not State.SHELL:
            for machine in [key for key, value in self._guests.items() if value is guest]:
                del self._guests[machine]
            self._end(guest)

    def expect(self, config: GuestConfig) -> None:
        """The next test wants this: a guest that would only be ended at its start is ended now."""
        if config.fresh and config.machine in self._guests:
            self._end(self._guests.pop(config.machine))

    def strays(self, *, heard: bool = False) -> list[Complaint]:
        """What came when no test had the guest that says it; each is given once.

        :param heard: hear all guests out before.
        """
        if heard:
            for guest in self._guests.values():
                self._hear(guest)
        strays, self._strays = self._strays, []
        return strays

    def close(self) -> None:
        """End all guests."""
        while self._guests:
            self._end(self._guests.popitem()[1])

    def _fit(self, guest: Guest, config: GuestConfig, name: str) -> bool:
        """Whether a guest that other tests have used can be made what this one wants."""
        if guest.state is not State.SHELL:
            return False
        try:
            guest.begin(config, name)
        except GuestError:
            return False
        return not guest.has_complained

    def _hear(self, guest: Guest) -> bool:
        """Note what a guest says that no test has; whether it said anything."""
        late = guest.late()
        self._strays += [replace(one, early=True) for one in late]
        return bool(late)

    def _start(self, machine: GuestConfig) -> Guest:
        while len(self._guests) >= self._most:
            self._end(self._guests.popitem(last=False)[1])
        guest = self._make(machine)
        self.boots += 1
        try:
            guest.transition(State.SHELL)
        except VcapdevError as error:
            self._hopeless[machine] = error
            self._end(guest)
            raise
        except BaseException:
            self._end(guest)
            raise
        return guest

    def _end(self, guest: Guest) -> None:
        self._hear(guest)
        with suppress(GuestError):  # it is gone in any case
            guest.stop()


def _kind(error: VcapdevError) -> type[VcapdevError]:
    """The class that says who is to blame; the particular ones want more than a text."""
    return next(
        (kind for kind in (UsageError, SetupError, GuestError) if isinstance(error, kind)), VcapdevError
    )
