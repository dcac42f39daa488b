# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects docs/rules.md from saying what the rules do not."""

from pathlib import Path

import pytest

from vcapdev.dmacheck.rulebook import WIDTH, main, proofs, rulebook
from vcapdev.dmacheck.rules import ALL_RULES
from vcapdev.resources import resource_dir

BOOK = Path(__file__).resolve().parents[2] / "docs" / "rules.md"


def test_the_page_is_what_the_rules_make():
    made = rulebook(proofs(resource_dir("guest") / "mutants"))
    assert made == BOOK.read_text("utf-8"), "run: make rules"


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_every_rule_has_its_whole_page(rule):
    assert rule.why.endswith(".")
    assert rule.looks
    assert rule.near
    assert not rule.sentence.endswith(".")


def test_every_altered_driver_proves_a_rule_that_exists(tmp_path):
    names = {rule.name for rule in ALL_RULES} | {"frames"}
    assert set(proofs(resource_dir("guest") / "mutants")) <= names


def test_a_rule_may_be_named_by_its_number(tmp_path):
    (tmp_path / "one.yaml").write_text("title: a title\nrule: V12\n")
    (tmp_path / "two.yaml").write_text("title: another\nrule: bad-count\n")
    assert proofs(tmp_path) == {"bad-count": [("one", "a title"), ("two", "another")]}


def test_prose_is_wrapped():
    prose = [line for line in rulebook({}).splitlines() if not line.startswith(("|", "- looks like"))]
    assert max(map(len, prose)) <= 120
    assert WIDTH <= 120


def test_the_command(tmp_path, capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    (tmp_path / "book").write_text(text)
    assert main(["--check", str(tmp_path / "book")]) == 0
    (tmp_path / "book").write_text(text + "more\n")
    assert main(["--check", str(tmp_path / "book")]) == 1
    assert "not what the rules say" in capsys.readouterr().out
