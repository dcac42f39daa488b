# SPDX-License-Identifier: GPL-2.0-or-later
"""FILES.md, README and docs/ are true: what they name is there and the reverse, and links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "FILES.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)


def prose(page: Path) -> str:
    """A page without its blocks of code and inline code, where brackets mean other things."""
    return re.sub(r"`[^`\n]*`", "``", FENCE.sub("", page.read_text("utf-8")))


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of each link of a page that stays in the tree."""
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:|\.\./\.\./actions/", target):  # elsewhere, or a place on a forge
            continue
        name, _, anchor = target.partition("#")
        yield (page.parent / name).resolve() if name else page, anchor


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by, as forges make it of them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        taken = [number for number in range(100) if (f"{slug}-{number}" if number else slug) in found]
        found.add(f"{slug}-{len(taken)}" if taken else slug)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', page.read_text("utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for file, anchor in links(page):
        if not file.exists():
            wrong.append(f"{file} is not there")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            wrong.append(f"{file.name} has no heading {anchor}")
    assert wrong == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One two: `three`, four\n## Twice\n## Twice\n[a](gone.md) [b](#one-two-three-four) [c](#five)\n"
        "`[d](code.md)` [e](https://example.org/x)\n```\n# no heading\n[f](block.md)\n```\n"
    )
    assert [(file.name, anchor) for file, anchor in links(page)] == [
        ("gone.md", ""), ("page.md", "one-two-three-four"), ("page.md", "five"),
    ]  # fmt: skip
    assert anchors(page) == {"one-two-three-four", "twice", "twice-1"}


def test_every_file_of_the_documentation_can_be_reached_from_the_start() -> None:
    seen: set[Path] = set()
    new = {ROOT / "README.md"}
    while new:
        seen |= new
        new = {file for page in new if page.suffix == ".md" for file, _ in links(page)} - seen
    written = {path for path in (ROOT / "docs").rglob("*") if path.is_file()}
    assert {str(path.relative_to(ROOT)) for path in written - seen} == set()


def named() -> dict[str, set[Path]]:
    """The paths that each row of FILES.md names in its first column; a bare name is beside the last."""
    rows: dict[str, set[Path]] = {}
    for row in (ROOT / "FILES.md").read_text("utf-8").splitlines():
        cell = row.split("|")[1] if row.startswith("|") else ""
        beside = ROOT
        for name in re.findall(r"`([^`]+)`", cell):
            path = ROOT / name if "/" in name.rstrip("/") or (ROOT / name).exists() else beside / name
            beside = path.parent
            rows.setdefault(cell, set()).add(path)
    return rows


def test_what_files_md_names_is_there() -> None:
    assert len(named()) > 20
    assert [str(path) for paths in named().values() for path in paths if not path.exists()] == []


def test_each_part_of_the_package_and_each_tool_is_in_files_md() -> None:
    listed = set().union(*named().values())
    text = (ROOT / "FILES.md").read_text("utf-8")
    parts = {path.parent for path in (ROOT / "vcapdev").glob("*/__init__.py")}
    parts |= {path for path in (ROOT / "vcapdev").glob("*.py") if path.name != "__init__.py"}
    assert {str(part.relative_to(ROOT)) for part in parts - listed} == set()
    data = {path.name for path in (ROOT / "vcapdev").iterdir() if path.is_dir()} - {"__pycache__", "_data"}
    assert {name for name in data if f"vcapdev/{name}/" not in text} == set()
    tools = {path.name for path in (ROOT / "tools").iterdir() if path.is_file()}
    assert {name for name in tools if f"`{name}`" not in text} == set()


def test_make_help_tells_of_every_target() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([a-z][a-z-]*):", text, re.M)
    told = re.findall(r"^([a-z-]+):.*## \S", text, re.M)  # as the target help finds them
    phony = re.search(r"^\.PHONY: (.+)$", text, re.M)
    assert phony is not None
    assert set(targets) == set(told) == set(phony[1].split())


def test_make_help_names_every_variable_of_run_guest() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    options = text.partition("RUN_OPTIONS =")[2].partition("\n\n")[0]
    used = set(re.findall(r"\b([A-Z][A-Z_]+)\b", options)) - {"WANT_SHELL"} | {"SHELL"}
    told = text.partition("Variables of run-guest")[2]
    assert {name for name in used if not re.search(rf"\b{name}\b", told)} == set()
