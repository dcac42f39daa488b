# SPDX-License-Identifier: GPL-2.0-or-later
"""Write cpio archives in the "newc" format, which Linux unpacks as its initramfs.

The format is that of Documentation/driver-api/early-userspace/buffer-format.rst: a header of "070701" and
13 fields of 8 hexadecimal digits, the name with its NUL, the data, name and data each padded to 4 bytes, and
an entry named TRAILER!!! at the end. Device nodes are only numbers in the archive, so no root is needed.

The output is deterministic: entries sorted, times, owners and devices zero, inode numbers counted from 1.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TRAILER = "TRAILER!!!"
#: The kernel skips an entry with a longer name or link target (init/initramfs.c: N_ALIGN(len) > PATH_MAX).
MAX_NAME = 4092
#: NAME_MAX of every file system, rootfs among them.
MAX_COMPONENT = 255
#: The size field has 8 hexadecimal digits.
MAX_SIZE = 0xFFFFFFFF

_MAGIC = b"070701"


@dataclass(frozen=True)
class Entry:
    """One file of the archive; ``data`` is the content, or the target of a symbolic link."""

    name: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)

    @property
    def sort_key(self) -> tuple[str, ...]:
        """Orders a directory before what is in it."""
        return tuple(self.name.split("/"))


class Tree:
    """The files of an archive to be. Parent directories come by themselves (mode 0755).

    Names are relative to the root of the archive, without ``.`` or ``..``, and below :data:`MAX_NAME` bytes.
    Every ``add_*`` raises ValueError for a name, target or number that the format or the kernel cannot take,
    for a second entry of the same name, and for a file in the place of a directory.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def add_dir(self, name: str, mode: int = 0o755) -> None:
        """Add a directory; to name one again only sets its mode."""
        _check_name(name)
        there = self._entries.get(name)
        if there is not None and not stat.S_ISDIR(there.mode):
            raise ValueError(f"{name!r} is in the archive already, and is no directory")
        self._add_parents(name)
        self._entries[name] = Entry(name, stat.S_IFDIR | _permissions(mode))

    def add_file(self, name: str, data: bytes | Path, mode: int = 0o644) -> None:
        """Add a regular file with the given content, or the content of a file of the host."""
        content = data if isinstance(data, bytes) else data.read_bytes()
        if len(content) > MAX_SIZE:
            raise ValueError(f"{name!r} has {len(content)} bytes, and an archive entry at most {MAX_SIZE}")
        self._add(Entry(name, stat.S_IFREG | _permissions(mode), content))

    def add_symlink(self, name: str, target: str) -> None:
        """Add a symbolic link; ``target`` is taken as it is."""
        body = target.encode("utf-8", "surrogateescape")
        if not body or b"\0" in body or len(body) > MAX_NAME:
            raise ValueError(f"{name!r} cannot point to {target[:60]!r}: empty, with a NUL, or too long")
        self._add(Entry(name, stat.S_IFLNK | 0o777, body))

    def add_node(self, name: str, kind: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a device node; ``kind`` is "c" or "b", numbers as in Documentation/admin-guide/devices.txt."""
        if kind not in ("b", "c"):
            raise ValueError(f"{name!r} cannot be a device of kind {kind!r}: only 'b' and 'c' are known")
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise ValueError(f"{name!r} cannot have the device number {major}:{minor} (12 and 20 bits)")
        form = stat.S_IFCHR if kind == "c" else stat.S_IFBLK
        self._add(Entry(name, form | _permissions(mode), b"", (major, minor)))

    def entries(self) -> Iterator[Entry]:
        """All entries in the order of the archive."""
        return iter(sorted(self._entries.values(), key=lambda entry: entry.sort_key))

    def write(self, stream: BinaryIO) -> int:
        """Write the archive and its trailer; return the number of bytes written."""
        total = 0
        for number, entry in enumerate(self.entries(), start=1):
            total += _write_entry(stream, entry, number)
        return total + _write_entry(stream, Entry(TRAILER, 0), 0)

    def _add(self, entry: Entry) -> None:
        _check_name(entry.name)
        if entry.name in self._entries:
            raise ValueError(f"{entry.name!r} is in the archive already")
        self._add_parents(entry.name)
        self._entries[entry.name] = entry

    def _add_parents(self, name: str) -> None:
        parent = posixpath.dirname(name)
        if not parent:
            return
        there = self._entries.get(parent)
        if there is None:
            self.add_dir(parent)
        elif not stat.S_ISDIR(there.mode):
            raise ValueError(f"{name!r} cannot be in the archive: {parent!r} is no directory")


def _check_name(name: str) -> None:
    encoded = name.encode("utf-8", "surrogateescape")
    parts = encoded.split(b"/")
    if any(part in (b"", b".", b"..") for part in parts):
        raise ValueError(f"{name[:60]!r} is no plain relative path")
    if b"\0" in encoded or name == TRAILER:
        raise ValueError(f"{name[:60]!r} cannot be the name of an archive entry")
    if len(encoded) >= MAX_NAME or max(map(len, parts)) > MAX_COMPONENT:
        raise ValueError(f"{name[:60]!r}... is too long for an archive entry ({len(encoded)} bytes)")


def _permissions(mode: int) -> int:
    if not 0 <= mode <= 0o7777:
        raise ValueError(f"{mode:#o} is no set of permission bits")
    return mode


def _write_entry(stream: BinaryIO, entry: Entry, inode: int) -> int:
    name = entry.name.encode("utf-8", "surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.rdev, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    written = 0
    for part in (head, entry.data):
        padded = part + bytes(-len(part) % 4)
        stream.write(padded)
        written += len(padded)
    return written
