# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the look-alikes: the table is whole, silence alone is not enough, false verdicts come first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vcapdev.errors import ExitStatus, UsageError
from vcapdev.gallery.lookalike import Lookalike, Played, Result, judge, not_played
from vcapdev.gallery.lookalike_report import (
    AUDIT_BEGIN,
    AUDIT_END,
    STATES,
    markdown,
    read_report,
    summary,
    totals,
    write_report,
)  # fmt: skip
from vcapdev.gallery.lookalike_scenes import all_lookalikes, load
from vcapdev.gallery.lookalikes import chosen_scenes, exit_status
from vcapdev.gallery.scene import Outcome, ProgramResult
from vcapdev.image.recipe import recipe_names


def test_every_legitimate_state_has_a_scene() -> None:
    assert {state for one in all_lookalikes() for state in one.states} == set(STATES)


def test_every_kernel_has_thirty_scenes_that_can_be_played() -> None:
    for kernel in recipe_names():
        played = [one for one in all_lookalikes() if one.scene.reason_against(kernel) is None]
        assert len(played) >= 30, kernel
        for one in played:
            assert one.claims(kernel), f"{one.name} proves nothing on {kernel}"


def test_names_are_unique() -> None:
    names = [one.name for one in all_lookalikes()]
    assert len(names) == len(set(names))


def test_what_a_scene_sets_up_it_takes_down() -> None:
    for one in all_lookalikes():
        enabled = [line for line in one.scene.setup if line.startswith("echo madvise")]
        assert len(enabled) == sum(line.startswith("echo never") for line in one.scene.teardown), one.name


TABLE = """
disk: {setup: [mount], teardown: [umount]}
---
one:
  makes: something
  states: L0 L1
  run: --do exit --at active
  frames: 5
  proof: [caught > 0]
  proof-on: {old-*: [caught == 0]}
  refusal: {new-*: gone}
  needs: [disk]
  setup: [touch]
  teardown: [rm]
  own-fault: true
  machine: {memory: 512}
  beside: hog --fill 3
"""


def table(tmp_path: Path, text: str) -> tuple[Lookalike, ...]:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    return load(path)


@pytest.fixture
def one(tmp_path: Path) -> Lookalike:
    (made,) = table(tmp_path, TABLE)
    return made


def test_an_entry_becomes_a_scene(one: Lookalike) -> None:
    scene = one.scene
    assert scene.program[0] == "vcap-scene"
    assert scene.program[-6:] == ("--frames", "5", "--do", "exit", "--at", "active")
    assert (scene.setup, scene.teardown) == (("mount", "touch"), ("rm", "umount"))
    assert scene.expect.statuses == {0, 1, 4}
    assert (scene.machine.memory, scene.beside, one.states) == (512, (("hog", "--fill", "3"),), ("L0", "L1"))
    assert (one.claims("old-1"), one.claims("new-1")) == (("caught == 0",), ("caught > 0",))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [("  proof: [caught > 0]", "  proof: [caught]"), ("  makes: something", "  mokes: something"),
     ("  needs: [disk]", "  needs: [tape]")],
)  # fmt: skip
def test_a_wrong_table_is_refused(tmp_path: Path, wrong: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"table\.yaml"):
        table(tmp_path, TABLE.replace(wrong, says))


def outcome(one: Lookalike, *, caught: int = 1, status: int = 0, **changes: Any) -> Outcome:
    events: list[dict[str, Any]] = [
        {"event": "frame", "caught": caught},
        {"event": "summary", "read_back": {"intact": 1}},
    ]
    made = Outcome(one.scene, "new-1", program=ProgramResult(status, events, "no memory"))
    made.status = {"attached": True, "pages_checked": 432, "states": ["L0", "L0 > L1"]}
    return replace(made, **changes)


@pytest.fixture
def innocent(one: Lookalike) -> Lookalike:
    """The same, but its frames have to arrive."""
    expect = replace(one.scene.expect, silent=True, statuses=frozenset({0, 4}))
    return replace(one, own_fault=False, scene=replace(one.scene, expect=expect))


def test_silent_where_the_state_was_reached(one: Lookalike) -> None:
    played = judge(one, outcome(one))
    assert (played.result, played.pages, len(played.triples)) == (Result.SILENT, 432, 2)
    assert "caught > 0 (1)" in played.why


def test_silence_about_nothing_is_not_enough(one: Lookalike) -> None:
    assert judge(one, outcome(one, caught=0)).result is Result.EMPTY


def test_a_verdict_is_false_whatever_else_was_wrong(one: Lookalike) -> None:
    found = outcome(one, caught=0, verdicts=[{"rule": "not-pinned"}], trouble="the guest crashed")
    assert (judge(one, found).result, judge(one, found).why) == (Result.FALSE, "not-pinned")


def test_a_refusal_counts_only_where_it_is_expected(one: Lookalike) -> None:
    refused = outcome(one, status=4)
    assert refused.program is not None
    refused.program.events[:] = [{"event": "not-offered", "what": "memory", "text": "No such device"}]
    played = judge(one, refused)
    assert (played.result, played.why) == (Result.REFUSED, "gone (memory: No such device)")
    assert judge(one, replace(refused, kernel="old-1")).result is Result.FAILED


def test_frames_that_did_not_arrive_fail_a_scene_that_kept_its_memory(innocent: Lookalike) -> None:
    lost = outcome(innocent)
    assert lost.program is not None
    lost.program.events[-1]["after_close"] = {"partial": 1}
    played = judge(innocent, lost)
    assert (played.result, "after the close" in played.why) == (Result.FAILED, True)
    assert judge(innocent, outcome(innocent)).result is Result.SILENT


def test_unchecked_writes_fail_a_scene(one: Lookalike, innocent: Lookalike) -> None:
    for each in (one, innocent):
        blind = outcome(each)
        blind.status["unchecked_writes"] = 3
        assert "3 writes could not be checked" in judge(each, blind).why


PLAYED = [
    Played("anonymous", "t", "a-1", Result.SILENT, "x > 0 (1)", 100, 5, frozenset({("a-1", "L0")})),
    Played("anonymous", "t", "b-2", Result.SILENT, "x > 0 (1)", 50, 5, frozenset({("b-2", "L0")})),
    not_played(all_lookalikes()[0], "c-3", "it is too old"),
]


def test_the_exit_status_says_whether_it_cried_wolf() -> None:
    assert exit_status(PLAYED) is ExitStatus.CLEAN
    assert exit_status([*PLAYED, replace(PLAYED[0], result=Result.EMPTY)]) is ExitStatus.GUEST
    both = [replace(PLAYED[0], result=Result.EMPTY), replace(PLAYED[0], result=Result.FALSE)]
    assert exit_status([*PLAYED, *both]) is ExitStatus.FINDINGS


def test_the_report_counts_pages_and_triples(tmp_path: Path) -> None:
    chosen = chosen_scenes(["anonymous"])
    write_report(tmp_path / "new", chosen, PLAYED)
    data = json.loads((tmp_path / "new/lookalikes.json").read_text())
    assert data["totals"] == totals(PLAYED)
    assert (data["totals"]["pages"], data["totals"]["triples"]) == (150, 2)
    text = markdown(chosen, PLAYED)
    assert "| anonymous | L0 | silent, 100 pages | silent, 50 pages | not here |" in text
    assert "c-3: not here: it is too old" in text
    assert "150 pages judged" in summary(PLAYED)


def test_a_report_keeps_what_it_says_of_other_kernels(tmp_path: Path) -> None:
    scenes = all_lookalikes()
    write_report(tmp_path, scenes, PLAYED[:1])
    write_report(tmp_path, scenes, [replace(PLAYED[1], result=Result.FALSE, why="x")])
    kept = read_report(tmp_path / "lookalikes.json")
    assert [(one.kernel, one.result) for one in kept] == [("a-1", Result.SILENT), ("b-2", Result.FALSE)]
    assert kept[0] == replace(PLAYED[0], title="")


AUDIT = {"rate": 0.01, "seed": 5, "judgements": 2, "pages": 432, "clean": 432, "agreed": 432}


def test_a_page_that_was_judged_otherwise_fails_its_scene(one: Lookalike) -> None:
    agreed = outcome(one)
    agreed.status["audit"] = AUDIT
    played = judge(one, agreed)
    assert (played.result, played.audit["pages"], played.audit["disagreed"]) == (Result.SILENT, 432, 0)
    agreed.status["audit"] = AUDIT | {"agreed": 430, "disagreed": 2, "disagreements": ["pfn 7"]}
    played = judge(one, agreed)
    assert (played.result, played.audit["disagreed"]) == (Result.FAILED, 2)
    assert "2 of 432 audited pages were judged otherwise live; first: pfn 7" in played.why


def test_a_report_says_which_run_each_result_is_of(tmp_path: Path) -> None:
    first, second = ({"commit": commit, "seconds": 2.5} for commit in ("abc", "def"))
    write_report(tmp_path, all_lookalikes(), [replace(PLAYED[0], made=first), replace(PLAYED[1], made=first)])
    write_report(tmp_path, all_lookalikes(), [replace(PLAYED[1], made=second)])
    kept = read_report(tmp_path / "lookalikes.json")
    assert [one.made for one in kept] == [first, second]
    page = (tmp_path / "lookalikes.md").read_text()
    assert "- commit abc, 2.5 s in all" in page
    assert "- commit def, 2.5 s in all" in page


def test_the_audits_figures_go_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "audit.md"
    page.write_text(f"before\n{AUDIT_BEGIN}\nold\n{AUDIT_END}\nafter\n")
    figures = {"judgements": 2, "pages": 432, "bad": 0, "agreed": 430, "mended": 1, "disagreed": 1}
    write_report(tmp_path, all_lookalikes(), PLAYED)
    assert "old" in page.read_text()  # nothing was audited
    write_report(tmp_path, all_lookalikes(), [replace(PLAYED[0], audit=figures), PLAYED[1]])
    text = page.read_text()
    assert text.startswith(f"before\n{AUDIT_BEGIN}\n1 of 432 pages were judged otherwise")
    assert "| a-1 | 2 | 432 | 0 | 430 | 0 | 1 | 1 | 0 | 0 |" in text
    assert text.endswith(f"{AUDIT_END}\nafter\n")
    assert "old" not in text


def test_the_page_on_audits_has_the_marks() -> None:
    text = (Path(__file__).parents[2] / "docs/audit.md").read_text()
    assert 0 < text.find(AUDIT_BEGIN) < text.find(AUDIT_END)


def test_another_file_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "lookalikes.json").write_text("[1, 2]")
    with pytest.raises(UsageError, match="is no report of look-alikes"):
        write_report(tmp_path, all_lookalikes(), PLAYED)


def test_scenes_are_chosen_by_a_part_of_their_names() -> None:
    assert [one.name for one in chosen_scenes(["uffd", "tfd-w", "fault"])] == [
        "userfaultfd-wp",
        "userfaultfd-missing",
    ]
    assert len(chosen_scenes([])) == len(all_lookalikes())
