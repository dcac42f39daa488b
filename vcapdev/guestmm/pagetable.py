# SPDX-License-Identifier: GPL-2.0-or-later
"""x86-64 page tables, read from outside.

Intel SDM volume 3A, chapter 4.5; the software bits from arch/x86/include/asm/pgtable_types.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE, GuestMemory, GuestReadError

PRESENT = 1 << 0
WRITABLE = 1 << 1
ACCESSED = 1 << 5
DIRTY = 1 << 6
LARGE = 1 << 7
PROTNONE = 1 << 8  # in an entry that is not present: a NUMA hint or PROT_NONE mapping, not a swap entry
FRAME = ((1 << 52) - 1) & ~(PAGE_SIZE - 1)
ENTRIES = 512


@dataclass(frozen=True, slots=True)
class Mapping:
    """Where a virtual address leads.

    ``entry`` is the last table entry that was read, ``size`` what it spans in bytes; ``physical`` is None
    when the entry is not present.
    """

    virtual: int
    entry: int
    size: int
    physical: int | None

    @property
    def pfn(self) -> int | None:
        """Page frame number of the 4 KiB page, None when not present."""
        return None if self.physical is None else self.physical >> PAGE_SHIFT


class PageTable:
    """One address space: the physical address of its top table, and 4 or 5 levels."""

    def __init__(self, memory: GuestMemory, top: int, levels: int = 4) -> None:
        self.memory = memory
        self.top = top & FRAME
        self.levels = levels

    def walk(self, virtual: int) -> Mapping:
        """Follow ``virtual`` down.

        :raise GuestReadError: when a table lies outside guest RAM.
        """
        table = self.top
        for level in range(self.levels - 1, -1, -1):
            shift = PAGE_SHIFT + 9 * level
            entry = self.memory.u64(table + 8 * ((virtual >> shift) & (ENTRIES - 1)))
            if not entry & PRESENT:
                return Mapping(virtual, entry, 1 << shift, None)
            if level == 0 or (level <= 2 and entry & LARGE):
                size = 1 << shift
                base = entry & FRAME & ~(size - 1)
                return Mapping(virtual, entry, size, base | (virtual & (size - 1)))
            table = entry & FRAME
        raise GuestReadError("a page table has no levels")

    def translate(self, virtual: int) -> int:
        """Physical address of ``virtual``.

        :raise GuestReadError: when it is not mapped.
        """
        found = self.walk(virtual).physical
        if found is None:
            raise GuestReadError(f"virtual address {virtual:#x} is not mapped in the guest")
        return found

    def read(self, virtual: int, size: int) -> bytes:
        """Copy ``size`` bytes at ``virtual``, across page borders.

        :raise GuestReadError: when part of it is not mapped, or the length is absurd.
        """
        parts = []
        for address, length in self._pieces(virtual, size):
            parts.append(self.memory.read(address, length))
        return b"".join(parts)

    def _pieces(self, virtual: int, size: int) -> Iterator[tuple[int, int]]:
        if not 0 <= size <= 64 << 20:
            raise GuestReadError(f"{size} bytes at {virtual:#x} is no sensible length")
        end = virtual + size
        while virtual < end:
            found = self.walk(virtual)
            if found.physical is None:
                raise GuestReadError(f"virtual address {virtual:#x} is not mapped in the guest")
            length = min(end - virtual, found.size - (virtual & (found.size - 1)))
            yield found.physical, length
            virtual += length

    def u64(self, virtual: int) -> int:
        """The 64-bit word at ``virtual``."""
        return int(struct.unpack("<Q", self.read(virtual, 8))[0])

    def u32(self, virtual: int) -> int:
        """The 32-bit word at ``virtual``."""
        return int(struct.unpack("<I", self.read(virtual, 4))[0])
