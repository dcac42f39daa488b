# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects docs/mutants.md and its part of docs/audit.md: one kernel's part is replaced, the others stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vcapdev.errors import SetupError
from vcapdev.gallery import hand_page, machine_page, matrix, page
from vcapdev.gallery.lookalike import AUDITED
from vcapdev.image.mutants import mutants
from vcapdev.image.recipe import recipe_names

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = dict.fromkeys(AUDITED, 2) | {"bad": 1, "disagreed": 0}


def row(name: str = "leak", kernel: str = "bookworm-6.1", **more: Any) -> matrix.Row:
    return matrix.Row(name, "a title", kernel, "pin-leak", matrix.RULE, audit=dict(FIGURES), **more)


def about(kernel: str = "bookworm-6.1", commit: str = "abc") -> dict[str, Any]:
    return {"kernel": kernel, "release": "6.1.0", "commit": commit, "command": "vcapdev mutants"}


# -- pages by kernel


def test_a_kernels_part_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path, order = tmp_path / "page.md", ("a-1", "b-2")
    page.renew(path, "# Head\n", {"b-2": "## b-2\nold"}, order)
    page.renew(path, "# Head\n", {"a-1": "## a-1\ntext", "z-9": "unknown to the order"}, order)
    page.renew(path, "# New\n", {"b-2": "## b-2\nnew\n"}, order)
    text = path.read_text()
    assert text.startswith("# New\n\n<!-- kernel a-1 -->\n## a-1\n")
    assert page.sections_of(text) == {
        "a-1": "## a-1\ntext",
        "b-2": "## b-2\nnew",
        "z-9": "unknown to the order",
    }
    assert list(page.sections_of(text)) == ["a-1", "b-2", "z-9"]
    assert [one.name for one in tmp_path.iterdir()] == ["page.md"]


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"--page .*: No such file or directory; name a file"):
        page.renew(tmp_path / "none" / "page.md", "# Head\n", {}, ())


@pytest.mark.parametrize(
    ("name", "head"), [("mutants", hand_page.head()), ("mutants-machine", machine_page.HEAD)]
)
def test_the_pages_in_docs_begin_as_they_would_be_written(name: str, head: str) -> None:
    text = (DOCS / f"{name}.md").read_text()
    assert text == page.assembled(head, page.sections_of(text), recipe_names()), "write it with --page again"


def test_the_page_is_written_with_its_part_of_the_audit(tmp_path: Path) -> None:
    path, audit = tmp_path / "mutants.md", tmp_path / "audit.md"
    audit.write_text(f"before\n{hand_page.AUDIT_BEGIN}\n{hand_page.AUDIT_END}\nafter\n")
    hand_page.write(path, [row()], about())
    hand_page.write(path, [row(), row("leak-last")], about("trixie-6.12", "def"))
    text = path.read_text()
    assert list(page.sections_of(text)) == ["bookworm-6.1", "trixie-6.12"]
    assert "| `leak-last` | a title | pin-leak |" in page.sections_of(text)["trixie-6.12"]
    told = audit.read_text()
    assert told.startswith("before\n")
    assert told.endswith("\nafter\n")
    assert "0 of 6 pages, 3 of them bad, were judged otherwise" in told
    assert "| bookworm-6.1 | 2 | 2 | 1 | 2 |" in told
    assert "| trixie-6.12 | 4 | 4 | 2 | 4 |" in told
    assert "| together | 6 | 6 | 3 | 6 |" in told
    assert "- trixie-6.12: commit def, Linux 6.1.0, `vcapdev mutants`" in told


def test_a_kernels_audit_replaces_its_own_only() -> None:
    first = hand_page.audit_part("", "bookworm-6.1", FIGURES, about())
    both = hand_page.audit_part(first, "trixie-6.12", FIGURES, about("trixie-6.12"))
    again = hand_page.audit_part(both, "bookworm-6.1", FIGURES | {"disagreed": 3}, about(commit="def"))
    assert "3 of 4 pages" in again
    assert again.count("| bookworm-6.1 |") == 1
    assert "- bookworm-6.1: commit def" in again
    assert "- trixie-6.12: commit abc" in again
    assert "commit abc, Linux 6.1.0, `vcapdev mutants`\n- trixie" not in again


def test_an_audit_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "audit.md").write_text("nothing to replace\n")
    hand_page.write(tmp_path / "mutants.md", [row()], about())
    assert (tmp_path / "audit.md").read_text() == "nothing to replace\n"


# -- ideas


def test_every_idea_has_its_mutants_or_says_why_not() -> None:
    found, alone = hand_page.ideas()
    assert len({idea.number for idea in found}) == len(found) >= 30
    assert [idea.number for idea in found if not idea.text or not (idea.mutants or idea.reason)] == []
    assert [name for name, reason in alone.items() if not reason] == []


def test_every_mutant_is_of_an_idea_and_every_name_is_a_mutant() -> None:
    known = {mutant.name for mutant in mutants()}
    found, _ = hand_page.ideas()
    named = {name for idea in found for name in idea.mutants}
    assert named <= known
    assert {name for name in known if not {name, name.removeprefix("vb2-")} & named} == set()


def test_what_is_of_videobuf_has_a_counterpart_or_a_reason_against_it() -> None:
    known = {mutant.name: mutant for mutant in mutants()}
    _, alone = hand_page.ideas()
    bound = {
        name
        for name, mutant in known.items()
        if not name.startswith("vb2-")
        and (mutant.kernels != ("*",) or any("videobuf" in file for file in mutant.files))
    }
    assert {name for name in bound if f"vb2-{name}" not in known} == set(alone)


@pytest.mark.parametrize("text", ["", "ideas: {M1: {}}", "ideas: []", "ideas: {M1: {idea: x}}\n", "ideas: ["])
def test_broken_ideas_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ideas.yaml"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"ideas.yaml cannot be read .* install it again"):
        hand_page.ideas(path)
