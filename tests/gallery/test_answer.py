# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer: cells are judged by what was seen, and a sentence that its cells do not bear out says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.gallery.answer import Answer, driver_for, judge
from vcapdev.gallery.answer_report import bearing, markdown, spoken, to_json
from vcapdev.gallery.answer_table import Cell, Expected, Sentence, Shown, Table, load_table
from vcapdev.gallery.lookalike import NOT_OFFERED
from vcapdev.gallery.scene import Json, Outcome, ProgramResult
from vcapdev.image.mutants import mutants
from vcapdev.image.recipe import recipe_names

KERNEL = "bookworm-6.1"
TABLE = load_table()


def outcome(
    cell: Cell, *, lost: int = 0, later: int = 0, rules: tuple[str, ...] = (), **status: object
) -> Outcome:
    """A cell that was played, with so many lost frames."""
    summary: Json = {
        "event": "summary",
        "read_back": {"intact": 8 - lost, "lost": lost},
        "after_close": {"intact": 2 - later, "lost": later},
        "acts": [{"act": "mprotect", "done": 8, "refused": 0}],
    }
    found = Outcome(TABLE.scene(cell, None), cell.kernel)
    found.program = ProgramResult(0, [summary], "")
    found.status = {"attached": True, "pages_checked": 3456, **status}
    found.verdicts = [{"rule": rule} for rule in rules]
    return found


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
    one = judge(
        TABLE, cell(event="dontneed"), outcome(cell(), lost=8, contract={"mapping": {"replaced": 216}})
    )
    assert (one.wrong, one.data, one.surprise) == ("own", "lost", False)


def test_a_weak_reference_alone_is_no_wrong_page() -> None:
    one = judge(TABLE, cell("2009"), outcome(cell("2009"), rules=("not-pinned",)))
    assert (one.wrong, one.value("given")) == ("no", "no")


def test_a_loss_after_the_close_is_told_apart() -> None:
    fsync = cell("no-dirty", "shared-file", "fsync")
    assert judge(TABLE, fsync, outcome(fsync, later=2, rules=("not-dirtied",))).data == "later"


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
    idle.program.events[0]["acts"] = [{"act": "mprotect", "done": 0, "refused": 8}]
    assert judge(TABLE, cell(), idle).why == "the act was never done"


def answers(*, wrong: str = "no", data: str = "kept") -> list[Answer]:
    return [
        Answer(one, Expected(), wrong=wrong, data=data, pages=1, frames=1)
        for one in TABLE.cells(KERNEL)
        if TABLE.senseless(one) is None
    ]


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


def test_differences_are_listed_with_their_explanation() -> None:
    odd = replace(answers(wrong="yes")[0], explanation="because")
    text = markdown(TABLE, [odd])
    assert "| no, kept | yes kept | because |" in text
    assert "1 of 1 differences are explained." in text


def test_json_holds_every_cell() -> None:
    found = json.loads(to_json(TABLE, answers(), {KERNEL: []}))
    assert len(found["cells"]) == len(answers())
    assert {"cell", "wrong", "data", "played", "surprise"} <= set(found["cells"][0])


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
        assert set(str(line.get("wrong", "no")).split("|")) <= {"no", "own", "yes"}


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
