# SPDX-License-Identifier: GPL-2.0-or-later
"""The books: which programs there are, what their pages were at first sight, and who is pinned since when."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Program
from vcapdev.dmacheck.rules import USER, Promise, Setting, classify, has_owner
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE
from vcapdev.guestmm.pages import Bools, PageFacts, PageSet, Pfns, among

MAX_PAGES = 1 << 14  # pages of one program or batch (64 MB)
MAX_WATCHED = 1 << 16  # pages watched for their release: 32 buffers of the largest size have 17 000


def pages_of(address: NDArray[np.uint64], length: NDArray[np.uint64]) -> Pfns:
    """The distinct page frames of pieces of memory, ascending; at most :data:`MAX_PAGES`."""
    some = length > 0
    first = (address[some] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    last = ((address[some] + length[some] - np.uint64(1)) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    if (last > first).any():
        first = np.concatenate([first, _spread(first, last)])
    return distinct(first)[:MAX_PAGES]


def too_many(address: NDArray[np.uint64], length: NDArray[np.uint64]) -> bool:
    """Whether :func:`pages_of` may have left some out."""
    if len(address) <= MAX_PAGES // 2 and int(length.sum()) <= MAX_PAGES // 2 * PAGE_SIZE:
        return False
    some = length > 0
    first = (address[some] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    last = ((address[some] + length[some] - np.uint64(1)) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    return int(np.sum(last - first + 1)) > MAX_PAGES and len(pages_of(address, length)) >= MAX_PAGES


def distinct(pfns: Pfns) -> Pfns:
    """Ascending, each once: what ``np.unique`` does, in a tenth of the time for a few hundred."""
    ordered = np.sort(pfns)
    if len(ordered) < 2:
        return ordered
    keep = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=keep[1:])
    result: Pfns = ordered[keep]
    return result


def _spread(first: Pfns, last: Pfns) -> Pfns:
    """All page frames of the pieces that are longer than a page, as far as the bound allows."""
    long = last > first
    count = np.minimum(last[long] - first[long] + 1, MAX_PAGES)
    room = np.cumsum(count) <= 4 * MAX_PAGES
    start, count = first[long][room], count[room]
    total = int(count.sum())
    offset = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
    spread: Pfns = np.repeat(start, count) + offset
    return spread


class Record:
    """A program and what it was promised. ``version`` grows whenever that is learnt anew."""

    def __init__(self, program: Program) -> None:
        self.id = program.id
        self.address = program.address
        self.ranges = program.ranges.astype(np.uint64).reshape(-1, 2)
        self.pfns = pages_of(self.ranges[:, 0], self.ranges[:, 1])
        self.version = 0
        self.learned = False
        self.kind = ""
        self.mapping = np.zeros(len(self.pfns), dtype=np.uint64)
        self.index = self.mapping.copy()
        self.known = np.zeros(len(self.pfns), dtype=bool)
        self.owned = self.known

    def learn(self, kernel: Kernel, setting: Setting) -> PageFacts:
        """Look at the pages now and hold the program to what is found.

        What once wrote to user pages stays a program for user pages: pages that were all given away may by
        chance look like a kernel buffer.
        """
        pages = PageSet(kernel, self.pfns)
        pages.read()
        facts = pages.facts()
        self.kind = self.kind or classify(facts, setting)
        self.mapping, self.index = facts.mapping, facts.index
        self.known = facts.pinned & facts.present & ~facts.torn
        self.owned = has_owner(facts, setting)
        self.learned = True
        self.version += 1
        return facts

    def forget(self, *, kind: bool) -> None:
        """Learn anew at the next write; with ``kind`` even what sort of memory it writes to."""
        self.learned = False
        self.version += 1
        if kind:
            self.kind = ""

    def renewed(self, kernel: Kernel) -> bool:
        """Whether all pages are pinned with another identity now: the buffer was released and made anew.

        That may happen within one system call (QBUF with another address), and a buffer of a page or two may
        well get the same frames, and so the very same program. A frame that somebody else got stands out.
        """
        pages = PageSet(kernel, self.pfns[self.known])
        pages.read()
        facts = pages.facts()
        moved = (facts.mapping != self.mapping[self.known]) | (facts.index != self.index[self.known])
        return bool(len(facts.pfn) and (facts.pinned & moved & ~facts.torn & (facts.mapping != 0)).all())

    def promise(self, pfns: Pfns) -> Promise:
        """The promise for these pages; pages that the program did not announce have no known identity."""
        if not len(self.pfns):
            empty = np.zeros(len(pfns), dtype=np.uint64)
            return Promise(self.kind or USER, empty, empty, np.zeros(len(pfns), dtype=bool))
        place = np.minimum(np.searchsorted(self.pfns, pfns), len(self.pfns) - 1)
        ours = self.pfns[place] == pfns
        return Promise(self.kind, self.mapping[place], self.index[place], self.known[place] & ours)

    def identity(self, pfn: int) -> tuple[int, int] | None:
        """``mapping`` and ``index`` of a page at first sight, None where it was no page of a user then."""
        for i in np.flatnonzero(self.pfns == pfn).tolist():
            if self.owned[i]:
                return int(self.mapping[i]), int(self.index[i])
        return None

    @property
    def ends(self) -> tuple[int, int]:
        """First and last page that the program writes, in its own order."""
        if not len(self.ranges):
            return -1, -1
        first = int(self.ranges[0, 0]) >> PAGE_SHIFT
        last = (int(self.ranges[-1, 0]) + max(int(self.ranges[-1, 1]), 1) - 1) >> PAGE_SHIFT
        return first, last

    def place(self, address: int) -> tuple[int, int, int]:
        """``(page, pages, offset)`` of a bus address, counted in the order in which the program writes.

        ``offset`` is the number of bytes written before it; all are 0 for an address outside the ranges.
        """
        start, length = self.ranges[:, 0], self.ranges[:, 1]
        hit = np.flatnonzero((start <= address) & (np.uint64(address) - start < length))
        if not len(hit):
            return 0, len(self.pfns), 0
        before = int(length[: hit[0]].sum()) + address - int(start[hit[0]])
        _, seen = np.unique(start[: hit[0] + 1] // np.uint64(PAGE_SIZE), return_index=True)
        return max(len(seen) - 1, 0), len(self.pfns), before


@dataclass(frozen=True)
class Release:
    """Pages whose pins were found gone: rows of ``facts``, and what was known while they were pinned."""

    facts: PageFacts
    rows: NDArray[np.intp]
    was_clean: Bools
    written: Bools
    same: Bools  # mapping and index are what they were


class PinTable:
    """Every page that was seen pinned as a DMA target, until it is seen released.

    New pages wait in a list until the table is next used: programs come and go with every frame. ``version``
    grows when pages have to be marked as written again.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._dirty_bit = kernel.flags.bit("dirty")
        self._count_word = kernel.layout.refcount // 8
        self._waiting: list[_Columns] = []
        self.version = 0
        self.refused = 0  # pages that there was no room for
        self._adopt(_Columns.none())

    def __len__(self) -> int:
        return len(self._columns.pfn)

    def _adopt(self, columns: _Columns) -> None:
        self._columns = columns
        self.pages = PageSet(self._kernel, columns.pfn)
        self._sample = PageSet(self._kernel, columns.pfn[columns.sample])
        files = (columns.mapping != 0) & ((columns.mapping & np.uint64(1)) == 0)
        self.of_files = bool(files.any())
        self._last = self._sampled = b""
        self.version += 1

    def add(self, facts: PageFacts, ends: tuple[int, int] = (-1, -1)) -> tuple[int, int]:
        """Watch the pinned ones among these pages; ``ends`` serve as the samples of :meth:`stirred`.

        :return: how many pages are new, and how many of those were clean.
        """
        rows = np.flatnonzero(facts.pinned & facts.present & ~facts.torn)
        for known in (self._columns, *self._waiting):
            rows = rows[~among(facts.pfn[rows], known.pfn)]
        if not len(rows) or len(self) + len(rows) > MAX_WATCHED:
            self.refused += len(rows)
            return 0, 0
        pfn = facts.pfn[rows]
        clean = ~facts.has(self._dirty_bit)[rows]
        sample = (pfn == ends[0]) | (pfn == ends[1])
        columns = (
            pfn,
            clean,
            np.zeros(len(rows), dtype=bool),
            facts.mapping[rows],
            facts.index[rows],
            sample,
        )
        self._waiting.append(_Columns(*columns))
        return len(rows), int(np.count_nonzero(clean))

    def merge(self) -> None:
        """Take in the pages that wait."""
        if self._waiting:
            parts, self._waiting = [self._columns, *self._waiting], []
            self._adopt(_Columns.joined(parts))

    def mark_written(self, pfns: Pfns) -> None:
        """The device has written to these pages."""
        self.merge()
        known = self._columns.pfn
        if len(known):
            place = np.minimum(np.searchsorted(known, pfns), len(known) - 1)
            self._columns.written[place[known[place] == pfns]] = True

    def stirred(self) -> bool:
        """A cheap look at the first and last page of each program: have their reference counts changed?"""
        self.merge()
        if not len(self._sample):
            return False
        column = self._sample.read()[:, self._count_word].tobytes()
        changed, self._sampled = column != self._sampled, column
        return changed

    def look(self) -> Release | None:
        """Look at all pages; those that are pinned no longer are returned once and watched no more."""
        self.merge()
        columns = self._columns
        if not len(columns.pfn):
            return None
        now = self.pages.peek()
        if now == self._last:
            return None
        self.pages.read()
        facts = self.pages.facts()
        self._last = self.pages.peeked()
        gone = ~facts.pinned & ~facts.torn
        clean = ~facts.has(self._dirty_bit)
        if not gone.any():
            columns.clean[:] = clean
            return None
        rows = np.flatnonzero(gone)
        same = (facts.mapping == columns.mapping) & (facts.index == columns.index)
        release = Release(facts, rows, columns.clean[rows], columns.written[rows], same[rows])
        columns.clean[:] = clean
        self._adopt(columns.kept(~gone))
        return release

    def still_pinned(self) -> PageFacts | None:
        """A fresh look at all pages that are watched; None when there are none."""
        self.merge()
        if not len(self):
            return None
        self.pages.read()
        return self.pages.facts()


@dataclass(frozen=True)
class _Columns:
    """What is known of pinned pages, ascending by ``pfn``; ``clean`` at the last look while pinned."""

    pfn: Pfns
    clean: Bools
    written: Bools
    mapping: NDArray[np.uint64]
    index: NDArray[np.uint64]
    sample: Bools

    @classmethod
    def none(cls) -> _Columns:
        words, bits = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=bool)
        return cls(np.zeros(0, dtype=np.int64), bits, bits, words, words, bits)

    @classmethod
    def joined(cls, parts: list[_Columns]) -> _Columns:
        order = np.argsort(np.concatenate([part.pfn for part in parts]), kind="stable")
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts])[order] for f in fields(cls)))

    def kept(self, keep: Bools) -> _Columns:
        return _Columns(*(getattr(self, f.name)[keep] for f in fields(self)))
