# SPDX-License-Identifier: GPL-2.0-or-later
"""Unpacks a compressed kernel on the host, so that an emulated CPU need not: it halves the boot time.

A bzImage carries its vmlinux compressed (Documentation/x86/boot.rst, payload_offset and payload_length).
QEMU starts a bare vmlinux through its PVH entry (an ELF note of type XEN_ELFNOTE_PHYS32_ENTRY; Linux option
CONFIG_PVH, on in Debian). It is the same code at the same physical place; only address-space randomisation,
which the decompressor would do, does not happen.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from pathlib import Path

import zstandard

from vcapdev.image.cache import Cache, digest

_SETUP_SECTS, _MAGIC, _PAYLOAD = 0x1F1, 0x202, 0x248
_MOST = 512 << 20  # bytes; a Debian vmlinux has 65 MB
_PHYS32_ENTRY = 18  # include/xen/interface/elfnote.h
_PT_NOTE = 4


def quick_kernel(kernel: Path, accel: str, *, cache: Cache | None = None) -> Path:
    """The file to start ``kernel`` by: unpacked and cached where that is quicker and possible, else itself.

    Under KVM nothing is gained. A kernel that cannot be unpacked, or has no PVH entry, is started as it is.
    """
    if accel != "tcg":
        return kernel
    data = kernel.read_bytes()
    owner = cache if cache is not None else Cache()
    key = digest("vmlinux 1", data)

    def build(directory: Path) -> None:
        vmlinux = unpack(data)
        usable = vmlinux is not None and has_pvh_entry(vmlinux)
        # An empty file remembers that there is nothing to gain.
        (directory / "vmlinux").write_bytes(vmlinux if vmlinux is not None and usable else b"")

    unpacked = owner.entry("vmlinux", key, build, label=kernel.name) / "vmlinux"
    return unpacked if unpacked.stat().st_size else kernel


def unpack(image: bytes) -> bytes | None:
    """The vmlinux in a bzImage; None when it is none, or packed in a way that is not known here."""
    if len(image) < 0x260 or image[_MAGIC : _MAGIC + 4] != b"HdrS":
        return None
    start = (image[_SETUP_SECTS] or 4) * 512 + 512
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    payload = image[start + offset : start + offset + length]
    try:
        vmlinux = _decompress(payload)
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError):
        return None
    return vmlinux if vmlinux[:4] == b"\x7fELF" else None


def _decompress(payload: bytes) -> bytes:
    # Behind the compressed data stands its size (lib/decompress*.c), which stream decompressors let lie.
    if payload[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor().decompress(payload, _MOST)
    if payload[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(payload, _MOST)
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    return b""


def has_pvh_entry(elf: bytes) -> bool:
    """Whether a 64-bit little-endian ELF file has the note that QEMU looks for."""
    try:
        (table,) = struct.unpack_from("<Q", elf, 32)
        size, count = struct.unpack_from("<HH", elf, 54)
        for index in range(count):
            kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", elf, table + index * size)
            if kind == _PT_NOTE and _PHYS32_ENTRY in _notes(elf[offset : offset + length]):
                return True
    except struct.error:
        pass
    return False


def _notes(data: bytes) -> list[int]:
    """Types of the notes of owner "Xen"."""
    found, at = [], 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        if data[at + 12 : at + 12 + name_size] == b"Xen\0":
            found.append(kind)
        at += 12 + (name_size + 3 & ~3) + (size + 3 & ~3)
    return found
