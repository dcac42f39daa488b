# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the figures of ``make flakes``: a rate without its interval, or a lost test, is no measurement."""

from __future__ import annotations

import argparse
import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools/flakes.py"


@pytest.fixture(scope="module")
def flakes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flakes", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("failed", "of", "low", "high"),
    [  # from tables of the exact binomial interval
        (0, 10, 0.0, 0.3085),
        (1, 10, 0.0025, 0.4450),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0),
        (0, 1000, 0.0, 0.00368),
        (9, 1000, 0.00412, 0.01702),
    ],
)
def test_the_interval_is_the_exact_one(
    flakes: ModuleType, failed: int, of: int, low: float, high: float
) -> None:
    assert flakes.interval(failed, of) == pytest.approx((low, high), abs=1e-4)


def test_each_test_is_counted_and_each_bad_one_told(flakes: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "0.xml"
    results.write_text(
        '<testsuites><testsuite><testcase name="a"/>'
        '<testcase name="b"><failure message="x&#10;y"/></testcase>'
        '<testcase name="c"><error message="z"/></testcase></testsuite></testsuites>'
    )
    found = [flakes._read(results), flakes._read(tmp_path / "none.xml")]
    assert found[0] == [("a", "passed", ""), ("b", "failure", "x y"), ("c", "error", "z")]
    figures = flakes._figures(argparse.Namespace(kernel="k", seed=1), found, 60.0)
    assert (figures["tests"], figures["failures"], figures["errors"]) == (4, 1, 2)
    assert [name for name, _, _ in figures["bad"]] == ["b", "c", "all of them"]


def test_its_tests_are_python_and_every_number_is_played_once(flakes: ModuleType) -> None:
    text = flakes.TESTS.replace("{numbers!r}", repr(list(range(40)))).replace("{kernel}", "bookworm-6.1")
    names = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    assert {"test_shared", "test_fresh"} <= names
    assert "n % 5]" in text
    assert "not n % 5]" in text
