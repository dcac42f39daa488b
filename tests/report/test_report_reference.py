# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/report.md says what the code does: its tables are those of code and schema."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from vcapdev.dmacheck.oddities import ODDITIES
from vcapdev.dmacheck.rulebook import main, with_tables
from vcapdev.dmacheck.userpages import COPIED, NAMES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "report.md"
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "report.schema.json").read_text("utf-8"))["properties"]


def keys(after: str) -> set[str]:
    """What the first columns of the first table after a line name."""
    table = (
        PAGE.read_text("utf-8").partition(f"\n{after}\n")[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    )
    return {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def counted() -> set[str]:
    """Names under which the checker counts oddities, wherever it does."""
    names = {name for state, name in enumerate(NAMES) if name and state != COPIED}
    for path in (ROOT / "vcapdev" / "dmacheck").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            called = ast.unparse(node.func)
            if called.endswith("oddities.add") or (path.name == "oddities.py" and called == "self._enter"):
                first = node.args[0]
                assert isinstance(first, ast.Constant) or ast.unparse(first) == "NAMES[state]", ast.unparse(
                    node
                )
                names |= {str(first.value)} if isinstance(first, ast.Constant) else set()
    return names


def test_the_tables_of_rules_and_oddities_are_the_codes(tmp_path: Path) -> None:
    text = PAGE.read_text("utf-8")
    assert with_tables(text) == text, "run: make rules"
    spoilt = tmp_path / "report.md"
    spoilt.write_text(re.sub(r"\| `orphan` .*\n", "", text))
    assert main(["--tables", str(spoilt)]) == 0
    assert spoilt.read_text() == text


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no table between <!-- oddities"):
        with_tables(PAGE.read_text("utf-8").replace("<!-- end of oddities -->", ""))


def test_every_oddity_that_is_counted_is_told_and_no_other() -> None:
    assert counted() == set(ODDITIES)


@pytest.mark.parametrize(
    ("after", "properties"),
    [
        ("## report.json", SCHEMA),
        ("### frames", SCHEMA["frames"]["properties"]),
        ("Each verdict has:", SCHEMA["verdicts"]["items"]["properties"]),
    ],
)
def test_every_key_is_explained(after: str, properties: dict[str, Any]) -> None:
    assert keys(after) == set(properties)
