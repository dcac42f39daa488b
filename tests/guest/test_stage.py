# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the stage: many scenes in one boot, none sees what another did; a crash costs one scene."""

from __future__ import annotations

import pytest

from vcapdev.gallery import matrix
from vcapdev.gallery.hand import scene_of
from vcapdev.gallery.scene import Expectation, Outcome, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.mutants import find_mutant
from vcapdev.run.capture import EXPECT

pytestmark = [pytest.mark.guest, pytest.mark.parametrize("stage", ["bookworm-6.1"], indirect=True)]

MUTANTS = ("last-page-unpinned", "leak")
CAPTURE = ("vcap-capture", "--expect", EXPECT, "--frames", "10")


def stock(name: str, **changes: object) -> Scene:
    return Scene(name, "the kernel's own driver", CAPTURE, expect=Expectation(silent=True), **changes)  # type: ignore[arg-type]


def test_mutants_are_caught_and_do_not_taint_what_follows_in_the_same_boot(stage: Stage) -> None:
    played: list[Outcome] = []
    boots = stage.boots + (not stage.up)
    for name in MUTANTS:
        mutant = find_mutant(name)
        outcome = stage.run_scene(scene_of(mutant))
        row = matrix.judge(mutant, outcome)
        assert row.good, matrix.table([row])
        played += [outcome, stage.run_scene(stock(f"after {name}"))]
    assert [each.shortfalls() for each in played] == [[]] * 4
    assert stage.boots == boots
    assert [each.status["verdicts"] for each in played[1::2]] == [{}, {}]


def test_a_crash_is_told_and_the_next_scene_gets_a_fresh_guest(stage: Stage) -> None:
    boots = stage.boots + (not stage.up)
    crash = Scene(
        "crash", "a panic by hand", ("sh", "-c", "echo c > /proc/sysrq-trigger"), expect=Expectation()
    )
    outcome = stage.run_scene(crash)
    assert "the guest's kernel failed" in outcome.trouble
    assert [report.kind for report in outcome.failures] == ["panic"]
    assert stage.run_scene(stock("after the crash")).shortfalls() == []
    assert stage.boots == boots + 1


def test_setup_and_files_come_before_the_program_and_teardown_after(stage: Stage) -> None:
    scene = stock(
        "with setup",
        files={"/tmp/given": b"42\n"},
        setup=("read x < /tmp/given", "[ $x = 42 ]", "echo begun > /tmp/said"),
        teardown=("[ -s /tmp/said ]", "rm /tmp/said /tmp/given"),
    )
    assert stage.run_scene(scene).shortfalls() == []
    failing = stage.run_scene(stock("without a file", setup=("cat /tmp/given",)))
    assert "shell lines ended with status 1" in failing.trouble
    assert not stage.up
