# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files made by hand for the tests of the image package: kernel modules, programs, libraries."""

from __future__ import annotations

import struct
from collections.abc import Sequence

VERMAGIC = "6.1.0-9-amd64 SMP preempt mod_unload modversions "


def module(name: str, *, depends: str = "", vermagic: str = VERMAGIC, extra: Sequence[str] = ()) -> bytes:
    """A relocatable object with just a .modinfo section, as modpost writes it."""
    items = ["license=GPL", f"depends={depends}", f"name={name}", f"vermagic={vermagic}", *extra]
    return relocatable({".modinfo": b"".join(item.encode() + b"\0" for item in items)})


def relocatable(sections: dict[str, bytes]) -> bytes:
    """An ELF file with these sections and a section name table."""
    names = b"\0"
    offset = 64
    headers = [bytes(64)]
    body = b""
    for name, content in [*sections.items(), (".shstrtab", b"")]:
        index = len(names)
        names += name.encode() + b"\0"
        if name == ".shstrtab":
            content = names
        headers.append(
            struct.pack("<IIQQQQIIQQ", index, 1, 0, 0, offset + len(body), len(content), 0, 0, 1, 0)
        )
        body += content
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, offset + len(body), 0, 64, 0, 0, 64,
        len(headers), len(headers) - 1,
    )  # fmt: skip
    return head + body + b"".join(headers)


def program(needed: Sequence[str] = (), *, interpreter: str | None = None, runpath: str = "") -> bytes:
    """A program or library that asks for libraries; static when it asks for nothing."""
    base = 0x400000
    strings = b"\0"
    rows = []
    for tag, text in [*((1, name) for name in needed), *([(29, runpath)] if runpath else [])]:
        rows.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    name = (interpreter or "").encode() + b"\0"
    count = 1 + (interpreter is not None) + bool(rows)
    strings_at = 64 + 56 * count
    name_at = strings_at + len(strings)
    dynamic_at = name_at + len(name)
    rows += [(5, base + strings_at), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *row) for row in rows)
    segments = [(1, 0, base, dynamic_at + len(dynamic))]
    if interpreter is not None:
        segments.append((3, name_at, base + name_at, len(name)))
    if needed or runpath:
        segments.append((2, dynamic_at, base + dynamic_at, len(dynamic)))
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 5, at, va, va, size, size, 8) for kind, at, va, size in segments
    )
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0
    )
    return head + table + strings + name + dynamic


def kernel_image(banner: str) -> bytes:
    """The start of a bzImage that calls itself ``banner``."""
    head = bytearray(0x1000)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x600)
    head[0x800 : 0x800 + len(banner)] = banner.encode()
    return bytes(head)
