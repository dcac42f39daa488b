# SPDX-License-Identifier: GPL-2.0-or-later
"""What the card wrote into the guest's memory, and what the checker says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vcapdev.errors import InconclusiveError, UsageError, ViolationError
from vcapdev.report.model import Verdict
from vcapdev.testing.config import did_you_mean

if TYPE_CHECKING:
    from vcapdev.testing.card import Card

Json = dict[str, Any]


class Dma:
    """What the card wrote, and what the checker says of it."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._excused: dict[str, int] = {}  # key of a finding: how often it has come and was expected
        self.looked = False  # whether the test has looked at the findings itself

    def reset(self) -> None:
        """Another test begins."""
        self._excused = {}
        self.looked = False

    @property
    def verdicts(self) -> list[Verdict]:
        """All findings since the test's begin, those that were expected among them."""
        self.looked = True
        return self._verdicts()

    @property
    def unexpected(self) -> list[Verdict]:
        """Findings that no ``expect_violation`` has met."""
        return [
            verdict for verdict in self._verdicts() if verdict.count > self._excused.get(_key(verdict), 0)
        ]

    @property
    def log(self) -> list[str]:
        """The last transfers, a line each, oldest first (at most 4096)."""
        return list(self._card.call("dma-log", last=4096)["lines"])

    @property
    def status(self) -> Json:
        """The checker's figures since the test's begin (docs/control.md, ``check-status``)."""
        return self._card.call("check-status")

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
        if not status.get("attached"):
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
        return [Verdict.from_checker(each) for each in self._card.call("verdicts")["verdicts"]]

    def _counts(self) -> dict[str, int]:
        return {_key(verdict): verdict.count for verdict in self._verdicts()}

    def _new(self, before: Mapping[str, int]) -> list[Verdict]:
        return [verdict for verdict in self._verdicts() if verdict.count > before.get(_key(verdict), 0)]


def told(verdicts: Sequence[Verdict]) -> str:
    """Findings in words: the first in full, the rest in a line each."""
    count = "1 finding" if len(verdicts) == 1 else f"{len(verdicts)} findings"
    rest = [f"  {_key(verdict)} ({verdict.count} times)" for verdict in verdicts[1:]]
    return "\n".join([f"{count} came:", verdicts[0].splat.rstrip(), *rest])


def _key(verdict: Verdict) -> str:
    return verdict.splat.partition("\n")[0]


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _check_rule(name: str) -> None:
    from vcapdev.dmacheck.rules import ALL_RULES

    known = [rule.name for rule in ALL_RULES]
    if name not in known:
        raise UsageError(f"expect_violation: there is no rule {name!r}{did_you_mean(name, known)}")
