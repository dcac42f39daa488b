# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel memory by virtual address: single reads by the short way, and sets of words to be read again.

Nearly all objects of a kernel lie in its direct map, where the physical address is the virtual one less a
constant (Documentation/arch/x86/x86_64/mm.rst); everything else goes through the page tables.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import MemorySegment
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, GuestReadError
from vcapdev.guestmm.peeks import Spots
from vcapdev.guestmm.vmemmap import MAX_PAGES
from vcapdev.recall import keep

_PAGE_OFFSET = 0xFFFF888000000000  # where the kernel has no variable for it (no CONFIG_DYNAMIC_MEMORY_LAYOUT)
_MASK = (1 << 64) - 1
_MAX_LISTS = 64  # lists of pages that are known again


class Reader:
    """Reads of kernel objects. Every address is the guest's word and may lead nowhere."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._memory, self._table = kernel.memory, kernel.table
        self._base = kernel.symbol_u64("page_offset_base") or _PAGE_OFFSET
        # Bytes of the direct map. Where KASLR moves it, vmalloc memory may follow soon after its end.
        self._direct = kernel.vmemmap.pages << PAGE_SHIFT
        self._frames: dict[bytes, NDArray[np.int64]] = {}

    @classmethod
    def of(cls, kernel: Kernel) -> Reader:
        """The kernel's reader, made once."""
        found = kernel.cache.get("reader")
        if not isinstance(found, cls):
            found = kernel.cache["reader"] = cls(kernel)
        return found

    def physical(self, virtual: int) -> int:
        """Physical address of a byte.

        :raise GuestReadError: when it is not mapped.
        """
        offset = virtual - self._base
        return offset if 0 <= offset < self._direct else self._table.translate(virtual)

    def physicals(self, virtual: Sequence[int]) -> NDArray[np.int64]:
        """The same of some, at least one.

        :raise GuestReadError: when one is not mapped.
        """
        places = [each - self._base for each in virtual]
        if min(places) < 0 or max(places) >= self._direct:
            places = [self.physical(each) for each in virtual]
        return np.array(places, dtype=np.int64)

    def read(self, virtual: int, size: int) -> bytes:
        """Copy ``size`` bytes.

        :raise GuestReadError: when part of it is not mapped, or the length is absurd.
        """
        offset = virtual - self._base
        if 0 <= offset < self._direct:
            return self._memory.read(offset, size)
        return self._table.read(virtual & _MASK, size)

    def u64(self, virtual: int) -> int:
        """The 64-bit word at ``virtual``."""
        return int(struct.unpack("<Q", self.read(virtual, 8))[0])

    def u32(self, virtual: int) -> int:
        """The 32-bit word at ``virtual``."""
        return int(struct.unpack("<I", self.read(virtual, 4))[0])

    def words(self, virtual: int, count: int) -> NDArray[np.uint64]:
        """``count`` 64-bit words, copied."""
        return np.frombuffer(self.read(virtual, 8 * count), dtype="<u8")

    def text(self, virtual: int, size: int) -> str:
        """Text of at most ``size`` bytes, fit to be printed."""
        raw = self.read(virtual, size).split(b"\0")[0].decode("ascii", "replace")
        return "".join(c if c.isprintable() else "?" for c in raw)

    def frames(self, pages: bytes) -> NDArray[np.int64]:
        """As :meth:`pfns`; of the same pointers the very array of a former time, to which nobody writes."""
        found = self._frames.get(pages)
        if found is None:
            found = self.pfns(np.frombuffer(pages, dtype="<u8"))
            keep(self._frames, pages, found, _MAX_LISTS)
        return found

    def pfns(self, pages: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Page frame numbers of struct page pointers; -1 for what is none."""
        vmemmap = self._kernel.vmemmap
        distance = pages - np.uint64(vmemmap.base & _MASK)
        size = np.uint64(vmemmap.page_size)
        number = (distance // size).astype(np.int64)
        wrong = (distance % size != 0) | (number < 0) | (number >= MAX_PAGES)
        return np.where(wrong, np.int64(-1), number)


def _words_in(segment: MemorySegment) -> NDArray[np.uint64]:
    """A segment as words."""
    return segment.data[: len(segment.data) & ~7].view(np.uint64)


class Words:
    """A fixed set of aligned 64-bit words of guest RAM, read together.

    :param physical: their addresses.
    :raise GuestReadError: when one is not in guest RAM, or not aligned.
    """

    __slots__ = ("_index", "_parts", "_source", "count")

    def __init__(self, kernel: Kernel, physical: Sequence[int] | NDArray[np.int64]) -> None:
        address = np.asarray(physical, dtype=np.int64)
        self.count = len(address)
        self._parts: list[tuple[NDArray[np.uint64], NDArray[np.intp], NDArray[np.intp]]] = []
        self._source: NDArray[np.uint64] | None = None
        self._index = np.zeros(0, dtype=np.intp)
        if (address & 7).any() or not (self._in_one(kernel, address) or self._in_many(kernel, address)):
            raise GuestReadError("a word that is to be watched lies outside guest RAM")

    def _in_one(self, kernel: Kernel, address: NDArray[np.int64]) -> bool:
        """All of them in one segment: nearly always so."""
        low, high = (int(address.min()), int(address.max())) if self.count else (0, 0)
        segment = kernel.memory.segment(low)
        if segment is None or high + 8 > segment.start + segment.size:
            return False
        self._source = _words_in(segment)
        self._index = (address - segment.start >> 3).astype(np.intp, copy=False)
        return True

    def _in_many(self, kernel: Kernel, address: NDArray[np.int64]) -> bool:
        found = 0
        for segment in kernel.memory.segments:
            inside = np.flatnonzero((address >= segment.start) & (address < segment.start + segment.size - 7))
            if len(inside):
                offset = address[inside] - segment.start
                self._parts.append((_words_in(segment), (offset >> 3).astype(np.intp), inside))
                found += len(inside)
        return found == self.count

    @property
    def spots(self) -> Spots | None:
        """Where they are; None where they are not all in one segment."""
        return None if self._source is None else Spots(self._source, self._index)

    def read(self) -> NDArray[np.uint64]:
        """All words as they are now, shape ``(count,)``."""
        if self._source is not None:
            return self._source[self._index]
        words = np.zeros(self.count, dtype=np.uint64)
        for source, index, positions in self._parts:
            words[positions] = source[index]
        return words
