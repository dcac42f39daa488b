# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest's kernel complained about, or the checker found, and what of it a test allows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vcapdev.dmacheck.rules import ALL_RULES
from vcapdev.errors import UsageError, ViolationError
from vcapdev.report.model import Verdict
from vcapdev.testing.config import did_you_mean
from vcapdev.vm.kernel_log import KINDS
from vcapdev.vm.watch import GuestCrash

_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")
#: What ``vm.watch`` reports beside the kinds of the kernel log.
_ENDS = ("reset", "shutdown")
_CHECKER = "the checker found"


@dataclass(frozen=True)
class Complaint:
    """An oops, a WARNING, a report of lockdep, ....

    :ivar kind: one of ``vcapdev.vm.kernel_log.KINDS``, or "reset" or "shutdown".
    :ivar title: the line that tells it.
    :ivar text: its slice of the kernel log.
    :ivar fatal: whether the guest runs no more.
    :ivar early: whether it came before the test that is told of it began.
    :ivar who: who says it, the beginning of a sentence.
    """

    kind: str
    title: str
    text: str
    fatal: bool
    early: bool = False
    who: str = "the guest's kernel complained"

    @classmethod
    def of(cls, crash: GuestCrash) -> Complaint:
        """As the guest's watcher tells it."""
        return cls(crash.kind, crash.title, crash.kernel_log, crash.fatal)

    @classmethod
    def found(cls, verdict: Verdict) -> Complaint:
        """A finding of the checker; its kind is the rule's name."""
        title, _, rest = verdict.splat.rstrip().partition("\n")
        return cls(verdict.rule, title, rest, fatal=False, who=_CHECKER)

    @property
    def finding(self) -> bool:
        """Whether the checker says it, and not the kernel."""
        return self.who == _CHECKER

    @property
    def told(self) -> str:
        """In words, for the report of a test."""
        when = " before this test began" if self.early else ""
        return f"{self.who}{when} ({self.kind}): {self.title}\n{self.text}".rstrip()

    def allowed(self, patterns: Sequence[str]) -> bool:
        """Whether a test allows it. The death of the guest never is, nor what was another test's to allow."""
        return not self.fatal and not self.early and self.matches(patterns)

    def matches(self, patterns: Sequence[str]) -> bool:
        """Whether one of them means it: by its kind, or by a glob over its title."""
        return any(pattern == self.kind or fnmatchcase(self.title, pattern) for pattern in patterns)


def check_pattern(word: str) -> str:
    """A word of ``allow``: a name alone must be a kind of complaint or a rule; anything else is a glob.

    :raise ValueError: a name that is neither.
    """
    known = [*dict.fromkeys(kind.name for kind in KINDS), *_ENDS, *(rule.name for rule in ALL_RULES)]
    if _NAME.match(word) and word not in known:
        raise ValueError(f"{word!r} is no kind of complaint and no rule{did_you_mean(word, known)}")
    return word


def expected(words: Sequence[str]) -> list[str]:
    """Patterns of ``expect_complaint``, checked.

    :raise UsageError: one that is no kind of complaint.
    """
    try:
        return [check_pattern(word) for word in words]
    except ValueError as error:
        raise UsageError(f"expect_complaint: {error}") from None


def unexpected(came: Sequence[Complaint], wanted: Sequence[str]) -> list[Complaint]:
    """Of what came, that which none of ``wanted`` means.

    :raise ViolationError: one of ``wanted`` did not come.
    """
    missing = [word for word in wanted if not any(one.matches([word]) for one in came)]
    if missing:
        said = ", ".join(one.title for one in came) or "nothing"
        raise ViolationError(
            f"expected the guest's kernel to complain ({', '.join(missing)}); it said: {said}"
        )
    return [one for one in came if not one.matches(wanted)]
