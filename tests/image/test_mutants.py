# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the list of altered drivers: each has a diff, a description, and a rule that must fire."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.image.mutants import find_mutant, mutants

BARE = "title: t\nwhat: w\nrule: not-pinned\nalso: []\nrun: {}\n"
BLAME = "blame: {instruction: WRITE, buffer: state active, page: last}\n"
ABOUT = BARE + BLAME
DIFF = "--- a/x/y.c\n+++ b/x/y.c\n@@ -1 +1 @@\n-a\n+b\n"


def test_the_first_two_drivers_are_described() -> None:
    found = {mutant.name: mutant for mutant in mutants()}
    assert (found["early-unpin"].rule, found["no-dirty"].rule) == ("not-pinned", "not-dirtied")
    assert found["no-dirty"].run == {"io": "userptr", "clean": True}
    first = (found["early-unpin"], found["no-dirty"])
    assert all(m.files == ("drivers/media/v4l2-core/videobuf-dma-sg.c",) for m in first)


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="did you mean 'early-unpin'"):
        find_mutant("early-unpinn")
    with pytest.raises(UsageError, match=r"early-unpin, .*unaltered, none"):
        find_mutant("zzz")


@pytest.mark.parametrize(
    ("diff", "about", "said"),
    [
        (DIFF, None, "no description"),
        ("", ABOUT, "changes no file"),
        (DIFF, "title: [", "not valid YAML"),
        (DIFF, "title: t\n", "keys also, rule, run, title, what; it may have"),
        (DIFF, ABOUT.replace("not-pinned", "3"), "must be text"),
        (DIFF, ABOUT.replace("{}", "1"), "run a mapping"),
        (DIFF, BARE + "blame: page\n", "blame must be a mapping"),
        (
            DIFF,
            BARE,
            "blame must name instruction, buffer, page as well, or say in 'unblamed' why it cannot$",
        ),
        (DIFF, BARE + "blame: {instruction: WRITE, page: 1}\n", "blame must name buffer as well"),
        (DIFF, BARE + "blame: {page: 1, unblamed: ' '}\n", "blame must name instruction, buffer as well"),
        (DIFF, BARE + "blame: {page: 1, unblamed: 3}\n", "unblamed must be text: why instruction and buffer"),
        (DIFF, ABOUT.replace("last}", "last, unblamed: x}"), "so leave out 'unblamed'"),
        (DIFF, ABOUT + "ruins: 1\n", "ruins must be yes or no"),
        (DIFF, ABOUT + "diff: other\n", "has no other.diff beside it"),
        (DIFF, ABOUT + "colour: red\n", "it may have blame, diff, kernels, machine, ruins"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, diff: str, about: str | None, said: str) -> None:
    (tmp_path / "m.diff").write_text(diff)
    if about is not None:
        (tmp_path / "m.yaml").write_text(about)
    with pytest.raises(UsageError, match=said):
        mutants(tmp_path)


def test_what_a_scenario_shows_needs_no_blame(tmp_path: Path) -> None:
    (tmp_path / "m.diff").write_text(DIFF)
    (tmp_path / "m.yaml").write_text(BARE.replace("not-pinned", "scenario"))
    assert mutants(tmp_path)[0].blame == {}


def test_two_triggers_may_share_a_diff(tmp_path: Path) -> None:
    (tmp_path / "m.diff").write_text(DIFF)
    (tmp_path / "m.yaml").write_text(ABOUT)
    (tmp_path / "other.yaml").write_text(
        BARE + "diff: m\nruins: true\nblame: {page: last, unblamed: x}\nkernels: [a-*]\n"
    )
    first, second = mutants(tmp_path)
    assert (first.diff, first.ruins, first.kernels) == (second.diff, False, ("*",))
    assert (second.name, second.ruins, second.blame) == ("other", True, {"page": "last", "unblamed": "x"})
    assert second.kernels == ("a-*",)
