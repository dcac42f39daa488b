# SPDX-License-Identifier: GPL-2.0-or-later
"""What the card wrote into the guest's memory, and what the checker says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vcapdev.errors import GuestError, InconclusiveError, UsageError, ViolationError
from vcapdev.report.model import Verdict
from vcapdev.testing.config import did_you_mean

if TYPE_CHECKING:
    from vcapdev.testing.card import Card

Json = dict[str, Any]
_ADDED = ("pages_checked", "unchecked_writes", "defects")


class Dma:
    """What the card wrote, and what the checker says of it."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._excused: dict[str, int] = {}  # key of a finding: how often it has come and was expected
        self._seen: dict[str, int] = {}  # the same: how often somebody has been told of it
        self._kept: list[Verdict] = []  # findings of device processes that have ended
        self._figures: Json = {}  # and their checkers'
        self._ended = False
        self.looked = False  # whether the test has looked at the findings itself

    def reset(self) -> None:
        """Another test begins."""
        self._excused, self._seen = {}, {}
        self._kept, self._figures = [], {}
        self.looked = False

    def device_ends(self) -> None:
        """The device process is about to end: what it has found is kept until the next test begins."""
        with suppress(GuestError):
            self._card.call("settle", final=False)  # looks at what was given back a moment ago
            self._kept, self._figures = self._verdicts(), self.status
        self._ended = True

    def device_begins(self) -> None:
        """Another device process is there."""
        self._ended = False

    def keep(self, verdicts: Sequence[Verdict]) -> None:
        """Take over findings of a card that goes."""
        self._kept = _merged(self._kept, verdicts)

    @property
    def verdicts(self) -> list[Verdict]:
        """All findings since the test's begin, those that were expected among them."""
        self.looked = True
        return self._told(self._verdicts())

    @property
    def unexpected(self) -> list[Verdict]:
        """Findings that no ``expect_violation`` has met."""
        return self._told(_beyond(self._excused, self._verdicts()))

    @property
    def unseen(self) -> list[Verdict]:
        """Those of them that nobody has been told of yet: each is given once."""
        return self._told(_beyond(self._seen, _beyond(self._excused, self._verdicts())))

    def peek(self) -> list[Verdict]:
        """All findings since the test's begin, without that counting as the test's looking at them."""
        return self._verdicts()

    @property
    def log(self) -> list[str]:
        """The last transfers, a line each, oldest first (at most 4096)."""
        return list(self._card.call("dma-log", last=4096)["lines"])

    @property
    def status(self) -> Json:
        """The checker's figures since the test's begin (docs/control.md, ``check-status``).

        Pages, unchecked writes and defects of device processes that were replaced are added.
        """
        if self._ended:
            return dict(self._figures)
        status = self._card.call("check-status")
        before = {name: self._figures[name] for name in _ADDED if name in self._figures}
        return status | {name: value + status.get(name, type(value)()) for name, value in before.items()}

    @property
    def pages_checked(self) -> int:
        """Pages that were judged, each as often as it was."""
        return int(self.status.get("pages_checked", 0))

    @property
    def running(self) -> bool:
        """Whether the RISC engine may read and write memory now."""
        return bool(self._card.stats()["dma_running"])

    def frame(self) -> Json:
        """The last frame sent: its fields, and the state of the page under each run of bytes."""
        return self._card.call("frame")

    def assert_clean(self, *, at_least: int = 1) -> None:
        """Every write went to a page that the card was entitled to, and every pin was given back.

        Pins are judged when no program of the test's is running any more: then all must be back.

        :param at_least: pages that must have been judged, or nothing was proven.
        :raise ViolationError: with the findings.
        :raise InconclusiveError: the checker could not look at all, or at too little.
        """
        self.looked = True
        self._card.settle()
        found = self.unexpected
        if found:
            raise ViolationError(told(found))
        status = self.status
        if status.get("defects"):
            raise InconclusiveError(f"a defect of the checker: {status['defects'][0]}")
        if self._card.there and not status.get("attached"):  # of one that was unplugged the figures are left
            raise InconclusiveError(f"nothing was checked: {status.get('why_not') or 'no reason is known'}")
        if status.get("unchecked_writes"):
            raise InconclusiveError(f"{status['unchecked_writes']} writes came before the checker could look")
        if int(status.get("pages_checked", 0)) < at_least:
            raise InconclusiveError(
                f"only {status.get('pages_checked', 0)} pages were judged, so a clean result proves nothing;"
                f" {at_least} were asked for (assert_clean(at_least=...))"
            )

    @contextmanager
    def expect_violation(self, *rules: str, also: Sequence[str] = ()) -> Iterator[None]:
        """Within the block each of ``rules`` must be violated, and no other but those of ``also``.

        Findings that were expected do not count for :meth:`assert_clean`, nor fail the test.

        :raise UsageError: no such rule.
        :raise ViolationError: one did not come, or another came.
        """
        for rule in (*rules, *also):
            _check_rule(rule)
        before = self._counts()
        yield
        self._card.settle(until=lambda: set(rules) <= {one.rule for one in self._new(before)})
        new = self._new(before)
        came = {verdict.rule for verdict in new}
        strange = [verdict for verdict in new if verdict.rule not in (*rules, *also)]
        self._excused |= {_key(verdict): verdict.count for verdict in new if verdict.rule in (*rules, *also)}
        if strange:
            raise ViolationError(f"expected {_and(rules) or 'no violation'}, but " + told(strange))
        missing = [rule for rule in rules if rule not in came]
        if missing:
            raise ViolationError(
                f"expected {_and(missing)}, but it did not come"
                f" ({self.pages_checked} pages were judged{', and ' + _and(sorted(came)) if came else ''})"
            )

    def _verdicts(self) -> list[Verdict]:
        if self._ended:
            return list(self._kept)
        found = [Verdict.from_checker(each) for each in self._card.call("verdicts")["verdicts"]]
        return _merged(self._kept, found)

    def _told(self, verdicts: list[Verdict]) -> list[Verdict]:
        self._seen |= {_key(verdict): verdict.count for verdict in verdicts}
        return verdicts

    def _counts(self) -> dict[str, int]:
        return {_key(verdict): verdict.count for verdict in self._verdicts()}

    def _new(self, before: Mapping[str, int]) -> list[Verdict]:
        return _beyond(before, self._verdicts())


def told(verdicts: Sequence[Verdict]) -> str:
    """Findings in words: the first in full, the rest in a line each."""
    count = "1 finding" if len(verdicts) == 1 else f"{len(verdicts)} findings"
    rest = [f"  {_key(verdict)} ({verdict.count} times)" for verdict in verdicts[1:]]
    return "\n".join([f"{count} came:", verdicts[0].splat.rstrip(), *rest])


def _beyond(counts: Mapping[str, int], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that have come more often than counted."""
    return [verdict for verdict in verdicts if verdict.count > counts.get(_key(verdict), 0)]


def _merged(first: Sequence[Verdict], second: Sequence[Verdict]) -> list[Verdict]:
    """Findings of two checkers: what both have found is one, and has come as often as both say."""
    found = {_key(verdict): verdict for verdict in first}
    for verdict in second:
        before = found.get(_key(verdict))
        count = verdict.count + (before.count if before else 0)
        found[_key(verdict)] = replace(before or verdict, count=count)
    return list(found.values())


def _key(verdict: Verdict) -> str:
    return verdict.splat.partition("\n")[0]


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _check_rule(name: str) -> None:
    from vcapdev.dmacheck.rules import ALL_RULES

    known = [rule.name for rule in ALL_RULES]
    if name not in known:
        raise UsageError(f"expect_violation: there is no rule {name!r}{did_you_mean(name, known)}")
