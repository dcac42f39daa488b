# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the unpacking of kernels: every compression comes out whole, whatever else is started as it is."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from vcapdev.image.cache import Cache
from vcapdev.vm.kernel_image import has_pvh_entry, quick_kernel, unpack


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    padded = owner + b"\0" * (-len(owner) % 4)
    return (
        struct.pack("<III", len(owner), len(content), kind) + padded + content + b"\0" * (-len(content) % 4)
    )


def vmlinux(notes: bytes) -> bytes:
    """An ELF file of one note segment."""
    head = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4)
    return head + segment + notes + b"text" * 5000


GOOD = vmlinux(note(b"GNU\0", 3, b"12345") + note(b"Xen\0", 18, bytes(8)))


def bzimage(payload: bytes) -> bytes:
    image = bytearray(0x600)
    image[0x1F1] = 2
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 0x20, len(payload))
    return bytes(image) + bytes(0x20) + payload + b"what follows"


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_compression_comes_out_whole(name: str) -> None:
    size = struct.pack("<I", len(GOOD))
    assert unpack(bzimage(COMPRESSIONS[name](GOOD) + size)) == GOOD


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\x7fELF" + bytes(1000),
        bzimage(b"LZO?" * 100),
        bzimage(lzma.compress(GOOD)[:-500][:30] + b"\xff" * 100),
        bzimage(lzma.compress(b"no program")),
    ],
)
def test_what_cannot_be_unpacked_is_left_alone(image: bytes) -> None:
    assert unpack(image) is None


def test_the_entry_is_found_by_owner_and_type() -> None:
    assert has_pvh_entry(GOOD)
    assert not has_pvh_entry(vmlinux(note(b"GNU\0", 18, bytes(8))))
    assert not has_pvh_entry(vmlinux(note(b"Xen\0", 5, bytes(8))))
    assert not has_pvh_entry(GOOD[:60])


def test_the_quick_kernel_is_made_once_and_only_where_it_helps(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(bzimage(lzma.compress(GOOD)))
    quick = quick_kernel(kernel, "tcg", cache=cache)
    assert quick.read_bytes() == GOOD
    assert quick_kernel(kernel, "tcg", cache=cache) == quick
    assert quick_kernel(kernel, "kvm", cache=cache) == kernel


def test_a_kernel_without_the_entry_is_started_as_it_is(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(bzimage(lzma.compress(vmlinux(b""))))
    assert quick_kernel(kernel, "tcg", cache=Cache(tmp_path / "cache")) == kernel
