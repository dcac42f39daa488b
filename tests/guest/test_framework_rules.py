# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects finding the buffers of both media frameworks in real kernels, and what is made of them.

Altered drivers break the framework's contract; a user takes memory away from under his buffers; 5.10 gives
its user a copy where later kernels do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from vcapdev.gallery.scene import Outcome, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Silent
from vcapdev.run.capture import EXPECT
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare

pytestmark = pytest.mark.guest

BROKEN = {  # altered driver: options of the program, and the rule that must fire
    "ignore-offset": ("--frames 6 --offset 512", "outside-buffer"),
    "early-unpin-masked": ("--frames 8 --do ring-pin --at before", "missing-pin"),
}
REMAP = "--frames 8 --do remap --at done --from 1"
MPROTECT = "--frames 10 --do mprotect --at queued --from 2"

Play = Callable[..., Outcome]


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    """``play(options, driver)`` plays a scene on a kernel; the guest of the kernel before is ended first."""
    stages: dict[str, Stage] = {}

    def stage_of(kernel: str) -> Stage:
        if kernel not in stages:
            for name in list(stages):
                stages.pop(name).__exit__(None, None, None)
            options = RunOptions(kernel=kernel)
            prepared, recipe = prepare(options, Silent()), load_recipe(kernel)
            stages[kernel] = Stage(
                options, prepared, lambda name: build_mutant(recipe, prepared.guest, name, Silent())
            ).__enter__()
        return stages[kernel]

    def start(words: str, kernel: str = "bookworm-6.1", driver: str | None = None) -> Outcome:
        program = ("vcap-scene", "--expect", EXPECT, *words.split())
        outcome = stage_of(kernel).run_scene(Scene(words, words, program, modules=driver))
        assert not outcome.trouble, outcome.trouble
        assert outcome.status["defects"] == []
        assert outcome.status["contract"]["not_found"] == 0
        assert outcome.status["contract"]["buffers_found"] > 0
        return outcome

    yield start
    for stage in stages.values():
        stage.__exit__(None, None, None)


def told(outcome: Outcome) -> list[str]:
    """Buffers of which the checker says that they were queued again without their pages."""
    return list(outcome.status["contract"]["notices"])


@pytest.mark.parametrize("driver", sorted(BROKEN))
def test_a_driver_that_breaks_the_contract(play: Play, driver: str) -> None:
    words, rule = BROKEN[driver]
    outcome = play(words, driver=driver)
    assert rule in outcome.rules
    (verdict,) = [v for v in outcome.verdicts if v["rule"] == rule][:1]
    assert verdict["evidence"]["vcpus_stopped"]
    assert "videobuf userptr buffer" in str(verdict["evidence"]["notes"])


@pytest.mark.parametrize("io", ["userptr", "mmap", "read"])
def test_every_way_to_capture(play: Play, io: str) -> None:
    assert play(f"--frames 6 --io {io}").rules == frozenset()


def test_memory_that_changed_between_dqbuf_and_qbuf(play: Play) -> None:
    """munmap, mmap at the same address: the framework keeps the old pages. A finding it is not."""
    outcome = play(REMAP)
    assert outcome.rules == frozenset()
    assert outcome.bad_frames or (outcome.program is not None and outcome.program.status == 1)
    assert outcome.status["oddities"]["stale-buffer"] > 0
    assert "videobuf buffer 0 was queued again" in " ".join(told(outcome))


def test_a_toggle_of_rights_is_harmless_since_anon_exclusive(play: Play) -> None:
    assert play(MPROTECT).rules == frozenset()


def test_videobuf2(play: Play) -> None:
    outcome = play(REMAP, "trixie-6.12")
    assert outcome.rules == frozenset()
    assert "vb2 buffer" in " ".join(told(outcome))
    assert play(MPROTECT, "trixie-6.12").rules == frozenset()


def test_the_stock_kernel_5_10_gives_its_user_a_copy(play: Play) -> None:
    """After mprotect to and fro the next write goes to a copy, pinned or not: the frame is lost."""
    outcome = play(MPROTECT, "bullseye-5.10")
    assert outcome.rules == frozenset({"copied-away"})
    assert outcome.program is not None
    assert outcome.program.status == 1
