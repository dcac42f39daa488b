# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict: which rule was broken, by what, on which page, and everything that is known about that page."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any
from zlib import crc32

from vcapdev.dma import Origin
from vcapdev.dmacheck.rules import Rule
from vcapdev.dmacheck.splat import WIDTH, splat
from vcapdev.guestmm.pageview import PageView


@dataclass(frozen=True)
class Target:
    """What part of the buffer was hit: byte offsets from the first byte that the program writes.

    ``page`` of ``pages`` counts the program's pages in the order in which it reaches them.
    """

    program: int
    program_address: int
    page: int
    pages: int
    first: int
    last: int


@dataclass(frozen=True)
class Sight:
    """The state of a page at an earlier look, one line of its history."""

    when: str
    state: str


@dataclass
class Evidence:
    """What was found out about the page, in lines of text.

    ``owner_*`` has one line for each mapping, ``buffer`` one for each buffer of a media framework that lists
    the page, ``held_by`` tells what its reference count is made of; ``allocated`` and ``freed`` are what
    page_owner knows, and empty on kernels without it. A rule may add ``notes``.
    """

    before: PageView | None = None
    after: PageView | None = None
    now: PageView | None = None
    history: list[Sight] = field(default_factory=list)
    owner_then: list[str] = field(default_factory=list)
    owner_now: list[str] = field(default_factory=list)
    buffer: list[str] = field(default_factory=list)
    held_by: list[str] = field(default_factory=list)
    allocated: list[str] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: bool = False


@dataclass
class Verdict:
    """One finding. ``count`` grows when the same is found again; the rest is of the first time.

    ``address`` is the bus address of the first byte in question, ``pfn`` its page frame; both are -1 where
    no page is known.
    """

    rule: Rule
    subject: str
    pfn: int
    address: int
    origin: Origin | None
    target: Target | None
    evidence: Evidence
    pages: int = 1
    count: int = 1

    @property
    def key(self) -> str:
        """The first line of the splat: equal for findings that are the same."""
        return key_of(self.rule, self.subject)

    def splat(self) -> str:
        """At most a screen of text; the first line serves to recognise repetitions."""
        return splat(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the form that the report documents."""
        evidence = self.evidence
        views = {"before": evidence.before, "after": evidence.after, "now": evidence.now}
        return {
            "rule": self.rule.name,
            "id": self.rule.id,
            "sentence": self.rule.sentence,
            "severity": self.rule.severity,
            "certainty": self.rule.certainty,
            "key": self.key,
            "pfn": self.pfn,
            "address": self.address,
            "instruction": None if self.origin is None else asdict(self.origin),
            "buffer": None if self.target is None else asdict(self.target),
            "owner": {"then": list(evidence.owner_then), "now": list(evidence.owner_now)},
            "evidence": {
                **{name: None if view is None else view.to_json() for name, view in views.items()},
                "history": [asdict(sight) for sight in evidence.history],
                "vcpus_stopped": evidence.stopped,
                "buffer": list(evidence.buffer),
                "held_by": list(evidence.held_by),
                "page_owner": {"allocated": list(evidence.allocated), "freed": list(evidence.freed)},
                "notes": list(evidence.notes),
            },
            "pages": self.pages,
            "count": self.count,
            "splat": self.splat(),
        }


# Shorter words for a first line that would not fit, in the order in which they are tried.
_SHORTER = (
    ("a kernel page without owner marks", "an unmarked kernel page"),
    (", program for ", ", for "),
    ("DMA write to ", "write to "),
    (" beyond a page, into the wrong one", " beyond its page"),
    (" that was pinned for reading", " pinned for reading"),
    ("write to a ", "write to "),
    ("write to an ", "write to "),
    (", for ", ", "),
)


def key_of(rule: Rule, subject: str) -> str:
    """The line by which findings are recognised as the same; it holds nothing that differs between runs."""
    head = f"vcapdev: {rule.name} ({rule.id}): "
    for long, short in _SHORTER:
        if len(head) + len(subject) <= WIDTH:
            break
        subject = subject.replace(long, short)
    key = f"{head}{subject}"
    if len(key) > WIDTH:  # cut, and yet not the same as another one that begins alike
        key = f"{key[: WIDTH - 5]}~{crc32(key.encode()) & 0xFFFF:04x}"
    return key
