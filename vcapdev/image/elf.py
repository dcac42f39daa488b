# SPDX-License-Identifier: GPL-2.0-or-later
"""The little of ELF that an image needs: sections of kernel modules, and which libraries a program loads.

Also how a path is meant inside an unpacked tree of packages, where libraries are looked for.

Source: the System V ABI, chapters 4 and 5, and its AMD64 supplement. Only 64-bit
little-endian files are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_PHDR = struct.Struct("<IIQQQQQQ")
_DYN = struct.Struct("<qQ")

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_SHT_PROGBITS, _SHT_NOBITS = 1, 8
_SHN_LORESERVE = 0xFF00
_MAX_LINKS = 40


class ElfError(ValueError):
    """The bytes are no ELF file that can be read here, or are cut short."""


@dataclass(frozen=True)
class Linkage:
    """What a program or library asks of the loader: the loader itself, libraries, and where to look first."""

    interpreter: str | None
    needed: tuple[str, ...]
    runpath: tuple[str, ...]


class Elf:
    """An ELF file held in memory. :raise ElfError: when it is none, or is cut short."""

    def __init__(self, image: bytes) -> None:
        if image[:6] != b"\x7fELF\x02\x01":
            raise ElfError("not a 64-bit little-endian ELF file")
        self._image = image
        header = self._unpack(_EHDR, 0)
        self._phoff, self._shoff = header[5], header[6]
        self._phnum, self._shnum, self._shstrndx = header[10], header[12], header[13]

    def section(self, name: str) -> bytes | None:
        """The content of the first section of that name; None when there is none."""
        headers = [self._unpack(_SHDR, self._shoff + i * _SHDR.size) for i in range(self._shnum)]
        if self._shstrndx >= len(headers):
            return None
        names = self._slice(headers[self._shstrndx][4], headers[self._shstrndx][5])
        for header in headers:
            if _string(names, header[0]) == name and header[1] != _SHT_NOBITS:
                return self._slice(header[4], header[5])
        return None

    def linkage(self) -> Linkage:
        """Interpreter, DT_NEEDED and DT_RUNPATH; all empty for a static program."""
        segments = [self._unpack(_PHDR, self._phoff + i * _PHDR.size) for i in range(self._phnum)]
        interpreter = None
        dynamic: list[tuple[int, int]] = []
        for kind, _flags, offset, _vaddr, _paddr, size, _memsize, _align in segments:
            if kind == _PT_INTERP:
                interpreter = _string(self._slice(offset, size), 0)
            elif kind == _PT_DYNAMIC:
                dynamic = self._dynamic(offset, size)
        return self._linkage(interpreter, dynamic, segments)

    def _linkage(
        self, interpreter: str | None, dynamic: list[tuple[int, int]], segments: list[tuple[int, ...]]
    ) -> Linkage:
        table = next((value for tag, value in dynamic if tag == _DT_STRTAB), None)
        if table is None:
            return Linkage(interpreter, (), ())
        strings = self._image[self._file_offset(table, segments) :]
        needed = tuple(_string(strings, value) for tag, value in dynamic if tag == _DT_NEEDED)
        paths = [_string(strings, value) for tag, value in dynamic if tag in (_DT_RPATH, _DT_RUNPATH)]
        return Linkage(interpreter, needed, tuple(p for path in paths for p in path.split(":") if p))

    def _dynamic(self, offset: int, size: int) -> list[tuple[int, int]]:
        rows = []
        for position in range(offset, offset + size, _DYN.size):
            tag, value = self._unpack(_DYN, position)
            if tag == 0:
                break
            rows.append((tag, value))
        return rows

    @staticmethod
    def _file_offset(address: int, segments: list[tuple[int, ...]]) -> int:
        for kind, _flags, offset, vaddr, _paddr, filesize, *_rest in segments:
            if kind == _PT_LOAD and vaddr <= address < vaddr + filesize:
                return offset + address - vaddr
        raise ElfError(f"address {address:#x} is in no segment")

    def _unpack(self, form: struct.Struct, offset: int) -> tuple[int, ...]:
        if offset + form.size > len(self._image):
            raise ElfError("cut short")
        return form.unpack_from(self._image, offset)

    def _slice(self, offset: int, size: int) -> bytes:
        if offset + size > len(self._image):
            raise ElfError("cut short")
        return self._image[offset : offset + size]


def with_section(image: bytes, name: str, content: bytes) -> bytes:
    """A copy of a 64-bit ELF file with one more section, which nothing loads (SHT_PROGBITS without flags).

    :raise ElfError: it is no such file, has no section headers, or has that section already.
    """
    elf = Elf(image)
    if elf.section(name) is not None:
        raise ElfError(f"it has a section {name} already")
    header = list(_EHDR.unpack_from(image))
    table, count, names_index = header[6], header[12], header[13]
    if not 0 < count < _SHN_LORESERVE - 1 or names_index >= count or table + count * _SHDR.size > len(image):
        raise ElfError("no section headers that can be read here")
    rows = [list(_SHDR.unpack_from(image, table + index * _SHDR.size)) for index in range(count)]
    names = image[rows[names_index][4] :][: rows[names_index][5]] + name.encode() + b"\0"
    body = bytearray(image)
    rows.append([rows[names_index][5], _SHT_PROGBITS, 0, 0, _append(body, content), len(content), 0, 0, 1, 0])
    rows[names_index][4:6] = _append(body, names), len(names)
    header[6] = _append(body, b"".join(_SHDR.pack(*row) for row in rows))
    header[12] = count + 1
    _EHDR.pack_into(body, 0, *header)
    return bytes(body)


def _append(body: bytearray, content: bytes) -> int:
    """Where ``content`` starts, at a multiple of 8."""
    body += bytes(-len(body) % 8)
    start = len(body)
    body += content
    return start


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    if not 0 <= offset < len(table) or end < 0:
        raise ElfError("a name lies outside its string table")
    return table[offset:end].decode("utf-8", "surrogateescape")


def resolve_in_root(root: Path, name: str) -> Path | None:
    """The regular file that ``name`` means to a program whose root directory is ``root``; None when absent.

    Symbolic links are followed inside the root only: absolute targets start at it and ".." stops at it.
    """
    pending = [part for part in reversed(name.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        target = here.readlink().as_posix()
        if target.startswith("/"):
            done = []
        pending.extend(p for p in reversed(target.split("/")) if p not in ("", "."))
    path = root.joinpath(*done)
    return path if path.is_file() else None
