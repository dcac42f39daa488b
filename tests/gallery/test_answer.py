# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer: cells are judged by what was seen, and a sentence that its cells do not bear out says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus, UsageError
from vcapdev.gallery.answer import Played, driver_for, exit_status, until_proved
from vcapdev.gallery.answer_judge import Answer, any_holds, counted, judge
from vcapdev.gallery.answer_report import bearing, markdown, shortfalls, spoken, to_json
from vcapdev.gallery.answer_table import Cell, Expected, Sentence, Shown, Table, load_table
from vcapdev.gallery.lookalike import NOT_OFFERED
from vcapdev.gallery.scene import Json, Outcome, ProgramResult
from vcapdev.image.mutants import mutants
from vcapdev.image.recipe import recipe_names

KERNEL = "bookworm-6.1"
TABLE = load_table()


#: What a scene tells in which every cell's act happened as it has to.
FRAME: Json = {
    "event": "frame",
    "caught": 1,
    "during": 1,
    "queued": {"pages": 216, "present": 216, "anon": 216},
    "acted": {"pages": 216, "present": 216, "same": 216},
}
AFTER: Json = {"event": "after-close", "during": 1, "done": {"pages": 216, "swapped": 216}}
ACTS = (
    ("before", "pageout remap"),
    ("active", "pageout fsync fork-parent dontneed mprotect touch compact ksm"),
    ("off", "pageout"),
)
VMSTAT = {"pswpout": 4000, "compact_migrate_scanned": 9000, "compact_isolated": 900}


def summary(lost: int = 0, later: int = 0) -> Json:
    return {
        "event": "summary",
        "frames": 8,
        "read_back": {"intact": 8 - lost, "lost": lost},
        "after_close": {"intact": 2 - later, "lost": later},
        "acts": [
            {"act": act, "at": at, "done": 8, "refused": 0} for at, acts in ACTS for act in acts.split()
        ],
        "vmstat": VMSTAT,
        "watched": {"/sys/kernel/mm/ksm/full_scans": [0, 90]},
    }


def outcome(
    cell: Cell,
    *,
    lost: int = 0,
    later: int = 0,
    rules: tuple[str, ...] = (),
    acted: Json | None = None,
    **status: object,
) -> Outcome:
    """A cell that was played, with so many lost frames."""
    frame = FRAME | ({"acted": acted} if acted is not None else {})
    found = Outcome(TABLE.scene(cell, None), cell.kernel)
    found.program = ProgramResult(0, [frame, AFTER, summary(lost, later)], "")
    found.status = {"attached": True, "pages_checked": 3456, **status}
    found.verdicts = [{"rule": rule} for rule in rules]
    return found


GONE = {"pages": 216, "absent": 216}


def cell(
    driver: str = "stock", memory: str = "anonymous", event: str = "mprotect", kernel: str = KERNEL
) -> Cell:
    return Cell(kernel, driver, memory, event)


def test_a_quiet_cell_is_as_expected() -> None:
    one = judge(TABLE, cell(), outcome(cell()))
    assert (one.wrong, one.data, one.surprise, one.pages) == ("no", "kept", False, 3456)


def test_a_copy_is_a_wrong_page_and_a_loss() -> None:
    one = judge(TABLE, cell(), outcome(cell(), lost=7, rules=("copied-away",)))
    assert (one.wrong, one.data, one.surprise) == ("yes", "lost", True)


def test_what_the_program_gave_away_is_its_own() -> None:
    discarded = outcome(cell(), lost=8, acted=GONE, contract={"mapping": {"replaced": 216}})
    one = judge(TABLE, cell(event="dontneed"), discarded)
    assert (one.why, one.wrong, one.data, one.surprise) == ("", "own", "lost", False)


def test_what_the_program_did_not_give_away_is_not_its_own() -> None:
    """Reclaim has had the page: no act of the program's explains that its address leads elsewhere."""
    pressed = cell("2009", "anonymous", "swap-pressure", "trixie-7.3")
    swapped = {"pages": 216, "swapped": 216}
    one = judge(TABLE, pressed, outcome(pressed, later=2, acted=swapped, oddities={"replaced": 705}))
    assert (one.why, one.wrong, one.data) == ("", "away", "later")
    assert dict(one.differs) == {"wrong": "away"}
    assert one.explanation == ""
    assert one.open


@pytest.mark.parametrize("rules", [("not-pinned",), ("pin-leak", "not-pinned"), ("copied-away", "free-page")])
def test_a_verdict_about_the_stock_driver_is_never_as_expected(rules: tuple[str, ...]) -> None:
    """Where nothing is wrong with data and pages, the checker is."""
    one = judge(TABLE, cell(event="compact"), outcome(cell(event="compact"), rules=rules))
    assert one.accused
    assert one.open
    told = [
        line for line in shortfalls(TABLE, [one], whole=False) if "the driver is the kernel's own" in line
    ]
    assert len(told) == 1
    altered = cell("2009", event="compact")
    assert not judge(TABLE, altered, outcome(altered, rules=rules)).accused


def test_a_copy_on_5_10_accuses_nobody() -> None:
    old = cell(kernel="bullseye-5.10")
    one = judge(TABLE, old, outcome(old, lost=7, rules=("copied-away",)))
    assert (one.wrong, one.accused, one.open) == ("yes", frozenset(), False)


def test_a_weak_reference_alone_is_no_wrong_page() -> None:
    one = judge(TABLE, cell("2009"), outcome(cell("2009"), rules=("not-pinned",)))
    assert (one.wrong, one.value("given")) == ("no", "no")


def test_a_loss_after_the_close_is_told_apart() -> None:
    fsync = cell("no-dirty", "shared-file", "fsync")
    dropped = outcome(fsync, later=2, rules=("not-dirtied",))
    assert dropped.program is not None
    dropped.program.events[:2] = [
        FRAME | {"queued": {"pages": 216}},
        AFTER | {"done": {"pages": 216, "absent": 216}},
    ]
    one = judge(TABLE, fsync, dropped)
    assert (one.why, one.data, one.escaped) == ("", "later", False)


def test_refusals_count_and_failures_do_not() -> None:
    played = outcome(cell())
    assert played.program is not None
    played.program = ProgramResult(NOT_OFFERED, [{"event": "not-offered", "what": "QBUF", "text": "no"}], "")
    refused = judge(TABLE, cell(), played)
    assert refused.refused
    assert refused.played
    assert refused.surprise
    crashed = replace(outcome(cell()), trouble="the guest ended")
    failed = judge(TABLE, cell(), crashed)
    assert not failed.played
    assert not failed.surprise


def test_an_unchecked_cell_proves_nothing() -> None:
    one = judge(TABLE, cell(), outcome(cell(), attached=False, why_not="no kernel"))
    assert "not attached" in one.why


def test_an_act_that_never_happened_proves_nothing() -> None:
    idle = outcome(cell())
    assert idle.program is not None
    idle.program.events[-1]["acts"] = [{"act": "mprotect", "at": "active", "done": 0, "refused": 8}]
    one = judge(TABLE, cell(), idle)
    assert not one.played
    assert one.unproved
    assert one.why == "not shown: active/mprotect > 0 (0), active/touch > 0 (0)"


def test_acts_at_other_moments_do_not_count() -> None:
    """Paging out before the buffer is queued is no pressure during DMA."""
    pressed = cell(event="swap-pressure")
    early = outcome(pressed)
    assert early.program is not None
    early.program.events[-1]["acts"] = [{"act": "pageout", "at": "before", "done": 8, "refused": 0}]
    assert judge(TABLE, pressed, early).why == "not shown: active/pageout > 0 (0)"


def test_pages_that_were_never_swapped_prove_nothing() -> None:
    pressed = cell(event="swap-pressure")
    kept = outcome(pressed)
    assert kept.program is not None
    kept.program.events[1] = AFTER | {"done": {"pages": 216, "present": 216}}
    kept.program.events[-1]["vmstat"] = {}
    one = judge(TABLE, pressed, kept)
    assert one.why == "not shown: closed.swapped > 0 (0), vmstat.pswpout > closed.swapped (0)"


def test_an_act_between_two_fields_is_not_during_dma() -> None:
    late = outcome(cell())
    assert late.program is not None
    late.program.events[0] = FRAME | {"caught": 0, "during": 0}
    assert judge(TABLE, cell(), late).why == "not shown: caught > 0 (0), during > 0 (0)"


@pytest.mark.parametrize("frames", [8, 2])
def test_an_exit_is_seen_in_what_is_not_told_any_more(frames: int) -> None:
    leaves = cell(event="exit")
    found = outcome(leaves)
    assert found.program is not None
    found.program.events[:2] = [FRAME]
    found.program.events[-1]["frames"] = 5
    assert judge(TABLE, leaves, found).why == ""
    found.program.events[-1]["frames"] = frames
    assert not judge(TABLE, leaves, found).played


def test_every_cell_has_claims_of_its_event() -> None:
    for one in (one for kernel in recipe_names() for one in TABLE.cells(kernel)):
        if TABLE.senseless(one) is None:
            claims = " ".join(TABLE.claims(one))
            word = {"exit": "closed.pages", "map-again": "before/remap"}.get(one.event, "active/")
            assert word in claims, one
            assert len(TABLE.claims(one)) >= 3 or one.event == "map-again", one


def test_evidence_is_told_apart_by_moment() -> None:
    counts = counted(outcome(cell()))
    assert (counts["before/pageout"], counts["active/pageout"], counts["closed.swapped"]) == (8, 8, 216)
    assert any_holds("nothing > 0 | caught > 0", counts)
    assert not any_holds("nothing > 0 | caught == 0", counts)


def test_a_cell_is_played_again_until_it_shows_something() -> None:
    results = [Answer(cell(), Expected(), "not shown: x", unproved=True, seconds=1.0)] * 2
    results.append(Answer(cell(), Expected(), wrong="no", data="kept", seconds=2.0))
    left = iter(results)
    one = until_proved(lambda: next(left))
    assert (one.played, one.tries, one.seconds) == (True, 3, 4.0)
    never = until_proved(lambda: results[0])
    assert (never.played, never.tries) == (False, 6)
    refused = until_proved(lambda: Answer(cell(), Expected(), "QBUF: no", refused=True))
    assert refused.tries == 1


def test_a_loss_without_a_word_is_an_escape() -> None:
    quiet = cell("no-dirty", "anonymous", "swap-pressure", "trixie-6.12")
    one = judge(TABLE, quiet, outcome(quiet, later=2, oddities={"release-seen-late": 1728}))
    assert (one.why, one.surprise, one.escaped) == ("", False, True)
    assert one.open is (not one.escape)
    told = judge(TABLE, quiet, outcome(quiet, later=2, rules=("not-dirtied",)))
    assert (told.escaped, told.open) == (False, False)
    assert "(**escaped**)" in markdown(TABLE, [one], [])
    assert "| trixie-6.12 | no-dirty/anonymous/swap-pressure | 1728 |" in markdown(TABLE, [one], [])


def test_an_explanation_is_for_what_it_names() -> None:
    """One that tells why data was lost later says nothing of pages that went away."""
    line = {"event": "mprotect", "data": "later", "why": "because"}
    table = replace(TABLE, explanations=[line])
    assert table.explanation(cell(), {"data": "later"}) == "because"
    assert table.explanation(cell(), {"data": "lost"}) == ""
    assert table.explanation(cell(), {"wrong": "own", "data": "later"}) == ""
    assert table.explanation(cell(), {}) == ""


def test_every_explanation_names_what_it_explains() -> None:
    for line in TABLE.explanations:
        assert {"wrong", "data", "refused"} & set(line), line


def test_hugetlb_on_5_10_has_no_dontneed() -> None:
    lacks = cell(memory="hugetlb", event="dontneed", kernel="bullseye-5.10")
    assert "5.18 (90e7e7f5ef3f)" in str(TABLE.senseless(lacks))
    assert TABLE.senseless(replace(lacks, kernel=KERNEL)) is None


def answers(*, wrong: str = "no", data: str = "kept") -> list[Answer]:
    return [
        Answer(one, Expected(), wrong=wrong, data=data, pages=1, frames=1)
        for one in TABLE.cells(KERNEL)
        if TABLE.senseless(one) is None
    ]


def as_expected() -> list[Answer]:
    """A whole run in which everything came as was written down, cells that cannot be included."""
    found = []
    for one in (one for kernel in recipe_names() for one in TABLE.cells(kernel)):
        expected, reason = TABLE.expected(one), TABLE.senseless(one)
        if reason is not None:
            found.append(Answer(one, expected, reason, left_out=True))
        elif expected.refused:
            found.append(Answer(one, expected, "QBUF: no", refused=True))
        else:
            wrong, data = expected.wrong.split("|")[0], expected.data.split("|")[-1]
            found.append(Answer(one, expected, wrong=wrong, data=data))
    return found


def hugetlb_is_copied(one: Answer) -> Answer:
    """As 5.10 has it, against what was expected."""
    if (one.cell.kernel, one.cell.memory, one.cell.event) != ("bullseye-5.10", "hugetlb", "fork-write"):
        return one
    found = replace(one, wrong="yes", data="lost", rules=("copied-away",))
    return replace(found, explanation=TABLE.explanation(found.cell, found.differs))


def whole_run() -> list[Answer]:
    return [hugetlb_is_copied(one) for one in as_expected()]


def test_a_run_with_cells_that_cannot_be_is_clean() -> None:
    cells = whole_run()
    assert any(one.left_out and one.cell.event == "dontneed" for one in cells)
    assert exit_status(TABLE, cells, whole=True) is ExitStatus.CLEAN
    assert list(shortfalls(TABLE, cells, whole=True)) == []


def test_a_cell_that_shows_nothing_is_no_answer() -> None:
    cells = whole_run()
    cells[0] = replace(cells[0], why="the guest ended")
    assert exit_status(TABLE, cells, whole=True) is ExitStatus.GUEST
    (text,) = shortfalls(TABLE, cells, whole=True)
    assert text.endswith("the guest ended")
    assert "## Cells that show nothing" in markdown(TABLE, cells, [])


def test_a_sentence_that_is_not_borne_out_is_a_finding() -> None:
    cells = as_expected()
    assert exit_status(TABLE, cells, whole=True) is ExitStatus.FINDINGS
    assert list(shortfalls(TABLE, cells, whole=True)) == [
        "the verdict: 1 cells do not bear it out",
        "sentence 2: 1 cells do not bear it out",
    ]


def test_a_sentence_without_cells_is_a_finding_of_a_whole_run() -> None:
    some = [one for one in whole_run() if one.cell.event != "mprotect"]
    assert exit_status(TABLE, some, whole=True) is ExitStatus.FINDINGS
    assert exit_status(TABLE, some, whole=False) is ExitStatus.CLEAN
    assert list(shortfalls(TABLE, some, whole=True)) == ["sentence 1: no cell is about it"]


def test_a_difference_counts_until_somebody_explains_it() -> None:
    cells = whole_run()
    at = next(i for i, one in enumerate(cells) if one.cell == cell(memory="thp", event="dontneed"))
    cells[at] = replace(cells[at], wrong="away")
    assert exit_status(TABLE, cells, whole=True) is ExitStatus.FINDINGS
    (text,) = shortfalls(TABLE, cells, whole=True)
    assert text.endswith("away, lost, expected own, lost, and nobody has explained it")
    cells[at] = replace(cells[at], explanation="because")
    assert exit_status(TABLE, cells, whole=True) is ExitStatus.CLEAN


def test_an_escape_counts_until_somebody_explains_it() -> None:
    cells = whole_run()
    at = next(i for i, one in enumerate(cells) if one.cell == cell("no-dirty", event="swap-pressure"))
    cells[at] = replace(cells[at], data="later", altered=True)
    assert exit_status(TABLE, cells, whole=True) is ExitStatus.FINDINGS
    assert next(iter(shortfalls(TABLE, cells, whole=True))).endswith("nobody has explained it")
    cells[at] = replace(cells[at], escape="because")
    assert exit_status(TABLE, cells, whole=True) is ExitStatus.CLEAN


def test_the_clearest_demonstrations_come_first() -> None:
    first = TABLE.sentences[0]
    assert {"kernel": "bullseye-*", "driver": "stock"}.items() <= first.shown[0].cells.items()
    assert first.shown[0].cells["event"] == "mprotect"
    assert all(shown.cells["driver"] == "stock" for one in TABLE.sentences[:4] for shown in one.shown)


def test_a_sentence_is_held_against_its_cells() -> None:
    shown = Shown({"driver": "stock", "event": "ksm|compact"}, {"wrong": "no"})
    sentence = Sentence("All is well.", (shown,))
    good, bad = bearing(sentence, answers())
    assert len(good) == 6 + 3
    assert bad == []
    good, bad = bearing(sentence, answers(wrong="yes"))
    assert (len(good), len(bad)) == (0, 9)


def test_a_sentence_that_is_not_borne_out_says_so() -> None:
    table = replace(
        TABLE, sentences=[Sentence("All is well.", (Shown({"driver": "stock"}, {"wrong": "no"}),))]
    )
    assert spoken(table, answers()).startswith("1. All is well. (driver stock: ")
    assert "**Not borne out** by " in spoken(table, answers(wrong="yes"))
    assert "(not played) All is well." in spoken(table, [])


def test_the_first_paragraph_is_the_answer_and_the_second_its_figures() -> None:
    verdict = Sentence("No. But so it is.", (Shown({"driver": "stock"}, {"wrong": "no"}),))
    table = replace(TABLE, verdict=verdict)
    good, bad = answers(), answers(wrong="yes")
    text = markdown(table, good, []).split("\n\n")
    assert text[1] == "No. But so it is."
    about = len(bearing(verdict, good)[0])
    assert text[2].startswith(f"Shown by {about} of the {about} cells that this is about. In all ")
    assert f"{sum(one.frames for one in good)} frames" in text[2]
    assert markdown(table, bad, []).split("\n\n")[1] == "**Not borne out by this run:** No. But so it is."
    assert not any("verdict" in line for line in shortfalls(table, good, whole=True))
    assert f"the verdict: {about} cells do not bear it out" in shortfalls(table, bad, whole=True)


def test_the_verdict_has_two_sentences_about_cells_that_can_be_played() -> None:
    cells = [one for kernel in recipe_names() for one in TABLE.cells(kernel) if TABLE.senseless(one) is None]
    assert TABLE.verdict is not None
    assert len(TABLE.verdict.says.split(". ")) == 2
    for shown in TABLE.verdict.shown:
        assert any(one.fits(shown.cells) for one in cells), shown


def test_differences_are_listed_with_their_explanation() -> None:
    odd = replace(answers(wrong="yes")[0], explanation="because")
    text = markdown(TABLE, [odd], [])
    assert "| no, kept | yes, kept | because |" in text
    assert "1 of 1 differences are explained." in text


def test_json_holds_every_cell() -> None:
    found = json.loads(to_json(TABLE, answers(), RUNS))
    assert len(found["cells"]) == len(answers())
    assert {"cell", "wrong", "data", "played", "surprise", "proof"} <= set(found["cells"][0])


RUNS = [
    Played(KERNEL, "2026-11-23T18:00:00+00:00", [{"name": "linux-image-6.1", "version": "6.1.1"}], 245.5, 2),
    Played("trixie-6.12", "2026-11-23T18:05:00+00:00", [], 120.0, 1),
]


def test_when_and_how_long_it_took_is_told() -> None:
    found = json.loads(to_json(TABLE, answers(), RUNS))
    assert (found["started"], found["seconds"]) == ("2026-11-23T18:00:00+00:00", 365.5)
    assert found["kernels"][0] == {"kernel": KERNEL, "started": RUNS[0].started, "seconds": 245.5, "boots": 2}
    assert found["packages"][KERNEL] == RUNS[0].packages
    text = markdown(TABLE, answers(), RUNS)
    assert "from 2026-11-23 18:00 UTC on: 6 min 5 s in all" in text
    assert f"| {KERNEL} | linux-image-6.1 6.1.1 | 2026-11-23 18:00 UTC | 4 min 5 s | 2 |" in text


def test_every_sentence_is_about_cells_that_can_be_played() -> None:
    cells = [one for kernel in recipe_names() for one in TABLE.cells(kernel) if TABLE.senseless(one) is None]
    assert len(TABLE.sentences) == 10
    for sentence in TABLE.sentences:
        for shown in sentence.shown:
            assert set(shown.cells) <= {"kernel", "driver", "memory", "event"}
            assert set(shown.claim) <= {"wrong", "data", "given", "refused"}
            assert any(one.fits(shown.cells) for one in cells), sentence.says


def test_expectations_speak_of_what_there_is() -> None:
    axes = {"driver": TABLE.drivers, "memory": TABLE.memories, "event": TABLE.events}
    for line in TABLE.expectations:
        for axis, names in axes.items():
            assert all(name in names for name in str(line.get(axis, next(iter(names)))).split("|")), line
        assert set(str(line.get("data", "kept")).split("|")) <= {"kept", "lost", "later"}
        assert set(str(line.get("wrong", "no")).split("|")) <= {"no", "own", "yes"}, line


def test_the_first_driver_that_fits_is_taken() -> None:
    def build(name: str) -> dict[str, Path]:
        if name == "old":
            raise UsageError("old is not for this kernel")
        return {"module": Path(name)}

    assert driver_for(["old", "new"], build) == ("new", {"module": Path("new")})
    assert driver_for([], build) == (None, {})
    with pytest.raises(UsageError, match="none of the altered drivers old"):
        driver_for(["old"], build)


def test_altered_drivers_exist() -> None:
    known = {mutant.name for mutant in mutants()}
    assert all(set(about["mutants"]) <= known for about in TABLE.drivers.values())


def test_a_wrong_table_is_a_users_error(tmp_path: Path) -> None:
    path = tmp_path / "answer.yaml"
    path.write_text("drivers: {}\n")
    with pytest.raises(UsageError, match=r"answer\.yaml"):
        load_table(path)


def test_scenes_are_written_for_the_scene_program() -> None:
    table: Table = TABLE
    for one in table.cells(KERNEL):
        scene = table.scene(one, None)
        assert scene.program[0] == "vcap-scene"
        assert scene.clock == "paced"
        assert len(scene.setup) >= len(scene.teardown) > 0 or not scene.setup
