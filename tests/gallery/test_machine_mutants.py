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
from vcapdev.gallery.acts import ACTS, USERPTR, acts_for, vbi_damage
from vcapdev.gallery.machine import Caught, Equivalence, Fate, Machine, verdict_on
from vcapdev.gallery.machine_report import markdown, to_json, totals
from vcapdev.gallery.machines import in_turn, load_equivalents, sources
from vcapdev.gallery.mutate import Mutation, mutations
from vcapdev.gallery.scene import GuestReport, Outcome, ProgramResult, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.drivertree import Change
from vcapdev.image.kbuild import Built

FILE = "drivers/media/v4l2-core/videobuf-dma-sg.c"
TEXT = "int f(struct b *b)\n{\n\tpin(b->pages);\n\tif (b->size)\n\t\treturn 1;\n\tmark(b);\n\treturn 0;\n}\n"
MUTANTS = mutations(FILE, TEXT)


class FakeStage:
    """Plays nothing; each scene comes out as it is told to."""

    kernel, up = "bookworm-6.1", True

    def __init__(self, come: Callable[[Outcome], None]) -> None:
        self._come = come
        self.played: list[Scene] = []

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
    return Machine(cast(Stage, stage), build, {FILE: TEXT}, **more), stage  # type: ignore[arg-type]


def fates(made: Machine) -> dict[str, Fate]:
    return {fate.mutation.title: fate for fate in made.play(MUTANTS)}


def test_what_nothing_notices_has_escaped_after_every_act(tmp_path: Path) -> None:
    made, stage = machine(tmp_path)
    found = fates(made)
    assert {fate.caught for fate in found.values()} == {Caught.ESCAPED}
    assert len(stage.played) == len(MUTANTS) * len(acts_for(FILE))
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


def test_a_function_that_is_never_run_is_not_played(tmp_path: Path) -> None:
    made, stage = machine(tmp_path, unreached={"f"})
    assert {fate.caught for fate in fates(made).values()} == {Caught.UNREACHED}
    assert stage.played == []


def test_a_known_equivalent_is_one_only_if_nothing_noticed_it(tmp_path: Path) -> None:
    drop = next(one for one in MUTANTS if one.kind == "drop-call")
    known = [Equivalence("videobuf-dma-sg.c", "f", drop.title, "it was dirty before")]
    made, _ = machine(tmp_path, known=known)
    fate = next(made.play([drop]))
    assert (fate.caught, fate.by) == (Caught.EQUIVALENT, "it was dirty before")

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


def test_every_file_has_acts() -> None:
    for file in (FILE, "bttv-risc.c", "bttv-vbi.c", "frame_vector.c"):
        assert acts_for(file)
        assert all(act in ACTS for act in acts_for(file))


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
