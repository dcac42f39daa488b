# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects finding the buffers of both media frameworks in real kernels, and what is made of them.

Altered drivers break the framework's contract; a user takes memory away from under his buffers; 5.10 gives
its user a copy where later kernels do not.
"""

from __future__ import annotations

import pytest

from vcapdev.gallery.scene import Outcome, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.run.capture import EXPECT

pytestmark = pytest.mark.guest

BROKEN = {  # altered driver: options of the program, and the rule that must fire
    "ignore-offset": ("--frames 6 --offset 512", "outside-buffer"),
    "early-unpin-masked": ("--frames 8 --do ring-pin --at before", "missing-pin"),
}
REMAP = "--frames 8 --do remap --at done --from 1"
MPROTECT = "--frames 10 --do mprotect --at queued --from 2"
BETWEEN = "--untouched --frames 8 --do {} --at done --do touch --at done --from 2"

on_6_1 = pytest.mark.parametrize("stage", ["bookworm-6.1"], indirect=True)
on_6_12 = pytest.mark.parametrize("stage", ["trixie-6.12"], indirect=True)
on_5_10 = pytest.mark.parametrize("stage", ["bullseye-5.10"], indirect=True)


def play(stage: Stage, words: str, driver: str | None = None) -> Outcome:
    program = ("vcap-scene", "--expect", EXPECT, *words.split())
    outcome = stage.run_scene(Scene(words, words, program, modules=driver))
    assert not outcome.trouble, outcome.trouble
    assert outcome.status["defects"] == []
    assert outcome.status["contract"]["not_found"] == 0
    assert outcome.status["contract"]["buffers_found"] > 0
    return outcome


def told(outcome: Outcome) -> list[str]:
    """Buffers of which the checker says that they were queued again without their pages."""
    return list(outcome.status["contract"]["notices"])


@pytest.mark.parametrize("driver", sorted(BROKEN))
@on_6_1
def test_a_driver_that_breaks_the_contract(stage: Stage, driver: str) -> None:
    words, rule = BROKEN[driver]
    outcome = play(stage, words, driver)
    assert rule in outcome.rules
    (verdict,) = [v for v in outcome.verdicts if v["rule"] == rule][:1]
    assert verdict["evidence"]["vcpus_stopped"]
    assert "videobuf userptr buffer" in str(verdict["evidence"]["notes"])


@pytest.mark.parametrize("io", ["userptr", "mmap", "read"])
@on_6_1
def test_every_way_to_capture(stage: Stage, io: str) -> None:
    assert play(stage, f"--frames 6 --io {io}").rules == frozenset()


@on_6_1
def test_memory_that_changed_between_dqbuf_and_qbuf(stage: Stage) -> None:
    """munmap, mmap at the same address: the framework keeps the old pages. A finding it is not."""
    outcome = play(stage, REMAP)
    assert outcome.rules == frozenset()
    assert outcome.bad_frames or (outcome.program is not None and outcome.program.status == 1)
    assert outcome.status["oddities"]["stale-buffer"] > 0
    assert "videobuf buffer 0 was queued again" in " ".join(told(outcome))


@on_6_1
def test_a_toggle_of_rights_is_harmless_since_anon_exclusive(stage: Stage) -> None:
    assert play(stage, MPROTECT).rules == frozenset()


@on_6_12
def test_videobuf2(stage: Stage) -> None:
    outcome = play(stage, REMAP)
    assert outcome.rules == frozenset()
    assert "vb2 buffer" in " ".join(told(outcome))
    assert play(stage, MPROTECT).rules == frozenset()


@on_5_10
def test_the_stock_kernel_5_10_gives_its_user_a_copy(stage: Stage) -> None:
    """After mprotect to and fro the next write goes to a copy, pinned or not: the frame is lost."""
    outcome = play(stage, MPROTECT)
    assert outcome.rules == frozenset({"copied-away"})
    assert outcome.program is not None
    assert outcome.program.status == 1


@on_5_10
def test_a_copy_between_dqbuf_and_qbuf_is_told_from_new_memory(stage: Stage) -> None:
    """Only the content tells one from the other, so the user must not have written all of it anew."""
    assert play(stage, BETWEEN.format("mprotect")).rules == frozenset({"copied-away"})
    discarded = play(stage, BETWEEN.format("dontneed"))
    assert discarded.rules == frozenset()
    assert discarded.status["oddities"]["replaced"] > 0
