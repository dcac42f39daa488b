# SPDX-License-Identifier: GPL-2.0-or-later
"""The array of ``struct page`` as numpy rows over guest RAM: the fast path of the checker.

The kernel maps the array at vmemmap by 2 MiB pages that need not be contiguous. A table with an entry for
every 4 KiB of the array leads from a page frame number to a row: ``row = table[pfn >> 6] + (pfn & 63)``. A
hole is an error of its own, never row -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import MemorySegment
from vcapdev.guestmm.memory import PAGE_SIZE, GuestMemory, GuestReadError
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.guestmm.peeks import Spots

_LARGE = 2 << 20
_HOLE = -1
_MAX_STEPS = 1 << 16  # of following the mapping of the array, 10 us each: 2 TiB by 2 MiB, 16 GiB by 4 KiB
MAX_PAGES = 1 << 28  # 1 TiB of guest RAM: more is not a guest that we serve

Rows = NDArray[np.uint64]  # shape (n, words): one struct page a row
Index = NDArray[np.intp]
Part = tuple[Rows, Index, Index | None]  # a segment as rows, which of them, where they go (None: in order)


class Gather:
    """A fixed set of struct pages, ready to be read again and again.

    ``present[i]`` tells whether page ``i`` has a struct page at all; the rows of the others stay zero.
    """

    __slots__ = ("_chosen", "_flat", "_index", "_parts", "_peeked", "_source", "_words", "present", "rows")

    def __init__(self, parts: list[Part], count: int, words: int) -> None:
        self.rows: Rows = np.zeros((count, words), dtype=np.uint64)
        whole = len(parts) == 1 and parts[0][2] is None
        self.present = np.full(count, whole, dtype=bool)
        for _, _, positions in parts:
            if positions is not None:
                self.present[positions] = True
        self._parts = parts
        self._source: Rows | None = parts[0][0] if whole else None
        self._index: Index | None = parts[0][1] if whole else None
        self._flat: NDArray[np.uint64] | None = None
        self._chosen = self._words = np.zeros(0, dtype=np.intp)
        self._peeked = np.zeros(0, dtype=np.uint64)

    def read(self) -> Rows:
        """Copy all rows out of guest RAM now; the returned array is re-used by the next call."""
        if self._source is not None and self._index is not None:
            # Every index was checked when it was made; "clip" keeps numpy from buffering the result.
            self._source.take(self._index, 0, self.rows, "clip")
            return self.rows
        for source, index, positions in self._parts:
            if positions is not None:
                self.rows[positions] = source[index]
        return self.rows

    def watch(self, words: Index) -> None:
        """Choose the words of each row that :meth:`peek` reads."""
        if self._source is not None and self._index is not None:
            width = self.rows.shape[1]
            self._flat = self._source.reshape(-1)
            self._words = (self._index[:, None] * width + words).reshape(-1)
            self._peeked = np.zeros(len(self._words), dtype=np.uint64)
        self._chosen = words

    @property
    def spots(self) -> Spots | None:
        """The chosen words of all rows, row by row; None where they are not all in one segment."""
        return None if self._flat is None else Spots(self._flat, self._words)

    def peek(self) -> bytes:
        """The chosen words of all rows now, row by row: half the cost of :meth:`read`, but not kept."""
        if self._flat is not None:
            self._flat.take(self._words, None, self._peeked, "clip")
            return self._peeked.tobytes()
        return self.read()[:, self._chosen].tobytes()


class Vmemmap:
    """Where the struct page of every page frame lies in guest RAM.

    :raise GuestReadError: when the page tables of the kernel cannot be followed.
    """

    def __init__(
        self, memory: GuestMemory, table: PageTable, base: int, page_size: int, pages: int = MAX_PAGES
    ) -> None:
        self.base = base
        self.page_size = page_size
        self._memory = memory
        self._table = table
        self._segments: Sequence[MemorySegment] = memory.segments
        self._views = [_rows_of(segment, page_size) for segment in self._segments]
        self._per_chunk = PAGE_SIZE // page_size
        top = max((segment.start + segment.size for segment in self._segments), default=0)
        self.pages = max(0, min(top // PAGE_SIZE, pages, MAX_PAGES))
        chunks = -(-self.pages // self._per_chunk)
        self._segment = np.full(chunks, _HOLE, dtype=np.int16)
        self._row = np.full(chunks, _HOLE, dtype=np.int64)
        self._shift = self._per_chunk.bit_length() - 1
        self._build(chunks)
        used = np.unique(self._segment[self._segment != _HOLE]).tolist()
        self._uniform = self._views[used[0]] if len(used) == 1 else None  # nearly always so

    @property
    def words(self) -> int:
        """64-bit words in a row."""
        return self.page_size // 8

    def address(self, pfn: int) -> int:
        """Virtual address of the struct page of ``pfn`` in the guest."""
        return self.base + pfn * self.page_size

    def pfn(self, address: int) -> int:
        """Page frame number of a struct page's virtual address; may be out of range."""
        return (address - self.base) // self.page_size

    def gather(self, pfns: NDArray[np.int64]) -> Gather:
        """Prepare to read the struct pages of ``pfns``; out-of-range numbers count as not present."""
        parts: list[Part] = []
        if not self.pages or not len(pfns):
            return Gather(parts, len(pfns), self.words)
        if self._uniform is not None and pfns.min() >= 0 and pfns.max() < self.pages:
            row = self._row[pfns >> self._shift]
            if row.min() >= 0:
                row += pfns & (self._per_chunk - 1)
                return Gather([(self._uniform, row.astype(np.intp, copy=False), None)], len(pfns), self.words)
        inside = (pfns >= 0) & (pfns < self.pages)
        chunk = np.where(inside, pfns, 0) >> self._shift
        segment = np.where(inside, self._segment[chunk], _HOLE)
        row = self._row[chunk] + (pfns & (self._per_chunk - 1))
        for number in np.unique(segment[segment != _HOLE]).tolist():
            positions = np.flatnonzero(segment == number)
            parts.append((self._views[number], row[positions].astype(np.intp, copy=False), positions))
        return Gather(parts, len(pfns), self.words)

    def row(self, pfn: int) -> Rows | None:
        """A copy of one row, None where there is no struct page."""
        plan = self.gather(np.array([pfn], dtype=np.int64))
        return plan.read()[0].copy() if plan.present[0] else None

    def still_there(self, pfn: int) -> bool:
        """Whether the kernel still maps the struct page of ``pfn`` where the table says.

        It moves when hugetlb gives back the struct pages of its tails (HVO) and with memory hotplug.
        """
        if not 0 <= pfn < self.pages:
            return True
        chunk = pfn // self._per_chunk
        try:
            physical = self._table.walk(self.address(chunk * self._per_chunk)).physical
        except GuestReadError:
            return False
        number = int(self._segment[chunk])
        if physical is None or number == _HOLE:
            return physical is None and number == _HOLE
        start = self._segments[number].start + int(self._row[chunk]) * self.page_size
        return physical == start

    def _build(self, chunks: int) -> None:
        """Walk the mapping of the array: a step for each 2 MiB page, one for each 4 KiB elsewhere."""
        chunk = steps = 0
        while chunk < chunks:
            steps += 1
            if steps > _MAX_STEPS:
                raise GuestReadError("the array of struct pages is mapped in too many pieces")
            address = self.base + chunk * PAGE_SIZE
            found = self._table.walk(address)
            size = max(PAGE_SIZE, min(found.size, 1 << 30))
            count = min((size - (address & (size - 1))) // PAGE_SIZE, chunks - chunk)
            if found.physical is not None:
                self._fill(chunk, count, found.physical)
            chunk += max(count, 1)

    def _fill(self, chunk: int, count: int, physical: int) -> None:
        """Enter ``count`` chunks from ``physical`` on, as far as they lie in guest RAM."""
        while count:
            number = next(
                (i for i, s in enumerate(self._segments) if s.start <= physical < s.start + s.size), None
            )
            if number is None:
                chunk, count, physical = chunk + 1, count - 1, physical + PAGE_SIZE
                continue
            segment = self._segments[number]
            here = min(count, (segment.start + segment.size - physical) // PAGE_SIZE) or 1
            rows = (physical - segment.start) // self.page_size
            self._segment[chunk : chunk + here] = number
            self._row[chunk : chunk + here] = rows + np.arange(here) * self._per_chunk
            chunk, count, physical = chunk + here, count - here, physical + here * PAGE_SIZE


def _rows_of(segment: MemorySegment, page_size: int) -> Rows:
    """The segment's bytes as rows of one struct page (its tail that holds no whole row is left out)."""
    count = len(segment.data) // page_size
    return segment.data[: count * page_size].view(np.uint64).reshape(count, page_size // 8)
