# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what ``--module`` and ``--modules`` put into the guest: what is left out is not tested."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from crafted_elf import VERMAGIC, module

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.modules import ModuleTree
from vcapdev.image.ownmodules import installed_tree, own_modules, release_of

WANTED = ("bttv",)


def put(directory: Path, **contents: bytes) -> Path:
    for name, content in contents.items():
        path = directory / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


@pytest.fixture
def stock(tmp_path: Path) -> ModuleTree:
    """bttv needs videodev; i2c-mux is there, and nobody needs it."""
    root = put(
        tmp_path / "stock/kernel",
        bttv=module("bttv", depends="videodev"),
        videodev=module("videodev"),
        **{"i2c-mux": module("i2c_mux")},
    )
    return ModuleTree(root.parent)


def taken(stock: ModuleTree, *paths: Path) -> list[str]:
    return [f"{name}={file.name}" for name, file in own_modules(paths, stock, WANTED).items()]


def test_nothing_of_ones_own_is_nothing(stock: ModuleTree) -> None:
    assert own_modules((), stock, WANTED) == {}


def test_all_modules_of_a_directory_are_taken_in_load_order(stock: ModuleTree, tmp_path: Path) -> None:
    own = put(tmp_path / "own", bttv=module("bttv", depends="videodev,helper"), helper=module("helper"))
    put(own / "below", videodev=module("videodev", depends=""))
    assert taken(stock, own) == ["videodev=videodev.ko", "helper=helper.ko", "bttv=bttv.ko"]


def test_files_and_directories_go_together_and_a_file_may_have_any_name(
    stock: ModuleTree, tmp_path: Path
) -> None:
    own = put(tmp_path / "own", helper=module("helper"))
    mine = put(tmp_path / "other", mine=module("bttv", depends="helper")) / "mine.ko"
    assert taken(stock, mine, own) == ["helper=helper.ko", "bttv=mine.ko"]


def test_a_stock_module_that_is_newly_needed_comes_along(stock: ModuleTree, tmp_path: Path) -> None:
    own = put(tmp_path / "own", bttv=module("bttv", depends="videodev,i2c-mux"))
    assert taken(stock, own) == ["i2c_mux=i2c-mux.ko", "bttv=bttv.ko"]


def test_compressed_modules_are_found(stock: ModuleTree, tmp_path: Path) -> None:
    path = tmp_path / "own/bttv.ko.xz"
    path.parent.mkdir()
    path.write_bytes(lzma.compress(module("bttv")))
    assert taken(stock, path.parent) == ["bttv=bttv.ko.xz"]


def test_of_a_whole_kernels_modules_those_are_taken_that_the_guest_loads(
    stock: ModuleTree, tmp_path: Path
) -> None:
    many = {f"m{number}": module(f"m{number}") for number in range(100)}
    own = put(tmp_path / "own", **many, bttv=module("bttv", depends="m7"), videodev=module("videodev"))
    assert taken(stock, own) == ["m7=m7.ko", "bttv=bttv.ko", "videodev=videodev.ko"]


def test_a_directory_without_modules_says_what_to_do(stock: ModuleTree, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no kernel modules .*make modules"):
        taken(stock, tmp_path / "empty")


def test_the_same_module_twice_is_refused(stock: ModuleTree, tmp_path: Path) -> None:
    own = put(tmp_path / "own", bttv=module("bttv"))
    put(own / "old", bttv=module("bttv"))
    with pytest.raises(UsageError, match="is the module bttv already"):
        taken(stock, own)


def test_modules_for_another_kernel_are_refused(stock: ModuleTree, tmp_path: Path) -> None:
    own = put(tmp_path / "own", bttv=module("bttv", vermagic="6.99.0 SMP"))
    with pytest.raises(UsageError, match=r"was built for '6\.99\.0 SMP'"):
        taken(stock, own)


def test_what_is_needed_and_nowhere_is_named(stock: ModuleTree, tmp_path: Path) -> None:
    own = put(tmp_path / "own", bttv=module("bttv", depends="nowhere"))
    with pytest.raises(SetupError, match=r"nowhere \(needed by bttv\)"):
        taken(stock, own)


def test_installed_modules_are_told_from_a_build_directory(stock: ModuleTree, tmp_path: Path) -> None:
    assert installed_tree(stock.root) == stock.root
    assert installed_tree(put(tmp_path / "flat", bttv=module("bttv"))) is None
    first = put(tmp_path / "root/lib/modules/6.1.0/kernel", bttv=module("bttv")).parent
    assert installed_tree(tmp_path / "root") == first
    put(tmp_path / "root/lib/modules/6.2.0/kernel", bttv=module("bttv"))
    with pytest.raises(UsageError, match=r"holds those of 6\.1\.0, 6\.2\.0"):
        installed_tree(tmp_path / "root")


def test_the_release_is_what_the_modules_say(stock: ModuleTree) -> None:
    assert release_of(stock) == VERMAGIC.split()[0]
