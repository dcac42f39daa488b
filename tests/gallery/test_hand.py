# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the hand-made mutants: each description becomes a scene and names rules that exist."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vcapdev.dmacheck.contract import CONTRACT_RULES
from vcapdev.dmacheck.rules import ALL_RULES
from vcapdev.errors import UsageError
from vcapdev.gallery.blame import either
from vcapdev.gallery.hand import FRAMES, GUEST, scene_of
from vcapdev.gallery.mutants import chosen
from vcapdev.image.mutants import Mutant, find_mutant, mutants

NAMES = {rule.name for rule in (*ALL_RULES, *CONTRACT_RULES)} | {FRAMES, GUEST}


def test_there_are_thirty_altered_drivers_and_more() -> None:
    assert len({mutant.diff for mutant in mutants()}) >= 30


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_each_is_described_in_full(mutant: Mutant) -> None:
    assert {*either(mutant.rule), *mutant.also} <= NAMES
    scene = scene_of(mutant)
    assert scene.modules == mutant.name
    assert scene.expect.rules in (set(), {mutant.rule})
    assert scene.unload
    assert len(mutant.diff.read_text().splitlines()) < 60


def test_a_run_becomes_a_command_with_its_picture() -> None:
    scene = scene_of(find_mutant("no-dirty"))
    assert scene.program[:3] == ("vcap-capture", "--expect", "/tmp/expect")
    assert scene.program[-1] == "--clean"
    planar = scene_of(find_mutant("chroma-past-end"))
    assert planar.program[0] == "vcap-scene"
    assert planar.picture.format == "YU12"


def test_machine_needs_go_into_the_boot() -> None:
    assert "movablecore" in scene_of(find_mutant("no-longterm")).machine.append


@pytest.mark.parametrize("part", ["run", "machine"])
def test_unknown_keys_are_refused_by_name(part: str) -> None:
    mutant = replace(find_mutant("leak"), **{part: {"nonsense": 1}})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"mutant leak: .* nonsense"):
        scene_of(mutant)


def test_mutants_are_chosen_by_parts_of_their_names() -> None:
    names = {mutant.name for mutant in chosen(["leak-l", "no-spl"])}
    assert names == {"leak-last", "vb2-leak-last", "no-split"}
    with pytest.raises(UsageError, match="no altered driver has 'zzz' in its name"):
        chosen(["zzz"])
