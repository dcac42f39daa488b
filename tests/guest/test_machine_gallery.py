# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of the mutants by machine on two kernels; what is known of others is still about something."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from vcapdev.gallery.acts import UNALIGNED
from vcapdev.gallery.equivalents import load_equivalents
from vcapdev.gallery.machine import Caught, Machine
from vcapdev.gallery.machines import sources, stale
from vcapdev.gallery.mutate import Mutation, mutations
from vcapdev.gallery.stage import Stage
from vcapdev.image.kbuild import Builder
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare

pytestmark = pytest.mark.guest

OLD, NEW = "bookworm-6.1", "trixie-6.12"
#: The beginning of the line, the kind of change, what is taken out; and what must come of it.
SAMPLE = {
    OLD: (
        ("dma->direction == DMA_FROM_DEVICE", "wrong-flag", "DMA_FROM_DEVICE", Caught.RULE),
        ("offset += padding;", "drop-assignment", "offset += padding", Caught.FRAMES),
    ),
    NEW: (
        ("unpin_user_pages(pages, vec->nr_frames);", "drop-call", "unpin_user_pages", Caught.RULE),
        ("set_page_dirty_lock(buf->pages[i]);", "drop-call", "set_page_dirty_lock", Caught.RULE),
    ),
}


@cache
def ground(kernel: str) -> tuple[Builder, dict[str, str], list[Mutation]]:
    """A kernel's files, and every change that can be made to them."""
    guest = prepare(RunOptions(kernel=kernel), Silent()).guest
    builder = Builder(load_recipe(kernel), guest, Silent())
    texts = sources(builder.tree.source)
    return builder, texts, [one for file, text in texts.items() for one in mutations(file, text)]


@pytest.mark.parametrize(
    ("stage", "sample"),
    [(kernel, each) for kernel, some in SAMPLE.items() for each in some],
    indirect=["stage"],
    scope="session",
)
def test_changes_by_machine_are_caught(
    stage: Stage, sample: tuple[str, str, str, Caught], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, texts, every = ground(stage.kernel)
    line, kind, old, caught = sample
    found = [
        one for one in every if one.text.startswith(line) and one.kind == kind and one.old.startswith(old)
    ]
    modules: dict[str, Mapping[str, Path]] = {}
    monkeypatch.setattr(stage, "variants", modules.__getitem__)
    machine = Machine(stage, builder.build, texts, lambda mutant: (UNALIGNED,), modules=modules)
    fate = next(machine.play(found[:1]))
    assert (fate.caught, fate.mutation.kind) == (caught, kind), fate
    assert stage.up, "the guest is as good as before"


def test_what_is_known_of_a_change_names_one_that_is_made() -> None:
    each_kernel = [ground(kernel)[2] for kernel in (OLD, NEW)]
    every = [one for some in each_kernel for one in some]
    assert len({one.file for one in every}) == 5
    known = load_equivalents()
    assert known
    assert stale(known, every) == []
    for some in each_kernel:
        assert [one for one in known if sum(map(one.covers, some)) > one.changes] == [], "say what is below"
    assert {one.file for one in known} <= {one.file.rpartition("/")[2] for one in every}
