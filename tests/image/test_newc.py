# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the archive writer: what it writes is read back field by field, by a reader that forgives none."""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.image.newc import MAX_NAME, TRAILER, Tree


@dataclass
class Item:
    inode: int
    mode: int
    links: int
    rdev: tuple[int, int]
    data: bytes


def read_strictly(archive: bytes) -> dict[str, Item]:
    """Every rule of the format that the kernel relies on, and no byte left over."""
    items: dict[str, Item] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        assert at % 4 == 0
        raw = [archive[at + 6 + 8 * i : at + 14 + 8 * i] for i in range(13)]
        assert all(len(f) == 8 and f == f.upper() for f in raw)
        ino, mode, uid, gid, links, mtime, size, major, minor, rmajor, rminor, length, check = (
            int(f, 16) for f in raw
        )
        assert (uid, gid, mtime, major, minor, check) == (0, 0, 0, 0, 0, 0)
        name = archive[at + 110 : at + 110 + length]
        assert name[-1:] == b"\0"
        assert b"\0" not in name[:-1]
        data_at = (at + 110 + length + 3) & ~3
        assert not any(archive[at + 110 + length : data_at]), "padding of the name"
        data = archive[data_at : data_at + size]
        assert len(data) == size
        end = (data_at + size + 3) & ~3
        assert archive[data_at + size : end] == bytes(end - data_at - size)
        at = end
        text = name[:-1].decode("utf-8", "surrogateescape")
        if text == TRAILER:
            assert size == 0
            assert at == len(archive)
            return items
        assert text not in items
        items[text] = Item(ino, mode, links, (rmajor, rminor), data)


def written(tree: Tree) -> bytes:
    stream = io.BytesIO()
    count = tree.write(stream)
    assert count == len(stream.getvalue())
    return stream.getvalue()


def test_every_kind_of_entry_is_read_back() -> None:
    tree = Tree()
    tree.add_file("bin/busybox", b"program", 0o4755)
    tree.add_symlink("bin/sh", "/bin/busybox")
    tree.add_dir("tmp", 0o1777)
    tree.add_node("dev/console", "c", 5, 1)
    tree.add_node("dev/vda", "b", 254, 0x12345, 0o660)
    items = read_strictly(written(tree))
    assert list(items) == ["bin", "bin/busybox", "bin/sh", "dev", "dev/console", "dev/vda", "tmp"]
    assert items["bin/busybox"].mode == stat.S_IFREG | 0o4755
    assert items["bin/busybox"].data == b"program"
    assert (items["bin/sh"].mode, items["bin/sh"].data) == (stat.S_IFLNK | 0o777, b"/bin/busybox")
    assert items["tmp"].mode == stat.S_IFDIR | 0o1777
    assert (items["dev/console"].mode, items["dev/console"].rdev) == (stat.S_IFCHR | 0o600, (5, 1))
    assert (items["dev/vda"].mode, items["dev/vda"].rdev) == (stat.S_IFBLK | 0o660, (254, 0x12345))


def test_no_two_entries_are_taken_for_hard_links() -> None:
    """The kernel links files of equal inode number and more than one link."""
    tree = Tree()
    for name in ("a", "b", "c/d"):
        tree.add_file(name, b"")
    items = read_strictly(written(tree))
    assert len({item.inode for item in items.values()}) == len(items)
    assert all(item.links == 1 for item in items.values() if not stat.S_ISDIR(item.mode))


def test_the_order_of_adding_does_not_matter() -> None:
    one, two = Tree(), Tree()
    for tree, names in ((one, ("a/b", "a-b", "a.c/d")), (two, ("a.c/d", "a/b", "a-b"))):
        for name in names:
            tree.add_file(name, name.encode())
    assert written(one) == written(two)


def test_a_directory_precedes_its_content_even_between_similar_names() -> None:
    tree = Tree()
    for name in ("a/z", "a-x/y", "a!"):
        tree.add_file(name, b"")
    order = list(read_strictly(written(tree)))
    assert order.index("a") < order.index("a/z")
    assert order.index("a-x") < order.index("a-x/y")


def test_a_directory_named_later_only_gets_its_mode() -> None:
    tree = Tree()
    tree.add_file("root/.profile", b"")
    tree.add_dir("root", 0o700)
    assert read_strictly(written(tree))["root"].mode == stat.S_IFDIR | 0o700


@pytest.mark.parametrize(
    "name",
    ["", "/abs", "a//b", "a/", "./a", "a/../b", "..", "nul\0", TRAILER, "x" * 256, "d/" * 2046 + "f"],
)
def test_names_that_the_kernel_cannot_take_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"path|name|long"):
        Tree().add_file(name, b"")


def test_the_longest_name_is_taken() -> None:
    name = "/".join(["d" * 200] * 20 + ["f" * (MAX_NAME - 1 - 20 * 201)])
    tree = Tree()
    tree.add_file(name, b"x")
    assert read_strictly(written(tree))[name].data == b"x"


def test_a_second_entry_and_a_file_as_directory_are_refused() -> None:
    tree = Tree()
    tree.add_file("a", b"")
    for wrong in (
        lambda: tree.add_file("a", b""),
        lambda: tree.add_file("a/b", b""),
        lambda: tree.add_dir("a"),
    ):
        with pytest.raises(ValueError, match="a"):
            wrong()


@pytest.mark.parametrize(
    ("kind", "major", "minor"), [("p", 1, 1), ("c", 4096, 0), ("b", 1, 1 << 20), ("c", -1, 0)]
)
def test_device_numbers_are_checked(kind: str, major: int, minor: int) -> None:
    with pytest.raises(ValueError, match="device"):
        Tree().add_node("dev/x", kind, major, minor)


@pytest.mark.parametrize("target", ["", "a\0b", "x" * 5000])
def test_link_targets_are_checked(target: str) -> None:
    with pytest.raises(ValueError, match="point"):
        Tree().add_symlink("link", target)


components = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60).filter(
    lambda part: part not in (".", "..")
)
paths = st.lists(components, min_size=1, max_size=4).map("/".join).filter(lambda path: path != TRAILER)


@given(st.dictionaries(paths, st.binary(max_size=70), max_size=12))
def test_any_names_and_sizes_survive(files: dict[str, bytes]) -> None:
    tree = Tree()
    kept = {}
    for name, data in files.items():
        try:
            tree.add_file(name, data)
        except ValueError:  # one of the names is the directory of another
            assert any(other.startswith(f"{name}/") or name.startswith(f"{other}/") for other in files)
        else:
            kept[name] = data
    items = read_strictly(written(tree))
    assert {name: item.data for name, item in items.items() if stat.S_ISREG(item.mode)} == kept
