# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the pages of both galleries from being stale: each entry is told of, and no other."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from vcapdev.gallery.lookalike_report import read_report
from vcapdev.gallery.lookalike_scenes import all_lookalikes
from vcapdev.image.mutants import mutants
from vcapdev.image.recipe import recipe_names

DOCS = Path(__file__).parents[2] / "docs"
_AGAIN = "play the gallery again and put what it writes into docs"


def sections() -> dict[str, str]:
    """The parts of docs/mutants.md, by kernel."""
    parts = re.split(r"^## (\S+): .*$", (DOCS / "mutants.md").read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("kernel", recipe_names())
def test_each_mutant_is_told_of_on_each_kernel(kernel: str) -> None:
    rows, _, left = sections()[kernel].partition("\nNot played here")
    played = re.findall(r"^\| `([^`]+)` ", rows, re.M)
    absent = re.findall(r"`([^`]+)`", left)
    known = {mutant.name for mutant in mutants()}
    told = {*played, *absent}
    assert (known - told, told - known) == (set(), set()), _AGAIN
    assert len(told) == len(played) + len(absent), "something is told of twice"
    bound = {
        one.name
        for one in mutants()
        if any(glob != "*" and fnmatchcase(kernel, glob) for glob in one.kernels)
    }
    assert bound <= set(played), f"said to run on {kernel}, and not played there"


@pytest.mark.parametrize("kernel", recipe_names())
def test_each_look_alike_is_told_of_on_each_kernel(kernel: str) -> None:
    told = {one.lookalike for one in read_report(DOCS / "lookalikes.json") if one.kernel == kernel}
    assert told == {one.name for one in all_lookalikes()}, _AGAIN


def test_the_page_of_look_alikes_has_a_row_for_each() -> None:
    rows = re.findall(r"^\| (\S+) \| L\d+", (DOCS / "lookalikes.md").read_text(), re.M)
    assert rows == [one.name for one in all_lookalikes()], _AGAIN
