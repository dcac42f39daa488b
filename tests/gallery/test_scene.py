# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the bookkeeping of scenes: for which kernels they are, and in what an outcome falls short."""

from __future__ import annotations

from typing import Any

import pytest

from vcapdev.dmacheck.rules import ALL_RULES
from vcapdev.gallery import scene
from vcapdev.gallery.scene import Expectation, GuestReport, Outcome, ProgramResult, Scene
from vcapdev.report.model import Frames

CLEAN: dict[str, Any] = {"attached": True, "pages_checked": 100}


def outcome(expect: Expectation, **changes: Any) -> Outcome:
    played = Scene("s", "a scene", ("true",), expect=expect)
    result = Outcome(played, "bookworm-6.1", program=ProgramResult(0, [], ""), status=dict(CLEAN))
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def test_scenes_name_the_kernels_they_are_for_and_why_others_are_not() -> None:
    some = Scene("s", "t", ("x",), kernels=("bookworm-*", "trixie-*"), why_not={"trixie-7*": "it is gone"})
    assert some.reason_against("bookworm-6.1") is None
    assert some.reason_against("trixie-6.12") is None
    assert some.reason_against("trixie-7.3") == "it is gone"
    assert some.reason_against("bullseye-5.10") == "this is for bookworm-*, trixie-* only"


def test_a_guest_whose_memory_was_written_to_behind_its_back_is_damaged() -> None:
    """A write to a free page is found by the kernel when it hands that page out: in a later scene."""
    names = {rule.name for rule in ALL_RULES}
    for rule, damaged in {"free-page": True, "recycled": True, "not-pinned": False}.items():
        assert rule in names
        assert outcome(Expectation(), verdicts=[{"rule": rule}]).damaged is damaged
    assert names >= scene._DAMAGE
    assert not outcome(Expectation()).damaged


def test_what_must_fire_and_may_fire_is_no_shortfall() -> None:
    expect = Expectation(rules=frozenset({"not-pinned"}), also=frozenset({"free-page"}))
    verdicts = [{"rule": "not-pinned"}, {"rule": "free-page"}]
    assert outcome(expect, verdicts=verdicts).shortfalls() == []
    assert outcome(expect, verdicts=verdicts[:1]).shortfalls() == []
    assert outcome(expect, verdicts=verdicts[1:]).shortfalls() == ["not-pinned did not fire"]
    assert outcome(expect, verdicts=[*verdicts, {"rule": "recycled"}]).shortfalls() == ["recycled fired"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"verdicts": [{"rule": "not-pinned"}]}, "not-pinned fired"),
        ({"reports": [GuestReport("oops", "BUG: unable", True)]}, "the guest's kernel: BUG: unable"),
        ({"frames": Frames(captured=9, torn=1)}, "1 of 9 frames arrived damaged"),
        ({"status": CLEAN | {"unchecked_writes": 3}}, "3 writes could not be checked"),
        ({"status": CLEAN | {"defects": ["oh"]}}, "a defect of the checker: oh"),
        ({"status": {"attached": False, "why_not": "no note"}}, "the checker was not attached: no note"),
        ({"status": {"attached": True, "pages_checked": 0}}, "no page was judged"),
        ({"program": ProgramResult(3, [], "a\nno memory\n")}, "ended with status 3: no memory"),
        ({"program": ProgramResult(None, [], "")}, "ended with status None"),
        ({"trouble": "the guest has crashed"}, "the guest has crashed"),
    ],
)
def test_a_silent_scene_falls_short_by_anything_else(changes: dict[str, Any], why: str) -> None:
    assert any(why in text for text in outcome(Expectation(silent=True), **changes).shortfalls())


def test_a_silent_scene_without_incidents_passes_and_mere_reports_are_let_be() -> None:
    report = GuestReport("rcu-stall", "rcu: INFO", False)
    assert outcome(Expectation(silent=True), reports=[report]).shortfalls() == []


def test_a_program_may_be_killed_where_that_is_expected() -> None:
    killed = ProgramResult(-9, [], "")
    assert outcome(Expectation(silent=True, statuses=frozenset({-9})), program=killed).shortfalls() == []
