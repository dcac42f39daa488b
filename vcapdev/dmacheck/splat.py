# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict on one screen: 80 columns, at most 24 lines, always in the same order (docs/splat.md).

Where there is more to say than fits, lines are cut from the least telling sections first; ``report.json`` has
everything.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vcapdev.dmacheck.verdict import Verdict

WIDTH, HEIGHT = 80, 24
_LABEL = 12
_MORE = " ..."


@dataclass
class Section:
    """Lines behind a label. At most ``most`` of them, at least one; ``spare`` are the first to be cut."""

    label: str
    lines: list[str]
    spare: int  # how soon lines of it are cut: the highest first
    tail: bool = False  # whether the last lines tell most

    def cut(self) -> None:
        """One line less."""
        if self.tail:
            del self.lines[0]
            return
        self.lines.pop()
        self.lines[-1] = self.lines[-1][: WIDTH - _LABEL - len(_MORE)].removesuffix(_MORE) + _MORE


def splat(verdict: Verdict) -> str:
    """The text; its first line is the finding's key."""
    sections = [section for section in _sections(verdict) if section.lines]
    while 1 + sum(len(section.lines) for section in sections) > HEIGHT:
        longest = [section for section in sections if len(section.lines) > 1]
        max(longest, key=lambda section: (section.spare, len(section.lines))).cut()
    lines = [verdict.key]
    for section in sections:
        for i, line in enumerate(section.lines):
            lines.append(f"{'' if i else section.label:<{_LABEL}}{line}".rstrip())
    return "\n".join(lines) + "\n"


def _sections(verdict: Verdict) -> Iterator[Section]:
    evidence, target = verdict.evidence, verdict.target
    yield Section("what", _wrap(verdict.rule.sentence, 2), 4)
    yield Section("certainty", _wrap(_certainty(verdict), 2), 6)
    fetched = verdict.rule.name.startswith("fetch-")
    yield Section("fetched" if fetched else "written by", _wrap(_instruction(verdict), 2), 1)
    if target is not None:
        text = (
            f"page {target.page + 1} of {target.pages}, bytes {target.first:#x} to {target.last:#x} of what"
        )
        yield Section(
            "where", _wrap(f"{text} program {target.program} (at {target.program_address:#x}) writes", 2), 1
        )
    if verdict.pfn >= 0:
        yield Section("page", _wrap(_page(verdict), 2), 1)
    yield from _views(verdict)
    yield Section("history", _each((f"{s.when}: {s.state}" for s in evidence.history), 1), 7, tail=True)
    yield Section("buffer", _each(evidence.buffer, 3), 3)
    yield Section("held by", _each(evidence.held_by, 2), 2)
    yield from _owners(verdict)
    yield Section("allocated", _each(evidence.allocated, 3), 8)
    yield Section("freed", _each(evidence.freed, 3), 8)
    yield Section("note", _each(evidence.notes, 2), 5)
    pages = f"{verdict.pages} page{'s' * (verdict.pages != 1)} at this moment, {verdict.count} so far"
    yield Section("how many", [pages], 0)


def _views(verdict: Verdict) -> Iterator[Section]:
    evidence, shown = verdict.evidence, ""
    for label, view in (("before", evidence.before), ("after", evidence.after), ("now", evidence.now)):
        if view is not None:
            text = str(view)
            yield Section(f"  {label}", _wrap("the same" if text == shown else text, 3), 2)
            shown = text


def _owners(verdict: Verdict) -> Iterator[Section]:
    evidence = verdict.evidence
    if evidence.now is None:
        return
    nobody = ["nobody that could be found"]
    yield Section("owner then", _each(evidence.owner_then or nobody, 3), 3)
    same = evidence.owner_now == evidence.owner_then and bool(evidence.owner_now)
    yield Section("owner now", ["the same"] if same else _each(evidence.owner_now or nobody, 3), 3)


def _certainty(verdict: Verdict) -> str:
    stopped = "with the vCPUs stopped" if verdict.evidence.stopped else "in a running guest"
    return f"{verdict.rule.certainty}; explained {stopped}"


def _page(verdict: Verdict) -> str:
    view = verdict.evidence.now or verdict.evidence.after or verdict.evidence.before
    text = f"pfn {verdict.pfn:#x}, bus address {verdict.address:#x}"
    return text if view is None else f"{text}, struct page {view.struct_page:#x}"


def _instruction(verdict: Verdict) -> str:
    origin = verdict.origin
    if origin is None:
        return ""
    where = [
        f"frame {origin.frame}" if origin.frame is not None else "",
        f"{origin.field} field" if origin.field else "",
        f"line {origin.line}" if origin.line is not None else "",
        f"from byte {origin.offset} of the line" if origin.offset is not None else "",
    ]
    place = ", ".join(part for part in where if part)
    return f"{origin.instruction} (instruction at {origin.address:#x})" + (f"; {place}" if place else "")


def _each(texts: Iterable[str], most: int) -> list[str]:
    """Several texts, each wrapped to at most so many lines."""
    return [line for text in texts for line in _wrap(text, most)]


def _wrap(text: str, most: int) -> list[str]:
    """Lines of a text in which the guest may have a say: printable, and at most so many."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    lines = textwrap.wrap(text, WIDTH - _LABEL, break_on_hyphens=False)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][: WIDTH - _LABEL - len(_MORE)] + _MORE]
    return lines
