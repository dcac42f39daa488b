# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest's kernel complained about during a test, and which complaints a test allows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vcapdev.dmacheck.rules import ALL_RULES
from vcapdev.testing.config import did_you_mean
from vcapdev.vm.kernel_log import KINDS
from vcapdev.vm.watch import GuestCrash

_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")
#: What ``vm.watch`` reports beside the kinds of the kernel log.
_ENDS = ("reset", "shutdown")


@dataclass(frozen=True)
class Complaint:
    """An oops, a WARNING, a report of lockdep, ....

    :ivar kind: one of ``vcapdev.vm.kernel_log.KINDS``, or "reset" or "shutdown".
    :ivar title: the line that tells it.
    :ivar text: its slice of the kernel log.
    :ivar fatal: whether the guest runs no more.
    """

    kind: str
    title: str
    text: str
    fatal: bool

    @classmethod
    def of(cls, crash: GuestCrash) -> Complaint:
        """As the guest's watcher tells it."""
        return cls(crash.kind, crash.title, crash.kernel_log, crash.fatal)

    def allowed(self, patterns: Sequence[str]) -> bool:
        """Whether a test allows it. The death of the guest never is."""
        return not self.fatal and self.matches(patterns)

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
