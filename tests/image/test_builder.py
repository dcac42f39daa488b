# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the building of many altered drivers: each gets its own change only, types stay.

The kernel is made up (made_kernel.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from aptrepo import Repository
from made_kernel import DMA_SG, V4L2, Made, add_kernel

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.image.drivertree import Change
from vcapdev.image.elf import Elf
from vcapdev.image.kbuild import Builder, Built, mutant_change
from vcapdev.image.mutants import Mutant
from vcapdev.image.recipe import Recipe
from vcapdev.progress import Silent

FILE = f"{V4L2}/videobuf-dma-sg.c"
CORE = f"{V4L2}/videobuf-core.c"


@pytest.fixture
def builder(machine: Path, repository: Repository, cache: Cache, recipe: Recipe, guest: Made) -> Builder:
    add_kernel(repository)
    return Builder(recipe, guest, Silent(), cache=cache)


def changed(name: str, text: str, file: str = FILE) -> Change:
    return Change(name, texts={file: text.encode()})


def image(built: Built) -> bytes:
    assert not built.error
    (path,) = built.modules.values()
    return path.read_bytes()


def test_each_of_many_has_its_own_change_and_no_other(builder: Builder) -> None:
    wanted = [
        changed(f"m{number}", f"/* change {number} */", FILE if number % 2 else CORE) for number in range(6)
    ]
    built = {one.change.name: one for one in builder.build_all(wanted)}
    assert set(built) == {change.name for change in wanted}
    for change in wanted:
        found = image(built[change.name])
        assert [other.name for other in wanted if next(iter(other.texts.values())) in found] == [change.name]


def test_what_does_not_compile_or_fit_is_told_and_the_others_are_built(
    builder: Builder, cache: Cache
) -> None:
    changes = [changed("good", "fine"), changed("bad", "#error"), changed("lost", "x", "mm/gup.c")]
    built = {one.change.name: one for one in builder.build_all(changes, workers=2)}
    assert list(built["good"].modules) == ["videobuf-dma-sg"]
    assert built["bad"].error.endswith(": x.c:1:2: error: as wished"), "without the place of the build"
    assert not built["bad"].modules
    assert "the diff changes mm/gup.c" in built["lost"].error


def test_a_refusal_is_remembered(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = builder.build(changed("bad", "#error"))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert builder.build(changed("bad again", "#error")).error == first.error


def test_a_machine_that_fails_is_no_refusal(builder: Builder, cache: Cache) -> None:
    add = changed("killed", "#error")
    builder.tree  # noqa: B018 - the driver as it is
    makefile = next((cache.root / "headers").glob("*/content/usr/src/*-common/Makefile"))
    makefile.write_text("modules:\n\t@echo 'gcc: error: cc1: Killed' >&2; exit 1\n")
    assert "Killed" in builder.build(add).error
    assert not list((cache.root / "modules").glob("*"))


def test_types_are_those_of_the_stock_module(builder: Builder) -> None:
    built = image(builder.build(changed("plain", DMA_SG)))
    assert Elf(built).section(".BTF") == b"types of videobuf-dma-sg"
    whole = builder.modules(Change("unaltered"))
    assert {name: Elf(path.read_bytes()).section(".BTF") for name, path in whole.items()} == {
        name: f"types of {name}".encode() for name in ("bttv", "videobuf-core", "videobuf-dma-sg")
    }


def test_no_types_are_better_than_wrong_ones(builder: Builder) -> None:
    altered = image(builder.build(changed("struct", DMA_SG + "struct own {\n\tint more;\n};\n")))
    assert Elf(altered).section(".BTF") is None


def test_a_broken_build_of_the_driver_itself_is_no_refusal_of_a_change(
    machine: Path, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
) -> None:
    add_kernel(repository, Makefile=b"modules:\n\t@echo 'x.c:3: error: no such thing' >&2; exit 1\n")
    with pytest.raises(SetupError, match="no such thing"):
        Builder(recipe, guest, Silent(), cache=cache).build(changed("good", "fine"))


def test_a_diff_and_texts_go_together(builder: Builder, tmp_path: Path) -> None:
    diff = tmp_path / "own.diff"
    diff.write_text(
        f"--- a/{CORE}\n+++ b/{CORE}\n@@ -1 +1 @@\n-core\n\\ No newline at end of file\n+patched\n"
    )
    change = Change("both", diff, {FILE: b"written"})
    built = builder.modules(change)
    assert b"patched\n" in built["videobuf-core"].read_bytes()
    assert b"written" in built["videobuf-dma-sg"].read_bytes()
    assert change.key not in (Change("both", diff).key, Change("both", None, {FILE: b"written"}).key)


def test_a_mutant_for_other_kernels_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    mutant = Mutant("m", "t", "w", "r", (), {}, tmp_path / "m.diff", (FILE,), kernels=("trixie-*", "forky-*"))
    with pytest.raises(UsageError, match=rf"m is for the kernels trixie-\*, forky-\*, not for {recipe.name}"):
        mutant_change(mutant, recipe)
