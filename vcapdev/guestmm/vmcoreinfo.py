# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMCOREINFO note: what a Linux kernel writes into its own memory for crash dump readers.

Found by scanning guest RAM for the ELF note header that kernel/crash_core.c (``append_elf_note``,
``update_vmcoreinfo_note``) fills; the text is lines of ``KEY=VALUE``
(Documentation/admin-guide/kdump/vmcoreinfo.rst).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vcapdev.guestmm.memory import PAGE_SIZE, GuestMemory

_NAME = b"VMCOREINFO\0"
_HEADER = struct.Struct("<III")
_TEXT_OFFSET = _HEADER.size + 12  # the name, padded to four bytes
_MAX_TEXT = 16 * PAGE_SIZE
_PIECES = 256  # looked at between two breaths
_STRIDE = 16384  # pages


class VmcoreinfoError(ValueError):
    """The note lacks something that is needed, or it says something impossible."""


@dataclass(frozen=True, slots=True)
class Vmcoreinfo:
    """A parsed note.

    ``address`` is the physical address of the note, ``text`` its raw text, ``values`` every line.
    """

    address: int
    text: bytes
    values: Mapping[str, str]

    @classmethod
    def parse(cls, text: bytes, address: int = 0) -> Vmcoreinfo:
        """Split the text; lines that are no ``KEY=VALUE`` are left out."""
        values = {}
        for line in text.decode("ascii", "replace").splitlines():
            key, equals, value = line.partition("=")
            if equals and key:
                values[key] = value
        return cls(address, text, values)

    @property
    def release(self) -> str:
        """The kernel's release, as ``uname -r`` prints it."""
        return self.values.get("OSRELEASE", "")

    @property
    def build_id(self) -> str:
        """The kernel's build id in hexadecimal; empty before 5.15, which added it."""
        return self.values.get("BUILD-ID", "")

    def symbol(self, name: str) -> int | None:
        """Virtual address of a symbol that the kernel listed."""
        return self._number(f"SYMBOL({name})", 16)

    def offset(self, name: str) -> int | None:
        """Byte offset of a member, for example ``page._refcount``."""
        return self._number(f"OFFSET({name})", 10)

    def size(self, name: str) -> int | None:
        """Size of a type in bytes."""
        return self._number(f"SIZE({name})", 10)

    def length(self, name: str) -> int | None:
        """Number of elements of an array."""
        return self._number(f"LENGTH({name})", 10)

    def number(self, name: str) -> int | None:
        """A constant of the kernel, signed."""
        return self._number(f"NUMBER({name})", 0)

    @property
    def kernel_offset(self) -> int:
        """How far the kernel image was moved from its link address (KASLR)."""
        return self._number("KERNELOFFSET", 16) or 0

    def _number(self, key: str, base: int) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        try:
            return int(value, base)
        except ValueError:
            return None


def find_notes(memory: GuestMemory, breathe: Callable[[], None] = lambda: None) -> Iterator[Vmcoreinfo]:
    """Every note in the populated part of guest RAM, in ascending order of address.

    A note that a former kernel left behind is among them: validate before use. ``breathe`` is called now and
    then: a guest decides into how many pieces its memory falls, and how many pages look like a note.
    """
    for number, (start, size) in enumerate(memory.populated()):
        if not number % _PIECES:
            breathe()
        yield from _notes_in(memory, start, size, breathe)


def _notes_in(
    memory: GuestMemory, start: int, size: int, breathe: Callable[[], None]
) -> Iterator[Vmcoreinfo]:
    step = _STRIDE * PAGE_SIZE
    for first in range(start, start + size, step):
        breathe()
        yield from _notes_near(memory, first, min(step, start + size - first), breathe)


def _notes_near(
    memory: GuestMemory, start: int, size: int, breathe: Callable[[], None]
) -> Iterator[Vmcoreinfo]:
    segment = memory.segment(start)
    if segment is None:
        return
    first = -(-start // PAGE_SIZE) * PAGE_SIZE
    offset, pages = first - segment.start, (start + size - first) // PAGE_SIZE
    if pages <= 0:
        return
    block = segment.data[offset : offset + pages * PAGE_SIZE].reshape(pages, PAGE_SIZE)
    # The low byte of the name's size.
    for number, page in enumerate(np.flatnonzero(block[:, 0] == len(_NAME)).tolist()):
        if not number % _PIECES:
            breathe()
        address = first + page * PAGE_SIZE
        note = note_at(memory, address)
        if note is not None:
            yield note


def note_at(memory: GuestMemory, address: int) -> Vmcoreinfo | None:
    """The note at a physical address, None when there is none."""
    segment = memory.segment(address)
    if segment is None:
        return None
    offset = address - segment.start
    head = segment.data[offset : offset + _TEXT_OFFSET].tobytes()
    if len(head) < _TEXT_OFFSET or head[12 : 12 + len(_NAME)] != _NAME:
        return None
    name_size, length, _ = _HEADER.unpack_from(head)
    if name_size != len(_NAME) or not 0 < length <= _MAX_TEXT:
        return None
    text = segment.data[offset + _TEXT_OFFSET : offset + _TEXT_OFFSET + length].tobytes()
    note = Vmcoreinfo.parse(text.rstrip(b"\0"), address)
    return note if note.release else None
