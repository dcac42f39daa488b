# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that a test has the card commit: one at a counted point, or all of them one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vcapdev.bt878.faults import FAULTS
from vcapdev.errors import UsageError
from vcapdev.testing.config import did_you_mean

if TYPE_CHECKING:
    from vcapdev.testing.card import Card

Json = dict[str, Any]
ALL = tuple(FAULTS)


def check_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Names of faults; all where there is none.

    :raise UsageError: one that is no fault.
    """
    for name in names:
        if name not in FAULTS:
            raise UsageError(f"{where}: there is no fault {name!r}{did_you_mean(str(name), ALL)}")
    return tuple(names) or ALL


class ArmedFault:
    """A fault for the length of a ``with`` block; made by ``card.fault(...)``.

    :ivar name: one of :data:`vcapdev.bt878.faults.FAULTS`; ``at``: at which of its points it comes, from 1.
    """

    def __init__(self, card: Card, name: str, at: int = 1, lasts: int | None = None) -> None:
        check_names([name], "card.fault")
        if not isinstance(at, int) or isinstance(at, bool) or at < 1:
            raise UsageError(f"card.fault({name!r}): at={at!r}: points are counted from 1")
        self.name, self.at = name, at
        self._card = card
        self._lasts: Json = {} if lasts is None else {"lasts": lasts}
        self._status: Json = {}
        self._on = False

    def __enter__(self) -> ArmedFault:
        self._status = self._card.call("fault", fault=self.name, at=self.at, **self._lasts)
        self._on = True
        self._card.armed = self
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        self._on, self._card.armed = False, None
        if self._card.there:
            self._card.call("fault", fault=None)

    @property
    def fired(self) -> bool:
        """Whether its point has come."""
        self._look()
        return bool(self._status.get("fired"))

    @property
    def seen(self) -> int:
        """How many of its points have come so far."""
        self._look()
        return int(self._status.get("seen", 0))

    def carried_out(self, event: Json) -> None:
        """The card has told that the point has come of a fault that the runner carries out."""
        self._status = {**event, "fired": True}

    def __repr__(self) -> str:
        return f"{self.name} at its point {self.at} ({FAULTS[self.name].doc})"

    def _look(self) -> None:
        if self._on and not self._status.get("fired") and self._card.there:
            status = self._card.call("fault")
            if status.get("fault") == self.name:  # else the device is another one by now
                self._status = status
