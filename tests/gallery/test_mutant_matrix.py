# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the matrix of altered drivers: where each was caught, which escaped, and its written forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vcapdev.gallery import matrix
from vcapdev.gallery.hand import FRAMES, scene_of
from vcapdev.gallery.scene import GuestReport, Outcome, ProgramResult
from vcapdev.image.mutants import Mutant
from vcapdev.report.model import Frames

MUTANT = Mutant(
    name="m", title="a title", what="what", rule="not-pinned", also=("free-page",), run={"io": "userptr"},
    diff=Path("m.diff"), files=("a.c",), blame={"instruction": "WRITE"},
)  # fmt: skip
OOPS = GuestReport("oops", "BUG: unable to handle page fault", True)


def verdict(rule: str, text: str = "WRITE SOL 8 bytes") -> dict[str, Any]:
    return {"rule": rule, "id": "V3", "key": f"vcapdev: {rule}: x", "pages": 1,
            "instruction": {"instruction": text}, "buffer": {"page": 0, "pages": 9}}  # fmt: skip


def played(mutant: Mutant = MUTANT, **changes: Any) -> matrix.Row:
    result = Outcome(scene_of(mutant), "bookworm-6.1", program=ProgramResult(0, [], ""))
    for name, value in changes.items():
        setattr(result, name, value)
    return matrix.judge(mutant, result)


@pytest.mark.parametrize(
    ("changes", "caught", "good"),
    [
        ({"verdicts": [verdict("not-pinned")], "reports": [OOPS]}, matrix.RULE, True),
        ({"verdicts": [verdict("free-page"), verdict("not-pinned")]}, matrix.RULE, True),
        ({"verdicts": [verdict("not-pinned", "WRITE123 8")]}, matrix.RULE, False),
        ({"verdicts": [verdict("free-page") | {"id": "V1"}]}, matrix.OTHER_RULE, False),
        ({"reports": [OOPS], "frames": Frames(torn=1)}, matrix.GUEST, False),
        ({"frames": Frames(captured=5, damaged=1)}, matrix.CONTENT, False),
        ({"program": ProgramResult(3, [], "QBUF: no memory")}, matrix.PROGRAM, False),
        ({"trouble": "it did not end"}, matrix.PROGRAM, False),
        ({"reports": [GuestReport("rcu-stall", "slow", False)]}, matrix.ESCAPED, False),
    ],
)
def test_where_a_mutant_was_caught(changes: dict[str, Any], caught: str, good: bool) -> None:
    row = played(**changes)
    assert (row.caught, row.good) == (caught, good)


def test_content_is_enough_only_for_drivers_that_break_no_rule() -> None:
    content = replace(MUTANT, rule=FRAMES, blame={})
    assert played(content, frames=Frames(captured=5, damaged=1)).good
    assert not played(content).good
    row = played(content, frames=Frames(damaged=1), verdicts=[verdict("free-page")])
    assert (row.caught, row.good) == (matrix.CONTENT, True)


def test_a_fault_over_which_the_kernel_stumbles_is_good_only_where_that_is_said() -> None:
    oops = replace(MUTANT, rule="guest or free-page", blame={})
    assert (played(oops, reports=[OOPS]).caught, played(oops, reports=[OOPS]).good) == (matrix.GUEST, True)
    assert played(oops, reports=[OOPS], verdicts=[verdict("free-page")]).good
    assert not played(oops).good
    assert not played(oops, reports=[OOPS], verdicts=[verdict("recycled")]).good


def test_a_page_that_the_audit_judged_otherwise_makes_the_row_bad() -> None:
    figures = {"rate": 1.0, "seed": 1, "judgements": 1, "pages": 9, "clean": 8, "bad": 1}
    agreed = {"agreed": 9, "turned": 0, "mended": 0, "disagreed": 0, "raced_with_stop": 0, "not_stopped": 0}
    audit = {**figures, **agreed, "disagreements": []}
    row = played(verdicts=[verdict("not-pinned")], status={"audit": audit})
    assert row.good
    assert (row.audit["pages"], row.audit["bad"]) == (9, 1)
    other = audit | {"agreed": 8, "disagreed": 1, "disagreements": ["page 3: clean, then free"]}
    assert not played(verdicts=[verdict("not-pinned")], status={"audit": other}).good


def test_a_rule_that_was_not_to_be_expected_makes_the_row_bad() -> None:
    row = played(verdicts=[verdict("not-pinned"), verdict("free-page"), verdict("recycled")])
    assert (row.wrong, row.good) == ("unexpected: recycled", False)
    content = played(replace(MUTANT, rule=FRAMES, blame={}), frames=Frames(captured=5, damaged=1),
                     verdicts=[verdict("recycled")])  # fmt: skip
    assert not content.good


def test_a_mutant_that_a_kernel_cannot_have_is_counted_apart() -> None:
    rows = [
        played(verdicts=[verdict("not-pinned")]),
        played(),
        matrix.unplayed(MUTANT, "trixie-6.12", matrix.NOT_HERE, "no videobuf"),
    ]
    counts = matrix.totals(rows)
    assert (counts["played"], counts[matrix.RULE], counts[matrix.ESCAPED]) == (2, 1, 1)
    assert rows[2].good
    assert not matrix.unplayed(MUTANT, "trixie-6.12", matrix.NOT_BUILT, "error: x").good


def test_the_written_forms_hold_every_mutant_and_the_sums() -> None:
    rows = [
        played(verdicts=[verdict("not-pinned")]),
        matrix.unplayed(MUTANT, "k", matrix.NOT_HERE, "no videobuf"),
    ]
    unbuilt = matrix.unplayed(replace(MUTANT, name="n"), "k", matrix.NOT_BUILT, "error: x")
    about = {"kernel": "bookworm-6.1", "release": "6.1.0", "commit": "abc", "seconds": 61.5}
    data = json.loads(matrix.to_json(rows, about))
    assert data["totals"]["played"] == 1
    assert [each["caught"] for each in data["mutants"]] == [matrix.RULE, matrix.NOT_HERE]
    text = matrix.markdown([*rows, unbuilt], about)
    assert "## bookworm-6.1: 6.1.0" in text
    assert "Made: commit abc, Linux 6.1.0, 61.5 s in all." in text
    assert "| `m` | a title | not-pinned | not-pinned | WRITE, page 1 of 9 | rule |" in text
    assert "no such driver or state: `m`." in text
    assert "- `n` could not be built: error: x" in text
    table = matrix.table([*rows, played()])
    assert [line[:4].strip() for line in table.splitlines() if line[0] != " "] == ["ok", "-", "BAD"]
