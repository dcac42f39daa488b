# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants by machine: who noticed, in which order of precedence, and what does not count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from vcapdev.bt878.pattern import KIND_VBI, PictureKey, Shot, picture
from vcapdev.errors import UsageError
from vcapdev.gallery.acts import ACTS, MMAP, USERPTR, acts_on, lines_left_out, slots_left, vbi_damage
from vcapdev.gallery.equivalents import load_equivalents
from vcapdev.gallery.machine import Caught, Equivalence, Fate, Machine, verdict_on
from vcapdev.gallery.machine_page import main, page
from vcapdev.gallery.machine_report import markdown, to_json, totals, write
from vcapdev.gallery.machines import Ground, about_ground, earlier, in_turn, sources, stale
from vcapdev.gallery.mutant_options import MutantOptions
from vcapdev.gallery.mutate import Mutation, mutations
from vcapdev.gallery.reach import Reach
from vcapdev.gallery.scene import GuestReport, Outcome, ProgramResult, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.drivertree import Change
from vcapdev.image.kbuild import Built

FILE = "drivers/media/v4l2-core/videobuf-dma-sg.c"
TEXT = "int f(struct b *b)\n{\n\tpin(b->pages);\n\tif (b->size)\n\t\treturn 1;\n\tmark(b);\n\treturn 0;\n}\n"
MUTANTS = mutations(FILE, TEXT)
BOTH = (USERPTR, MMAP)


class FakeStage:
    """Plays nothing; each scene comes out as it is told to."""

    kernel, up = "bookworm-6.1", True
    settings: dict[str, int] = {"E_CROP": 1}

    def __init__(self, come: Callable[[Outcome], None]) -> None:
        self._come = come
        self.played: list[Scene] = []

    def registers(self) -> dict[str, int]:
        return self.settings

    def run_scene(self, scene: Scene) -> Outcome:
        self.played.append(scene)
        outcome = Outcome(scene, self.kernel)
        outcome.program = ProgramResult(0, [], "")
        self._come(outcome)
        return outcome


def machine(
    tmp_path: Path, come: Callable[[Outcome], None] = lambda _: None, *, same: bool = False, **more: object
) -> tuple[Machine, FakeStage]:
    def build(change: Change) -> Built:
        text = change.texts[FILE]
        if b"mark(b);\n\tpin" in text:
            return Built(change, error="error: no")
        module = tmp_path / f"{hashlib.sha256(text).hexdigest()}.ko"  # it is called from two threads
        module.write_bytes(b"same" if same else text)
        return Built(change, {"videobuf-dma-sg": module})

    stage = FakeStage(come)
    more.setdefault("acts", lambda mutant: BOTH)
    return Machine(cast(Stage, stage), build, {FILE: TEXT}, **more), stage  # type: ignore[arg-type]


def fates(made: Machine) -> dict[str, Fate]:
    return {fate.mutation.title: fate for fate in made.play(MUTANTS)}


def test_what_nothing_notices_has_escaped_after_every_act(tmp_path: Path) -> None:
    made, stage = machine(tmp_path)
    found = fates(made)
    assert {fate.caught for fate in found.values()} == {Caught.ESCAPED}
    assert len(stage.played) == len(MUTANTS) * len(BOTH)
    assert {fate.act for fate in found.values()} == {"userptr, mmap"}
    assert made.modules == {}


def test_a_rule_goes_before_all_else() -> None:
    outcome = Outcome(USERPTR.scene, "k", verdicts=[{"rule": "not-pinned"}], trouble="the guest crashed")
    outcome.reports.append(GuestReport("oops", "BUG: something", True))
    outcome.program = ProgramResult(3, [], "no")
    assert verdict_on(outcome, USERPTR, cast(Stage, None)) == (Caught.RULE, "not-pinned")
    outcome.verdicts.clear()
    assert verdict_on(outcome, USERPTR, cast(Stage, None)) == (Caught.GUEST, "BUG: something")
    outcome.reports.clear()
    assert verdict_on(outcome, USERPTR, cast(Stage, None)) == (Caught.FRAMES, "the guest crashed")
    outcome.trouble = ""
    assert verdict_on(outcome, USERPTR, cast(Stage, None)) == (Caught.FRAMES, "status 3: no")


def test_a_lost_frame_has_to_be_lost_twice(tmp_path: Path) -> None:
    times: list[int] = []

    def once(outcome: Outcome) -> None:
        outcome.frames.damaged = 1 if not times else 0
        times.append(1)

    made, _ = machine(tmp_path, once)
    assert next(made.play(MUTANTS[:1])).caught is Caught.ESCAPED

    def always(outcome: Outcome) -> None:
        outcome.frames.damaged = 1

    made, _ = machine(tmp_path, always)
    assert next(made.play(MUTANTS[:1])).caught is Caught.FRAMES


def test_the_same_code_is_equivalent_and_not_played(tmp_path: Path) -> None:
    made, stage = machine(tmp_path, same=True)
    assert {fate.caught for fate in fates(made).values()} == {Caught.EQUIVALENT}
    assert stage.played == []


def test_a_statement_that_is_never_run_is_not_played(tmp_path: Path) -> None:
    made, stage = machine(tmp_path, acts=lambda mutant: ())
    assert {fate.caught for fate in fates(made).values()} == {Caught.UNREACHED}
    assert stage.played == []


def test_a_known_equivalent_is_one_only_if_nothing_noticed_it(tmp_path: Path) -> None:
    drop = next(one for one in MUTANTS if one.kind == "drop-call")
    known = [
        Equivalence(
            "videobuf-dma-sg.c", "f", "pin(b->pages);", "drop-call", drop.title, "it was dirty before"
        )
    ]
    made, _ = machine(tmp_path, known=known)
    fate = next(made.play([drop]))
    assert (fate.caught, fate.by) == (Caught.EQUIVALENT, "it was dirty before")
    assert stale(known, MUTANTS) == []
    assert stale(known, MUTANTS[:1]) == ([] if known[0].covers(MUTANTS[0]) else known)
    assert stale(known, mutations("a/other.c", TEXT)) == [], "of another kernel's file nothing is known"

    def noticed(outcome: Outcome) -> None:
        outcome.verdicts.append({"rule": "not-dirtied"})

    made, _ = machine(tmp_path, noticed, known=known)
    assert next(made.play([drop])).caught is Caught.RULE


def test_denominators_leave_out_what_could_not_be_caught() -> None:
    each = [Fate("k", MUTANTS[0], caught) for caught in Caught]
    sums = totals(each)
    assert (sums["made"], sums["compiled"], sums["could_be_caught"]) == (7, 6, 4)
    assert json.loads(to_json(each, {"kernel": "k"}))["totals"] == sums
    text = markdown(each, {"kernel": "k", "release": "6.1"})
    assert "7 changes were made, 6 compiled, 4 could be caught." in text
    assert "### Escaped" in text


def test_the_page_is_made_of_reports_and_of_what_is_known_by_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drop = next(one for one in MUTANTS if one.kind == "drop-call")
    each = [
        Fate("k", drop, Caught.ESCAPED, act="mmap"),
        Fate("k", MUTANTS[0], Caught.RULE, "pin-leak", "read"),
    ]
    about = {"kernel": "k", "release": "6.1", "when": "2026-11-23", "cpus": 2, "took": {"play": 90.0}}
    about["load"] = {"before": 0.5, "median": 2.0}
    write(tmp_path, each, about)
    text = page([tmp_path], [])
    assert "| not known; played in mmap |" in text
    assert "pin-leak (read) |" in text
    assert "Of these 1 were caught (50.0 %)." in text
    assert "play 1.5 min on 2 CPUs; load average 0.5 before, 2.0 meanwhile." in text
    known = Equivalence(
        "videobuf-dma-sg.c", "f", drop.text, "drop-call", drop.title, "it was dirty", same=False
    )
    assert "| it was dirty |" in page([tmp_path], [known])
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == page([tmp_path], load_equivalents())
    (tmp_path / "machine.json").write_text("[]")
    assert main([str(tmp_path)]) == 2
    assert "make mutants KIND=machine" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_with_its_report(tmp_path: Path) -> None:
    about = dict.fromkeys(("vcapdev", "kernel", "release", "qemu", "accelerator", "packages"), "x")
    again = MutantOptions(report=tmp_path, resume=True)
    assert earlier(again, about) == ([], about), "there is nothing yet"
    each = [Fate("k", MUTANTS[0], Caught.ESCAPED, act="mmap"), Fate("k", MUTANTS[1], Caught.RULE, "pin-leak")]
    load = {"before": 1.0, "median": 2.0, "each": [2.0]}
    write(tmp_path, each, about | {"took": {"play": 9}, "load": load, "boots": 3})
    fates, now = earlier(again, about)
    assert fates == each
    assert (now["sittings"], now["took_before"], now["load"], now["boots"]) == (2, {"play": 9}, load, 3)
    assert earlier(MutantOptions(report=tmp_path), about) == ([], about), "nobody asked for it"
    with pytest.raises(UsageError, match="another release"):
        earlier(again, about | {"release": "y"})
    with pytest.raises(UsageError, match="--report"):
        earlier(MutantOptions(resume=True), about)


def test_every_beginning_of_the_order_is_spread() -> None:
    many = MUTANTS + mutations("other.c", TEXT)
    order = in_turn(many, 1000)
    assert sorted(order, key=repr) == sorted(many, key=repr)
    assert len({one.file for one in order[:4]}) == 2


def test_a_kernel_uses_one_framework(tmp_path: Path) -> None:
    for file in (FILE, "drivers/media/common/videobuf2/frame_vector.c", "drivers/media/pci/bt8xx/bttv-vbi.c"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(TEXT)
    assert [Path(file).name for file in sources(tmp_path)] == ["videobuf-dma-sg.c", "bttv-vbi.c"]
    (tmp_path / FILE).unlink()
    assert [Path(file).name for file in sources(tmp_path)] == ["frame_vector.c", "bttv-vbi.c"]


def test_kernels_have_the_acts_that_they_can_play() -> None:
    old, new = ({act.name for act in acts_on(kernel)} for kernel in ("bookworm-6.1", "trixie-6.12"))
    assert old - new == {"edges-sided"}
    assert new - old == {"imported", "edges-first"}
    assert len({act.name for act in ACTS}) == len(ACTS)


def test_other_settings_or_answers_are_noticed(tmp_path: Path) -> None:
    def answered(outcome: Outcome) -> None:
        assert outcome.program is not None
        outcome.program.events.append({"event": "answer", "what": "QBUF", "value": 22})

    for expected, caught in (
        ({"E_CROP": 1, "1. QBUF": 22}, Caught.ESCAPED),
        ({"E_CROP": 2, "1. QBUF": 22}, Caught.FRAMES),
        ({"E_CROP": 1, "1. QBUF": 14}, Caught.FRAMES),
        ({"E_CROP": 1, "1. QBUF": 22, "2. STREAMON": 0}, Caught.FRAMES),
    ):
        made, _ = machine(tmp_path, answered, settings={"mmap": expected})
        fate = next(made.play(MUTANTS[:1]))
        assert fate.caught is caught, expected
        assert ("answers or settings" in fate.by) == (caught is Caught.FRAMES)


def test_what_the_program_finds_wrong_is_noticed(tmp_path: Path) -> None:
    def wrong(outcome: Outcome) -> None:
        assert outcome.program is not None
        outcome.program.events.append({"event": "wrong", "text": "3 pages stay pinned"})

    made, _ = machine(tmp_path, wrong)
    fate = next(made.play(MUTANTS[:1]))
    assert (fate.caught, fate.by) == (Caught.FRAMES, "3 pages stay pinned")


def test_what_cannot_be_loaded_is_the_guests_catch() -> None:
    outcome = Outcome(USERPTR.scene, "k", trouble="insmod /tmp/x.ko in the guest: no memory")
    assert verdict_on(outcome, USERPTR, cast(Stage, None))[0] is Caught.GUEST


def test_what_never_runs_is_counted_by_function() -> None:
    ground = Ground(Reach({"userptr": {(FILE, MUTANTS[0].needs)}}), {}, 6)
    about = about_ground(MUTANTS, MUTANTS[1:], ground)
    assert (about["can_be_made"], about["in_statements_never_run"]) == (len(MUTANTS), len(MUTANTS) - 1)
    assert about["never_run"] == [{"file": "videobuf-dma-sg.c", "function": "f", "changes": len(MUTANTS) - 1}]
    assert (about["statements"], about["statements_run"]) == (6, 1)
    assert f"{len(MUTANTS)} changes can be made" in markdown([], {"kernel": "k", **about})


def test_lines_that_are_left_out_for_video_recorders() -> None:
    data = bytearray(b"\1" * (640 * 192) + bytes(640 * 8))
    assert lines_left_out(bytes(data) * 2, 640, 200) == ""
    whole = b"\1" * (640 * 200)
    assert lines_left_out(whole + bytes(data), 640, 200) == "", "a frame of before may be among them"
    assert "came in all 2 frames" in lines_left_out(whole * 2, 640, 200)
    assert lines_left_out(bytes(640 * 200), 640, 200), "nothing came at all"
    assert "no frames" in lines_left_out(b"", 640, 200)


def test_slots_of_the_bounce_buffer_that_stay() -> None:
    assert slots_left(b"0\n") == ""
    assert "112 slots" in slots_left(b"112\n")


def test_known_equivalents_can_be_read() -> None:
    assert all(one.reason for one in load_equivalents())


def vbi_buffers(frames: int) -> bytes:
    lines = np.zeros((frames, 2, 16, 2048), np.uint8)
    for frame in range(frames):
        for parity in (0, 1):
            key = PictureKey(KIND_VBI, parity, 576, 16, 2044)
            lines[frame, parity, :, :2044] = Shot(picture(key), frame + 5).plane(0)
    return lines.tobytes()


@pytest.mark.parametrize(
    ("place", "said"), [(-1, ""), (100, "are not what the card sent"), (2048, "mixes frames")]
)
def test_damaged_vbi_lines_are_noticed(place: int, said: str) -> None:
    data = bytearray(vbi_buffers(2))
    if place >= 0:
        data[place] ^= 1
    found = vbi_damage(bytes(data), 2)
    assert said in found
    assert bool(found) == bool(said)
    assert "bytes of VBI lines" in vbi_damage(bytes(data[:-1]), 2)


def test_mutations_of_this_file_were_found() -> None:
    assert all(isinstance(one, Mutation) for one in MUTANTS)
    assert len(MUTANTS) >= 4
