# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects bundles: all of an entry arrives as it was, and nothing of a damaged or malicious one stays."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from vcapdev.errors import SetupError, UsageError
from vcapdev.image import bundlefile
from vcapdev.image.bundlefile import MANIFEST, BundleFile, Item, Manifest, Writer, check_room

EMPTY = Manifest("1.0", "2026-01-02", {"bookworm-6.1": "6.1.0"}, {"recipes": {}}, {})
KEY = "ab" * 32


def nothing(_done: int) -> None:
    """Nobody looks at the progress."""


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """What an entry may hold: programs, links of both kinds, a file that is mostly a hole."""
    top = tmp_path / "content"
    (top / "lib/empty").mkdir(parents=True)
    (top / "lib/program").write_bytes(b"\x7fELF" + bytes(range(256)) * 40)
    (top / "lib/program").chmod(0o755)
    (top / "lib/secret").write_text("for the owner")
    (top / "lib/secret").chmod(0o600)
    (top / "alias").symlink_to("/lib/program")
    os.link(top / "lib/program", top / "twin")
    with (top / "swap").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"the end")
    return top


@pytest.fixture
def packed(tmp_path: Path, content: Path) -> Path:
    path = tmp_path / "x.vcap"
    with Writer(path) as writer:
        writer.add("packages", KEY, "kernel", content, nothing)
        writer.finish(replace(EMPTY, items=writer.items))
    return path


def unpack(path: Path, into: Path) -> Path:
    into.mkdir()
    bundle = BundleFile(path)
    for item in bundle.manifest.items:
        bundle.unpack(item, into, nothing)
    return into


def test_an_entry_arrives_as_it_was(packed: Path, content: Path, tmp_path: Path) -> None:
    there = unpack(packed, tmp_path / "there")
    for path in content.rglob("*"):
        copy = there / path.relative_to(content)
        others = 0 if path.is_symlink() else 0o022  # only its owner may write to what comes out of a bundle
        assert copy.lstat().st_mode == path.lstat().st_mode & ~others
        if path.is_symlink():
            assert os.readlink(copy) == os.readlink(path)
        elif path.is_file():
            assert copy.read_bytes() == path.read_bytes()
    assert (there / "twin").stat().st_ino == (there / "lib/program").stat().st_ino
    assert (there / "swap").stat().st_blocks * 512 < 1 << 20, "the hole takes room"


def test_the_manifest_tells_what_there_is(packed: Path) -> None:
    manifest = BundleFile(packed).manifest
    assert replace(manifest, items=[]) == EMPTY
    (item,) = manifest.items
    assert (item.kind, item.key, item.label) == ("packages", KEY, "kernel")
    assert item.unpacked > 5 << 20 > item.room > 0


def test_progress_goes_to_the_end_on_both_ways(packed: Path, content: Path, tmp_path: Path) -> None:
    told: list[int] = []
    with Writer(tmp_path / "y.vcap") as writer:
        writer.add("packages", KEY, "kernel", content, told.append)
        assert told[-1] == writer.items[0].unpacked
    (tmp_path / "there").mkdir()
    bundle = BundleFile(packed)
    bundle.unpack(bundle.manifest.items[0], tmp_path / "there", told.append)
    assert told == sorted(told[: len(told) // 2]) + told[len(told) // 2 :]
    assert told[-1] == bundle.manifest.items[0].unpacked


def test_a_bundle_is_complete_or_not_there(tmp_path: Path, content: Path) -> None:
    path = tmp_path / "x.vcap"
    path.write_text("what was there before")

    def interrupted(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Writer(path) as writer:
        writer.add("packages", KEY, "kernel", content, interrupted)
    assert path.read_text() == "what was there before"
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["x.vcap"]


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, content: Path) -> None:
    said = r"the bundle .* cannot be written: .*; name a place with room"
    full, errors = Path("/dev/full"), bundlefile.write_errors(tmp_path / "x")
    with pytest.raises(SetupError, match=said), errors, full.open("wb", buffering=0) as file:
        file.write(b"x")
    with pytest.raises(SetupError, match="cannot be written"):
        Writer(tmp_path / "none" / "x.vcap")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_bundle_that_was_copied_in_part_is_refused_at_once(packed: Path, part: float) -> None:
    data = packed.read_bytes()
    packed.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UsageError, match="is no bundle of vcapdev, or not all of it"):
        BundleFile(packed)


def test_every_flipped_byte_is_noticed(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    for number, place in enumerate(range(40, len(data), max(len(data) // 40, 1))):
        damaged = tmp_path / "damaged.vcap"
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        there = tmp_path / f"there-{number}"
        with suppress(SetupError, UsageError):  # nothing but these
            unpack(damaged, there)
            assert (there / "lib/program").read_bytes() == (tmp_path / "content/lib/program").read_bytes()


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        '{"format": 2}',
        '{"format": 1}',
        json.dumps({"format": 1, "items": [{"kind": "../..", "key": "x"}]}),
        "[" * 100_000,
    ],
)
def test_a_manifest_that_is_none_is_one_line(tmp_path: Path, manifest: str) -> None:
    path = tmp_path / "x.vcap"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MANIFEST, manifest)
    with pytest.raises(UsageError, match="is no bundle of vcapdev") as caught:
        BundleFile(path)
    assert "\n" not in str(caught.value)


def malicious(path: Path, *members: tuple[tarfile.TarInfo, bytes], unpacked: int = 1 << 20) -> BundleFile:
    """A bundle whose checksum is right, and whose archive is not nice."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = zstandard.ZstdCompressor().compress(plain.getvalue())
    item = Item("packages", KEY, "it", hashlib.sha256(data).hexdigest(), len(data), unpacked, 0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(item.member, data)
        archive.writestr(MANIFEST, replace(EMPTY, items=[item]).text())
    return BundleFile(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "members",
    [
        lambda: [(member("/etc/passwd"), b"x")],
        lambda: [(member("../outside"), b"x")],
        lambda: [(member("a/../../outside"), b"x")],
        lambda: [(member("out", tarfile.SYMTYPE, ".."), b""), (member("out/outside"), b"x")],
        lambda: [(member("hard", tarfile.LNKTYPE, "../outside"), b"")],
        lambda: [(member("null", tarfile.CHRTYPE), b"")],
        lambda: [(member("pipe", tarfile.FIFOTYPE), b"")],
        lambda: [(member("long"), bytes(2 << 20))],
    ],
)
def test_nothing_gets_out_of_its_place(
    tmp_path: Path, members: Callable[[], list[tuple[tarfile.TarInfo, bytes]]]
) -> None:
    into = tmp_path / "deep/into"
    into.mkdir(parents=True)
    bundle = malicious(tmp_path / "x.vcap", *members())
    with pytest.raises(SetupError, match="is damaged"):
        bundle.unpack(bundle.manifest.items[0], into, nothing)
    assert not list(tmp_path.rglob("outside"))


def test_room_is_asked_for_before(tmp_path: Path) -> None:
    huge = Item("packages", KEY, "it", "", 0, 0, 1 << 60)
    with pytest.raises(SetupError, match=r"may take .* MB, and the cache at .* has .* MB of room"):
        check_room(tmp_path / "cache", [huge], Path("x.vcap"))
    check_room(tmp_path / "cache", [], Path("x.vcap"))
