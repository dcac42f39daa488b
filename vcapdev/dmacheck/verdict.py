# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict: which rule was broken, by what, on which page, and everything that is known about that page."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

from vcapdev.dma import Origin
from vcapdev.dmacheck.rules import Rule
from vcapdev.guestmm.pageview import PageView

WIDTH = 100
_LABEL = 12
_MAX_LINES = 40


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
    """What was found out about the page. ``owner_*`` are lines of text, one for each mapping."""

    before: PageView | None = None
    after: PageView | None = None
    now: PageView | None = None
    history: list[Sight] = field(default_factory=list)
    owner_then: list[str] = field(default_factory=list)
    owner_now: list[str] = field(default_factory=list)
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
        """At most a screen of text, 100 columns wide; the first line serves to recognise repetitions."""
        evidence = self.evidence
        lines = [self.key]
        _add(lines, "what", self.rule.sentence)
        _add(lines, "certainty", self._certainty())
        if self.pfn >= 0:
            _add(lines, "page", f"pfn {self.pfn:#x}, bus address {self.address:#x}" + self._struct_page())
        for label, view in (
            ("  before", evidence.before),
            ("  after", evidence.after),
            ("  now", evidence.now),
        ):
            if view is not None:
                _add(lines, label, str(view))
        for i, sight in enumerate(evidence.history):
            _add(lines, "" if i else "history", f"{sight.when}: {sight.state}")
        if evidence.now is not None:
            for label, owners in (("owner then", evidence.owner_then), ("owner now", evidence.owner_now)):
                for i, text in enumerate(owners or ["nobody that could be found"]):
                    _add(lines, "" if i else label, text)
        self._add_origin(lines)
        for text in evidence.notes[:3]:
            _add(lines, "note", text)
        _add(
            lines,
            "how many",
            f"{self.pages} page{'s' * (self.pages != 1)} at this moment, {self.count} so far",
        )
        if len(lines) > _MAX_LINES:
            lines = [*lines[: _MAX_LINES - 1], lines[-1]]
        return "\n".join(lines) + "\n"

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
                "notes": list(evidence.notes),
            },
            "pages": self.pages,
            "count": self.count,
            "splat": self.splat(),
        }

    def _certainty(self) -> str:
        stopped = (
            "explained with the vCPUs stopped" if self.evidence.stopped else "explained in a running guest"
        )
        return f"{self.rule.certainty}; {stopped}"

    def _struct_page(self) -> str:
        view = self.evidence.now or self.evidence.after or self.evidence.before
        return "" if view is None else f", struct page {view.struct_page:#x}"

    def _add_origin(self, lines: list[str]) -> None:
        origin, target = self.origin, self.target
        if origin is not None:
            where = [f"frame {origin.frame}" if origin.frame is not None else ""]
            where += [f"{origin.field} field" if origin.field else ""]
            where += [f"line {origin.line}" if origin.line is not None else ""]
            where += [f"from byte {origin.offset} of the line" if origin.offset is not None else ""]
            _add(lines, "written by", f"{origin.instruction} (instruction at {origin.address:#x})")
            text = ", ".join(part for part in where if part)
            if text:
                _add(lines, "", text)
        if target is not None:
            _add(
                lines,
                "buffer",
                f"page {target.page + 1} of {target.pages}, bytes {target.first:#x} to {target.last:#x} "
                f"of what program {target.program} (at {target.program_address:#x}) writes",
            )


def key_of(rule: Rule, subject: str) -> str:
    """The line by which findings are recognised as the same; it holds nothing that differs between runs."""
    return f"vcapdev: {rule.name} ({rule.id}): {subject}"[:WIDTH]


def _add(lines: list[str], label: str, text: str) -> None:
    """Append ``text`` behind its label, wrapped to at most three lines; the guest has a say in it."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    wrapped = textwrap.wrap(text, WIDTH - _LABEL, break_on_hyphens=False) or [""]
    if len(wrapped) > 3:
        wrapped = [*wrapped[:2], wrapped[2][: WIDTH - _LABEL - 4] + " ..."]
    for i, part in enumerate(wrapped):
        lines.append(f"{'' if i else label:<{_LABEL}}{part}".rstrip())
