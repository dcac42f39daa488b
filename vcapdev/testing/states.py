# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of a guest, and the ways between them.

::

            boot           wait
     off ---------> booting ---------> shell
      ^                |                 |
      |                v      died       |
      |             crashed <------------|
      '----------------'-----------------'
                     stop

Pure: what a way does is told by whoever has the guest. A failure is remembered with its reason, so that
nobody waits for a dead guest a second time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum

from vcapdev.errors import GuestError, VcapdevError

Way = tuple["State", "State"]


class State(StrEnum):
    """Where a guest stands."""

    OFF = "off"
    BOOTING = "booting"
    SHELL = "shell"  # its agent answers
    CRASHED = "crashed"


#: All ways that can be gone on purpose.
WAYS: tuple[Way, ...] = (
    (State.OFF, State.BOOTING),
    (State.BOOTING, State.SHELL),
    (State.BOOTING, State.OFF),
    (State.SHELL, State.OFF),
    (State.CRASHED, State.OFF),
)


class GuestStateError(GuestError):
    """The guest is not in the state that is needed."""


class StateMachine:
    """Where a guest stands, and how it came there.

    :param actions: what to do on each of :data:`WAYS`; it raises when it fails.
    :ivar why: what it died of, "" while it has not.
    """

    def __init__(self, actions: Mapping[Way, Callable[[], None]]) -> None:
        missing = [way for way in WAYS if way not in actions]
        if missing or len(actions) != len(WAYS):
            raise ValueError(f"an action for each way is needed, and no other; missing: {missing}")
        self._actions = dict(actions)
        self._state = State.OFF
        self.why = ""

    @property
    def state(self) -> State:
        """Where it stands now."""
        return self._state

    def transition(self, goal: State | str) -> None:
        """Go to ``goal`` over whatever lies between; nothing happens when it is there.

        A way that fails ends in "crashed" (one to "off" still ends in "off"), and its error is raised.

        :raise GuestStateError: no way leads there on purpose.
        """
        goal = State(goal)
        for step in self._path(goal):
            self._go(step)

    def died(self, why: str) -> None:
        """Notice its end; the first reason is kept."""
        if self._state is State.OFF:
            return
        if self._state is not State.CRASHED:
            self.why = why
        self._state = State.CRASHED

    def require(self, state: State | str) -> None:
        """Refuse at once where the guest is not in that state.

        :raise GuestStateError: with where it is, and what it died of.
        """
        if self._state is not State(state):
            reason = f": {self.why}" if self._state is State.CRASHED and self.why else ""
            raise GuestStateError(f"the guest is {self._state}, not {State(state)}{reason}")

    def _path(self, goal: State) -> list[Way]:
        """The shortest list of ways from here."""
        paths: deque[tuple[State, list[Way]]] = deque([(self._state, [])])
        seen = {self._state}
        while paths:
            place, path = paths.popleft()
            if place is goal:
                return path
            for way in WAYS:
                if way[0] is place and way[1] not in seen:
                    seen.add(way[1])
                    paths.append((way[1], [*path, way]))
        raise GuestStateError(f"no way leads from {self._state} to {goal} on purpose")

    def _go(self, way: Way) -> None:
        if way[1] is State.OFF:
            try:
                self._actions[way]()
            finally:
                self._state, self.why = State.OFF, ""
            return
        try:
            if way[1] is State.BOOTING:
                self._state = State.BOOTING
            self._actions[way]()
        except BaseException as error:
            self.died(str(error) if isinstance(error, VcapdevError) else type(error).__name__)
            raise
        self._state = way[1]
