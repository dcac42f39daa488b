# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the list of altered drivers: each has a diff, a description, and a rule that must fire."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.image.mutants import find_mutant, mutants

ABOUT = "title: t\nwhat: w\nrule: not-pinned\nalso: []\nrun: {}\n"
DIFF = "--- a/x/y.c\n+++ b/x/y.c\n@@ -1 +1 @@\n-a\n+b\n"


def test_the_two_drivers_are_described() -> None:
    found = {mutant.name: mutant for mutant in mutants()}
    assert (found["early-unpin"].rule, found["no-dirty"].rule) == ("not-pinned", "not-dirtied")
    assert found["no-dirty"].run == {"io": "userptr", "clean": True}
    assert all(m.files == ("drivers/media/v4l2-core/videobuf-dma-sg.c",) for m in found.values())


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="did you mean 'early-unpin'"):
        find_mutant("early-unpinn")
    with pytest.raises(UsageError, match="early-unpin, no-dirty, unaltered, none"):
        find_mutant("zzz")


@pytest.mark.parametrize(
    ("diff", "about", "said"),
    [
        (DIFF, None, "no description"),
        ("", ABOUT, "changes no file"),
        (DIFF, "title: [", "not valid YAML"),
        (DIFF, "title: t\n", "keys also, rule, run, title, what"),
        (DIFF, ABOUT.replace("not-pinned", "3"), "must be text"),
        (DIFF, ABOUT.replace("{}", "1"), "run a mapping"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, diff: str, about: str | None, said: str) -> None:
    (tmp_path / "m.diff").write_text(diff)
    if about is not None:
        (tmp_path / "m.yaml").write_text(about)
    with pytest.raises(UsageError, match=said):
        mutants(tmp_path)
