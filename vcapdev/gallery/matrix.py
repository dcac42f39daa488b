# SPDX-License-Identifier: GPL-2.0-or-later
"""What came of altered drivers, one row each: as a table, as JSON, as Markdown for docs/mutants.md."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vcapdev import __version__
from vcapdev.gallery import blame as blaming
from vcapdev.gallery import hand
from vcapdev.gallery.lookalike import audited, of_audit
from vcapdev.gallery.provenance import told
from vcapdev.gallery.scene import Outcome
from vcapdev.image.mutants import Mutant

SCHEMA_VERSION = 1

# Where a mutant was caught.
RULE, OTHER_RULE, GUEST, CONTENT, PROGRAM = "rule", "another rule", "guest", "frames", "program"
ESCAPED, NOT_BUILT, NOT_HERE = "escaped", "not built", "not here"
MEANING = {
    RULE: "by the rule that had to fire",
    OTHER_RULE: "by another rule of the checker",
    GUEST: "by the guest's kernel itself (oops, WARNING)",
    CONTENT: "by the comparison of frames",
    PROGRAM: "by a program that could not capture",
    ESCAPED: "not at all",
    NOT_BUILT: "not played: it does not fit or compile",
    NOT_HERE: "not played: this kernel has no such driver, or no such state",
}
_PLACE = {hand.FRAMES: CONTENT, hand.GUEST: GUEST}
UNPLAYED = (NOT_HERE, NOT_BUILT)
_FIRST_LINE = 88

Json = dict[str, Any]


@dataclass
class Row:
    """One mutant on one kernel."""

    mutant: str
    title: str
    kernel: str
    rule: str  # that must fire
    caught: str
    rules: list[str] = field(default_factory=list)  # that fired, the first first
    blame: str = ""  # what the first verdict of the rule names
    wrong: str = ""  # what is wrong with it; empty: nothing
    verdict: str = ""  # its first line
    guest: list[str] = field(default_factory=list)  # failures that the guest's kernel told of
    bad_frames: int = 0
    frames: int = 0
    pages: int = 0
    note: str = ""
    seconds: float = 0.0
    audit: dict[str, int] = field(default_factory=dict)  # figures of docs/audit.md

    @property
    def good(self) -> bool:
        """Whether it was caught as it must be, or could not be played at all."""
        if self.caught == NOT_HERE:
            return True
        return not self.wrong and self.caught in {
            _PLACE.get(name, RULE) for name in blaming.either(self.rule)
        }


def judge(mutant: Mutant, outcome: Outcome) -> Row:
    """The row of one mutant that was played."""
    mine = blaming.of_rule(outcome.verdicts, mutant.rule)
    rules = list(dict.fromkeys(str(verdict["rule"]) for verdict in outcome.verdicts))
    strange = [rule for rule in rules if rule not in {*blaming.either(mutant.rule), *mutant.also}]
    first = (mine or outcome.verdicts or [{}])[0]
    wrong = [blaming.wrong(mine, mutant.blame)] if mine else []
    wrong += [f"unexpected: {', '.join(strange)}"] if strange else []
    wrong += of_audit(outcome)
    return Row(
        mutant=mutant.name,
        title=mutant.title,
        kernel=outcome.kernel,
        rule=mutant.rule,
        caught=_caught(bool(mine), outcome, mutant.rule),
        rules=rules,
        blame=blaming.describe(first) if first else "",
        wrong="; ".join(filter(None, wrong)),
        verdict=str(first.get("key", "")),
        guest=[report.title for report in outcome.failures],
        bad_frames=outcome.bad_frames,
        frames=outcome.frames.captured,
        pages=outcome.pages_checked,
        note=outcome.trouble,
        seconds=outcome.seconds,
        audit=audited(outcome),
    )


def unplayed(mutant: Mutant, kernel: str, how: str, why: str) -> Row:
    """The row of a mutant that this kernel cannot have (NOT_HERE), or that could not be built (NOT_BUILT)."""
    return Row(mutant.name, mutant.title, kernel, mutant.rule, how, note=why)


def _caught(by_rule: bool, outcome: Outcome, rule: str) -> str:
    if by_rule:
        return RULE
    if hand.FRAMES in blaming.either(rule) and outcome.bad_frames:
        return CONTENT
    if outcome.verdicts:
        return OTHER_RULE
    if outcome.failures:
        return GUEST
    if outcome.bad_frames:
        return CONTENT
    program = outcome.program
    if outcome.trouble or (program is not None and program.status not in (0, 1, -9)):
        return PROGRAM
    return ESCAPED


def table(rows: Sequence[Row]) -> str:
    """For the terminal, one or two lines a mutant."""
    lines = []
    for row in rows:
        mark = "ok  " if row.good else "BAD "
        mark = "-   " if row.caught == NOT_HERE else mark
        fired = ", ".join(row.rules) or "nothing"
        lines.append(f"{mark}{row.mutant:<24} {row.rule:<14} {row.caught:<13} {fired}")
        lines += [f"{'':<28} {text}" for text in _remarks(row)]
    return "\n".join(lines) + "\n"


def _remarks(row: Row) -> Iterator[str]:
    if row.blame or row.wrong:
        yield f"blamed: {row.blame}" + (f" (WRONG: {row.wrong})" if row.wrong else "")
    for title in row.guest[:2]:
        yield f"guest: {title[:_FIRST_LINE]}"
    if row.bad_frames:
        yield f"frames: {row.frames} captured, {row.bad_frames} times one was damaged"
    if row.note:
        yield row.note


def totals(rows: Sequence[Row]) -> dict[str, int]:
    """How many were caught where, and how many there are."""
    counts = Counter(row.caught for row in rows)
    return {
        "played": len(rows) - counts[NOT_HERE] - counts[NOT_BUILT],
        **{name: counts[name] for name in MEANING},
    }


def to_json(rows: Sequence[Row], about: Json) -> str:
    """All rows and their sums; ``about`` names kernel, packages and whatever else made them."""
    content = {
        "schema": SCHEMA_VERSION,
        "vcapdev": __version__,
        **about,
        "totals": totals(rows),
        "mutants": [asdict(row) | {"good": row.good} for row in rows],
    }
    return json.dumps(content, indent=1) + "\n"


def markdown(rows: Sequence[Row], about: Json) -> str:
    """A table for docs/mutants.md."""
    counts = totals(rows)
    lines = [f"## {about.get('kernel', '')}: {about.get('release', '')}", ""]
    lines += [f"Made: {told(about)}.", ""]
    sums = [f"{counts[name]} {MEANING[name]}" for name in MEANING if counts[name] and name not in UNPLAYED]
    lines += [f"{counts['played']} mutants were played, caught: {'; '.join(sums)}.", ""]
    lines += ["| mutant | what it does | rule | fired | blamed | caught by |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row.caught not in UNPLAYED:
            cells = [f"`{row.mutant}`", row.title, row.rule, ", ".join(row.rules), row.blame, row.caught]
            if row.wrong:
                cells[4] += f" (**wrong**: {row.wrong})"
            lines.append("| " + " | ".join(cells) + " |")
    left = [f"`{row.mutant}`" for row in rows if row.caught == NOT_HERE]
    if left:
        lines += [
            "",
            *textwrap.wrap(
                f"Not played here, since it has no such driver or state: {', '.join(left)}.",
                118,
                break_on_hyphens=False,
            ),
        ]
    lines += [f"- `{row.mutant}` could not be built: {row.note}" for row in rows if row.caught == NOT_BUILT]
    return "\n".join(lines) + "\n"
