# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects an installed vcapdev from a dependency that only our own environment happens to have.

test_wheel.py lends the wheel this Python's packages, so it cannot miss one. Here the imports themselves are
read: all of them, those in functions too.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_TESTS = "vcapdev/testing/"  # whoever uses it has pytest


def names(requirements: list[str]) -> set[str]:
    """Distributions, spelled as one: PyYAML, py_yaml and pyyaml are the same."""
    return {canonical(re.split(r"[^\w.-]", each, maxsplit=1)[0]) for each in requirements}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


NEEDED = names(PROJECT["dependencies"])
OPTIONAL = {extra: names(wishes) for extra, wishes in PROJECT["optional-dependencies"].items()}


def imported(text: str) -> set[str]:
    """Top-level modules that a source imports, by statement or ``import_module("a.name")``; not its own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            assert node.args, ast.unparse(node)
            if isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return {name.partition(".")[0] for name in found}


def third_party() -> dict[str, set[str]]:
    """Files (from the top directory) that import each distribution; an error is what none brings."""
    brings, found = packages_distributions(), defaultdict(set)
    for path in sorted((ROOT / "vcapdev").rglob("*.py")):
        where = str(path.relative_to(ROOT))
        for module in imported(path.read_text("utf-8")) - sys.stdlib_module_names - {"vcapdev", "__future__"}:
            assert module in brings, f"{where} imports {module}, which no installed package brings"
            found[canonical(brings[module][0])].add(where)
    return found


def test_what_the_package_imports_is_what_it_declares() -> None:
    everywhere = {
        name for name, files in third_party().items() if any(not in_tests_only(file) for file in files)
    }
    assert everywhere - NEEDED == set(), "imported, but not in [project] dependencies"
    assert NEEDED - everywhere == set(), "in [project] dependencies, but never imported"


def test_what_stands_above_tests_needs_no_more_than_its_extra() -> None:
    tests_only = {name for name, files in third_party().items() if all(map(in_tests_only, files))}
    assert tests_only - NEEDED <= OPTIONAL["test"]
    assert "pytest" in tests_only, "the reader of imports sees the plugin's"


def test_no_tool_of_ours_is_needed_by_users() -> None:
    ours = OPTIONAL["dev"] - OPTIONAL["test"] - NEEDED
    assert {"mypy", "ruff", "hypothesis"} <= ours, "the list is read"
    assert ours & set(third_party()) == set()


def in_tests_only(file: str) -> bool:
    return file.startswith(FOR_TESTS)


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("def f():\n    import drgn.helpers as h", {"drgn"}),
        ("try:\n    from qemu.qmp import QMPClient\nexcept ImportError:\n    pass", {"qemu"}),
        ("from . import near\nfrom .. import up\nimport os, yaml", {"os", "yaml"}),
        ("importlib.import_module('numpy.linalg')", {"numpy"}),
        ("import_module(name)", set()),
    ],
)
def test_the_reader_of_imports(text: str, modules: set[str]) -> None:
    assert imported(text) == modules
