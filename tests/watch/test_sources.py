# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what a change is: one that is missed is an old driver judged, one imagined is a wasted round."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vcapdev.watch.sources import Sources


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module's directory as its author has it, with what editors, git and a build have left there."""
    directory = tmp_path / "module"
    for name in ("Kbuild", "main.c", "sub/part.c", "sub/part.h", "main.mod.c", "main.o", ".git/x.c", "notes"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return directory


def rewrite(path: Path, text: str) -> None:
    """Write as most editors do, by another file; the time may well be the same."""
    draft = path.with_name("draft~")
    draft.write_text(text)
    os.replace(draft, path)


def test_sources_are_seen_and_nothing_else(module: Path) -> None:
    sources = Sources(module)
    assert sources.look()
    assert len(sources) == 4
    assert not sources.look()
    (module / "main.o").write_text("built")
    (module / "main.mod.c").write_text("made")
    (module / "notes").write_text("thoughts")
    assert not sources.look()


def test_each_way_to_change_a_source_is_seen(module: Path) -> None:
    sources = Sources(module)
    sources.look()
    for change in (
        lambda: rewrite(module / "main.c", "other"),
        lambda: (module / "sub/new.h").write_text("new"),
        lambda: (module / "sub/new.h").unlink(),
        lambda: os.utime(module / "Kbuild", ns=(1, 1)),
    ):
        change()
        assert sources.moved()
        assert sources.moved(), "only a look takes note"
        assert sources.look()
        assert not sources.moved()


def test_the_mirror_has_links_to_the_sources_and_keeps_what_was_built(module: Path, tmp_path: Path) -> None:
    sources, place = Sources(module), tmp_path / "build"
    place.mkdir()
    sources.look()
    sources.mirror(place)
    assert (place / "sub/part.c").resolve() == module / "sub/part.c"
    assert not (place / "notes").exists()
    (place / "main.o").write_text("object")
    (module / "main.c").unlink()
    rewrite(module / "sub/part.c", "other")
    sources.look()
    sources.mirror(place)
    assert not (place / "main.c").is_symlink()
    assert (place / "sub/part.c").read_text() == "other"
    assert (place / "main.o").read_text() == "object"


def test_a_file_of_the_build_in_a_sources_place_gives_way(module: Path, tmp_path: Path) -> None:
    sources, place = Sources(module), tmp_path / "build"
    (place / "sub/part.h").mkdir(parents=True)
    (place / "main.c").write_text("stray")
    sources.look()
    sources.mirror(place)
    assert (place / "main.c").is_symlink()
    assert (place / "sub/part.h").is_symlink()
