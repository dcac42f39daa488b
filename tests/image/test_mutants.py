# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the list of altered drivers: each has a diff, a description, and a rule that must fire."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.image.mutants import find_mutant, mutants

ABOUT = "title: t\nwhat: w\nrule: not-pinned\nalso: []\nrun: {}\n"
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
        (DIFF, ABOUT + "blame: page\n", "blame must be a mapping"),
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


def test_two_triggers_may_share_a_diff(tmp_path: Path) -> None:
    (tmp_path / "m.diff").write_text(DIFF)
    (tmp_path / "m.yaml").write_text(ABOUT)
    (tmp_path / "other.yaml").write_text(
        ABOUT + "diff: m\nruins: true\nblame: {page: last}\nkernels: [a-*]\n"
    )
    first, second = mutants(tmp_path)
    assert (first.diff, first.ruins, first.kernels) == (second.diff, False, ("*",))
    assert (second.name, second.ruins, second.blame) == ("other", True, {"page": "last"})
    assert second.kernels == ("a-*",)
