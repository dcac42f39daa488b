# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the options of ``vcapdev mutants``: which kernels are played, and where reports go."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.gallery.mutant_options import MACHINE_KERNELS, MutantOptions, add_arguments, from_arguments
from vcapdev.image.recipe import recipe_names


def given(*words: str) -> MutantOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(words))


def test_by_hand_all_kernels_are_played_by_machine_one_of_each_framework() -> None:
    assert given().kernels == tuple(recipe_names())
    assert given("--kind", "machine").kernels == MACHINE_KERNELS
    assert set(MACHINE_KERNELS) <= set(recipe_names())


def test_kernels_can_be_named_each_once() -> None:
    names = ("trixie-6.12", "bookworm-6.1", "trixie-6.12")
    options = given(*(word for name in names for word in ("--kernel", name)))
    assert options.kernels == names[:2]
    assert options.kernel == "trixie-6.12"
    with pytest.raises(UsageError, match=r"--kernel trixie: there are .*trixie-6.12"):
        given("--kernel", "trixie")


def test_reports_of_several_kernels_have_a_directory_each() -> None:
    report = Path("report")
    one, two = given("--report", "report", "--kernel", "trixie-6.12"), given("--report", "report")
    assert one.directory("trixie-6.12") == report
    assert two.directory("trixie-6.12") == report / "trixie-6.12"
    assert given().directory("trixie-6.12") is None
    alone = two.on("trixie-6.12")
    assert (alone.kernels, alone.report) == (("trixie-6.12",), report / "trixie-6.12")
    assert alone.directory("trixie-6.12") == report / "trixie-6.12"


def test_a_page_is_of_all_mutants() -> None:
    assert given("--page", "docs/mutants.md").page == Path("docs/mutants.md")
    with pytest.raises(UsageError, match="--page is of all mutants, and -k plays some"):
        given("--page", "docs/mutants.md", "-k", "leak")


def test_all_judgements_are_audited_unless_less_is_asked_for() -> None:
    assert given().audit == 1.0
    assert given("--audit", "1%").audit == 0.01
