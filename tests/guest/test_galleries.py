# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of each gallery on two kernels, one with videobuf and one with videobuf2.

Altered drivers must be caught, with the right blame; look-alikes must be passed over in silence, with proof
that their state was there; cells of the answer must come as they were written down.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from vcapdev.gallery import matrix
from vcapdev.gallery.answer import driver_for, play_cell
from vcapdev.gallery.answer_table import Cell, load_table
from vcapdev.gallery.hand import scene_of
from vcapdev.gallery.lookalike import Result, judge
from vcapdev.gallery.lookalike_scenes import all_lookalikes
from vcapdev.gallery.lookalikes import with_modules
from vcapdev.gallery.stage import Stage
from vcapdev.image.mutants import find_mutant

pytestmark = pytest.mark.guest

OLD, NEW = "bookworm-6.1", "trixie-6.12"
MUTANTS = {
    OLD: ("done-early", "no-dirty", "offset-rounded", "past-end"),
    NEW: ("past-end", "vb2-early-unpin", "vb2-last-page-unpinned", "vb2-leak", "vb2-no-dirty"),
}
LOOKALIKES = {
    OLD: (
        "ext4-file",
        "fork-parent",
        "hugetlb",
        "kill",
        "munmap",
        "shared-edges",
        "thp",
        "unmapped-by-reclaim",
    ),
    NEW: ("dmabuf-import", "fork-parent", "mmap", "mprotect", "shared-edges", "swap-cache"),
}
CELLS = {
    OLD: ("2009/anonymous/fork-write", "no-dirty/shared-file/fsync"),
    NEW: ("2009/anonymous/fork-write", "no-dirty/anonymous/swap-pressure", "stock/shared-file/fsync"),
}  # fmt: skip


def on_both(sample: Mapping[str, tuple[str, ...]]) -> pytest.MarkDecorator:
    """One test for each of a sample, on its kernel's stage."""
    pairs = [(kernel, name) for kernel, names in sample.items() for name in names]
    return pytest.mark.parametrize(("stage", "name"), pairs, indirect=["stage"], scope="session")


@on_both(MUTANTS)
def test_an_altered_driver_is_caught_and_the_right_thing_blamed(stage: Stage, name: str) -> None:
    mutant = find_mutant(name)
    outcome = stage.run_scene(scene_of(mutant))
    row = matrix.judge(mutant, outcome)
    assert row.good, matrix.table([row])
    assert not outcome.trouble
    assert not outcome.failures, "the guest itself has nothing to complain of"
    assert stage.up is not outcome.damaged, "a guest in whose memory the card has gone astray is replaced"


@on_both(LOOKALIKES)
def test_a_lookalike_is_met_with_silence_and_was_really_there(stage: Stage, name: str) -> None:
    lookalike = next(one for one in all_lookalikes() if one.name == name)
    played = judge(lookalike, stage.run_scene(with_modules(lookalike, stage.prepared)))
    assert (played.result, played.why) == (Result.SILENT, played.why)
    assert played.pages > 1000
    assert played.triples
    assert stage.up


@on_both(CELLS)
def test_a_cell_of_the_answer_comes_as_it_was_written_down(stage: Stage, name: str) -> None:
    table, (driver, memory, event) = load_table(), name.split("/")
    variant, _ = driver_for(table.drivers[driver]["mutants"], stage.variants)
    answer = play_cell(table, Cell(stage.kernel, driver, memory, event), variant, stage)
    assert answer.played, answer.why
    assert not answer.surprise, answer
