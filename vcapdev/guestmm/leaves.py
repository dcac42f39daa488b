# SPDX-License-Identifier: GPL-2.0-or-later
"""Page table entries of many user addresses, followed down once and then read again and again.

x86-64 only (Intel SDM volume 3A, chapter 4.5). An entry that is not present keeps its frame number inverted
(arch/x86/include/asm/pgtable-invert.h, against L1TF), also where it only lacks all rights (PROT_NONE, NUMA
hints, a huge page about to be split).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE, GuestReadError
from vcapdev.guestmm.pagetable import ACCESSED, DIRTY, ENTRIES, FRAME, LARGE, PRESENT, PROTNONE
from vcapdev.guestmm.peeks import Spots
from vcapdev.guestmm.words import Words

_Ints = NDArray[np.int64]
_Entries = NDArray[np.uint64]
_REGION = 21  # log2 of what one lowest table maps
_STEADY = np.uint64(~(ACCESSED | DIRTY) & 0xFFFFFFFFFFFFFFFF)
_FRAME = np.uint64(FRAME)
_MAX_WALKS = 512
_MAX_SWAPFILES = 23  # the least of all kernels; greater types are migration entries, markers and the like


class _Walk:
    """Where the entries that decide lie, and the entries of upper tables that led there."""

    __slots__ = ("plain", "shift", "upper", "words")

    def __init__(self, upper: dict[int, int], words: Words, shift: _Ints) -> None:
        self.upper = np.array(list(upper.values()), dtype=np.uint64)
        self.words, self.shift = words, shift
        self.plain = bool((shift == PAGE_SHIFT).all())

    def holds(self, words: _Entries) -> bool:
        """Whether the upper tables still lead there, and no table came below where there was none."""
        count = len(self.upper)
        if ((words[:count] ^ self.upper) & _STEADY).any():
            return False
        if self.plain:
            return True
        present = (words[count:] & np.uint64(PRESENT | LARGE)) == PRESENT
        return not ((self.shift > PAGE_SHIFT) & present).any()


class Leaves:
    """The entries that decide what is mapped at some addresses of one address space.

    :param addresses: user addresses of pages, shape ``(n,)``.
    :raise GuestReadError: when a table lies outside guest RAM.
    """

    def __init__(self, kernel: Kernel, top: int, addresses: _Ints, walk: _Walk | None = None) -> None:
        self._kernel, self._top, self.addresses = kernel, top, addresses
        self._pfns: _Ints | None = None
        words = None if walk is None else walk.words.read()
        if walk is None or words is None or not walk.holds(words):
            walk = self._walked()
            words = walk.words.read()
        self._walk, self.words, self._bytes = walk, words, words.tobytes()

    @classmethod
    def of_range(cls, kernel: Kernel, top: int, first: int, count: int) -> Leaves:
        """Those of ``count`` pages from ``first`` on. Where their entries lie is remembered.

        A program that captures into the same memory again and again costs no further walk.
        """
        known = _walks(kernel)
        key = top, first, count
        addresses = first + (np.arange(count) << PAGE_SHIFT)
        leaves = cls(kernel, top, addresses, known.get(key))
        if len(known) >= _MAX_WALKS:
            known.clear()
        known[key] = leaves._walk
        return leaves

    def _walked(self) -> _Walk:
        place = np.zeros(len(self.addresses), dtype=np.int64)
        shifts = np.full(len(self.addresses), PAGE_SHIFT, dtype=np.int64)
        upper: dict[int, int] = {}
        region = self.addresses >> _REGION
        for number in set(region.tolist()):
            rows = np.flatnonzero(region == number)
            *steps, (leaf, _, shift) = self._steps(number << _REGION)
            for above, entry, _ in steps:
                upper[above] = entry
            place[rows] = leaf
            if shift == PAGE_SHIFT:
                place[rows] += 8 * ((self.addresses[rows] >> PAGE_SHIFT) & (ENTRIES - 1))
            shifts[rows] = shift
        words = Words(self._kernel, np.concatenate([np.array(list(upper), dtype=np.int64), place]))
        return _Walk(upper, words, shifts)

    def _steps(self, address: int) -> Iterator[tuple[int, int, int]]:
        """Down the tables: physical address of each entry, the entry, and log2 of what is to be read there.

        The last one is the entry that decides, or (with the shift of a page) the lowest table.
        """
        table = self._top
        for level in range(self._kernel.table.levels - 1, 0, -1):
            shift = PAGE_SHIFT + 9 * level
            place = table + 8 * ((address >> shift) & (ENTRIES - 1))
            entry = self._kernel.memory.u64(place)
            yield place, entry, shift
            table = entry & FRAME
            if not entry & PRESENT or (level <= 2 and entry & LARGE):
                return
            if self._kernel.memory.segment(table + PAGE_SIZE - 1) is None:
                return  # it leads nowhere, and that decides as well
        yield table, 0, PAGE_SHIFT

    def read(self) -> bool:
        """Read all entries anew; whether any has changed."""
        words = self._walk.words.read()
        if words.tobytes() == self._bytes:
            return False
        if not self._walk.holds(words):
            self._walk = self._walked()
            words = self._walk.words.read()
        self.words, self._bytes, self._pfns = words, words.tobytes(), None
        return True

    @property
    def spots(self) -> tuple[Spots | None, bytes]:
        """Where the entries and those above them are, and what was read there last."""
        return self._walk.words.spots, self._bytes

    @property
    def entries(self) -> _Entries:
        """What was read last, one for each address."""
        return self.words[len(self._walk.upper) :]

    def pfns(self) -> _Ints:
        """The page frame that is mapped at each address, with or without rights; -1 for none."""
        if self._pfns is None:
            self._pfns = self._mapped()
        return self._pfns

    def _mapped(self) -> _Ints:
        entry = self.entries
        present = (entry & np.uint64(PRESENT)) != 0
        if self._walk.plain and present.all():
            return ((entry & _FRAME) >> np.uint64(PAGE_SHIFT)).view(np.int64)
        shift = self._walk.shift
        large = shift > PAGE_SHIFT
        hidden = ~present & ((entry & np.uint64(PROTNONE)) != 0)
        hidden |= ~present & large & ((entry & np.uint64(LARGE)) != 0)
        frame = np.where(hidden, ~entry, entry) & _FRAME
        within = (np.int64(1) << (shift - PAGE_SHIFT)) - 1
        pfn = (frame >> np.uint64(PAGE_SHIFT)).astype(np.int64) & ~within
        pfn |= (self.addresses >> PAGE_SHIFT) & within
        mapped = hidden | (present & (~large | ((entry & np.uint64(LARGE)) != 0)))
        return np.where(mapped, pfn, np.int64(-1))

    def swapped(self) -> _Ints:
        """The swap entry at each address as ``page.private`` has it; -1 where there is none, -2 for an entry
        of another sort (migration, marker).

        Type and offset are where arch/x86/include/asm/pgtable_64.h has them since 4.18, the offset inverted,
        and they are joined as in include/linux/swapops.h. Types beyond the kernel's own number of swap files
        are of another sort, and would all be if either lay elsewhere.
        """
        entry = self.entries
        kind = (entry >> np.uint64(59)).astype(np.int64)
        offset = ((~entry << np.uint64(5)) >> np.uint64(14)).astype(np.int64)
        swap = (self.pfns() < 0) & (entry != 0) & ((entry & np.uint64(PRESENT)) == 0)
        value = np.where(kind < self._swap_files(), (kind << 58) | offset, np.int64(-2))
        return np.where(swap, value, np.int64(-1))

    def _swap_files(self) -> int:
        """How many swap files there ever were at a time, as the kernel counts (``nr_swapfiles``)."""
        place = self._kernel.symbols.address("nr_swapfiles")
        try:
            known = _MAX_SWAPFILES if place is None else self._kernel.table.u32(place)
        except GuestReadError:
            return _MAX_SWAPFILES
        return min(known, _MAX_SWAPFILES)


def _walks(kernel: Kernel) -> dict[tuple[int, int, int], _Walk]:
    """The walks of a kernel's address spaces, by top table, first address and number of pages."""
    found = kernel.cache.get("walks")
    if not isinstance(found, dict):
        found = kernel.cache["walks"] = {}
    return found
