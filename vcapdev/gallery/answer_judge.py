# SPDX-License-Identifier: GPL-2.0-or-later
"""What came of a cell: only what was proved to have happened during DMA is an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vcapdev.gallery.answer_table import Cell, Expected, Table
from vcapdev.gallery.lookalike import NOT_OFFERED
from vcapdev.gallery.proof import evidence, holds, parse
from vcapdev.gallery.scene import Outcome

#: Rules that say: somebody else has this page, or nobody.
GIVEN = frozenset({"free-page", "kernel-page", "shared-page", "recycled"})
#: Rules that say: the program sees another page by now, although it did not ask for that.
COPIED = frozenset({"copied-away"})
#: What can become of addresses whose pages the driver still holds, by their owner's doing.
_AWAY = ("orphan", "remapped", "replaced", "discarded", "unmapped", "process-gone")
_PASSED = (
    *("before.swapped", "queued.swapcache", "acted.swapped", "acted.absent", "acted.moved", "done.moved"),
    *("closed.swapped", "closed.absent", "device.mmap", "device.present"),
    *("vmstat.pswpout", "vmstat.pswpin", "vmstat.pgmigrate_success", "vmstat.pgmigrate_fail"),
    *("caught", "during"),
)


@dataclass(frozen=True)
class Answer:
    """What one cell came to.

    :ivar why: why it was not played, could not be, or shows nothing; empty otherwise.
    :ivar left_out: whether it was not played because it makes no sense, or this kernel cannot have it.
    :ivar unproved: whether another try may show what this one did not.
    """

    cell: Cell
    expected: Expected
    why: str = ""
    left_out: bool = False
    refused: bool = False
    unproved: bool = False
    wrong: str = ""  # no, own, away, yes
    data: str = ""  # kept, lost, later
    rules: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()
    oddities: Mapping[str, int] = field(default_factory=dict)
    read_back: Mapping[str, int] = field(default_factory=dict)
    after_close: Mapping[str, int] = field(default_factory=dict)
    passed: Mapping[str, int] = field(default_factory=dict)  # what the pages went through
    frames: int = 0
    pages: int = 0
    seconds: float = 0.0
    tries: int = 1
    altered: bool = False  # whether the driver is not the kernel's own
    explanation: str = ""
    escape: str = ""  # why no rule fired, where one should

    @property
    def played(self) -> bool:
        """Whether there is a result, a refusal included."""
        return self.refused or not self.why

    @property
    def differs(self) -> Mapping[str, Any]:
        """In what it came otherwise than was written down, and how it came."""
        if not self.played:
            return {}
        if self.refused or self.expected.refused:
            return {} if self.refused is self.expected.refused else {"refused": self.refused}
        expected = {"wrong": self.expected.wrong, "data": self.expected.data}
        return {name: getattr(self, name) for name, words in expected.items()
                if getattr(self, name) not in words.split("|")}  # fmt: skip

    @property
    def surprise(self) -> bool:
        """Whether it came otherwise than was written down."""
        return bool(self.differs)

    @property
    def escaped(self) -> bool:
        """Whether an altered driver lost data, and no rule said anything."""
        return self.altered and self.played and self.data == "later" and not self.rules

    @property
    def accused(self) -> frozenset[str]:
        """Rules that accuse the kernel's own driver: false verdicts, as far as anybody knows.

        Only that the program was given a copy is the kernel's doing, and is then the cell's answer.
        """
        fired = frozenset() if self.altered or not self.played else frozenset(self.rules)
        return fired - COPIED if self.wrong == "yes" else fired

    @property
    def open(self) -> bool:
        """Whether it has something that nobody has explained."""
        unexplained = (self.surprise and not self.explanation) or (self.escaped and not self.escape)
        return unexplained or bool(self.accused)

    def value(self, name: str) -> object:
        """What a sentence may claim of it."""
        if name == "given":
            return "yes" if GIVEN & set(self.rules) else "no"
        return getattr(self, name)


def judge(table: Table, cell: Cell, outcome: Outcome) -> Answer:
    """What came of a cell."""
    expected, program, counts = table.expected(cell), outcome.program, counted(outcome)
    altered = bool(table.drivers[cell.driver]["mutants"])
    if program is not None and program.status == NOT_OFFERED:
        event = next((e for e in program.events if e.get("event") == "not-offered"), {})
        why = f"{event.get('what')}: {event.get('text')}"
        return _explained(table, Answer(cell, expected, why, refused=True, altered=altered))
    why, claims, oddities = _trouble(outcome, counts), table.claims(cell), _given_up(outcome)
    missed = [] if why else [claim for claim in claims if not any_holds(claim, counts)]
    back, after = _group(counts, "read_back"), _group(counts, "after_close")
    one = Answer(
        cell, expected,
        why=why or (f"not shown: {_told(missed, counts)}" if missed else ""),
        unproved=bool(missed),
        wrong=_wrong(outcome.rules, oddities, gives_away=table.gives_away(cell)),
        data=_data(back, after),
        rules=tuple(sorted(outcome.rules)),
        proof=tuple(_told([claim], counts) for claim in claims),
        oddities=oddities, read_back=back, after_close=after,
        passed={name: counts[name] for name in _PASSED if counts.get(name)},
        frames=outcome.frames.captured, pages=outcome.pages_checked, seconds=outcome.seconds,
        altered=altered,
    )  # fmt: skip
    return _explained(table, one)


def counted(outcome: Outcome) -> Counter[str]:
    """The evidence of :mod:`vcapdev.gallery.proof`, and what it does not tell apart.

    ``closed.NAME`` is the state of pages after the close and after what was done then, ``closed.during`` how
    many frames that were read once more had had their act during DMA; ``MOMENT/ACT`` how often an act was
    done at a moment (``active/pageout``).
    """
    counts = evidence(outcome)
    for event in outcome.program.events if outcome.program is not None else ():
        if event.get("event") == "after-close":
            _add(counts, "closed.", event.get("done"))
            counts["closed.during"] += _number(event.get("during"))
        elif event.get("event") == "summary":
            for act in event.get("acts") or ():
                if isinstance(act, dict):
                    counts[f"{act.get('at')}/{act.get('act')}"] += _number(act.get("done"))
    return counts


def any_holds(claim: str, counts: Counter[str]) -> bool:
    """Whether one of the alternatives of a claim, between ``|``, is true."""
    return any(holds(one.strip(), counts) for one in claim.split("|"))


def _explained(table: Table, one: Answer) -> Answer:
    return replace(
        one,
        explanation=table.explanation(one.cell, one.differs),
        escape=table.escape(one.cell) if one.escaped else "",
    )


def _told(claims: list[str], counts: Counter[str]) -> str:
    """The claims with the numbers behind them, for people."""
    said = []
    for claim in claims:
        ones = [one.strip() for one in claim.split("|")]
        said.append(" or ".join(f"{one} ({counts[parse(one)[0]]})" for one in ones))
    return ", ".join(said)


def _trouble(outcome: Outcome, counts: Counter[str]) -> str:
    """Why a cell shows nothing, "" when it may."""
    program = outcome.program
    if outcome.trouble:
        return outcome.trouble
    if not outcome.status.get("attached"):
        return f"the checker was not attached: {outcome.status.get('why_not')}"
    if not outcome.pages_checked:
        return "no page was judged"
    if program is not None and program.status not in (0, 1):
        said = (program.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"the program ended with status {program.status}: {said}"
    return "" if _group(counts, "read_back") else "no frame was read back"


def _given_up(outcome: Outcome) -> dict[str, int]:
    """Harmless oddities, and what has become of the buffers' addresses."""
    mapping = (outcome.status.get("contract") or {}).get("mapping") or {}
    found = (outcome.status.get("oddities") or {}) | mapping
    return {str(name): int(count) for name, count in found.items()}


def _wrong(rules: frozenset[str], oddities: Mapping[str, int], *, gives_away: bool) -> str:
    """Whether the device wrote to pages that were not the buffer's any more, and by whose doing."""
    if rules & (GIVEN | COPIED):
        return "yes"
    if not any(oddities.get(name) for name in _AWAY):
        return "no"
    return "own" if gives_away else "away"


def _data(back: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Whether what the device wrote was read: at once, and once more after the close."""
    if back.get("partial", 0) + back.get("lost", 0):
        return "lost"
    return "later" if after.get("partial", 0) + after.get("lost", 0) else "kept"


def _group(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.partition(".")[2]: n for name, n in counts.items() if name.startswith(f"{prefix}.") and n}


def _add(counts: Counter[str], prefix: str, values: Any) -> None:
    for name, value in values.items() if isinstance(values, dict) else ():
        counts[f"{prefix}{name}"] += _number(value)


def _number(value: Any) -> int:
    return value if type(value) is int else 0
