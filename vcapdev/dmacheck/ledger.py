# SPDX-License-Identifier: GPL-2.0-or-later
"""The books: which programs there are, what their pages were at first sight, and who is pinned since when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Program
from vcapdev.dmacheck.rules import USER, Promise, Setting, classify
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE
from vcapdev.guestmm.pages import Bools, PageFacts, PageSet, Pfns

MAX_PAGES = 1 << 16  # pages of one program or batch (256 MB), and pages watched for their release


def pages_of(address: NDArray[np.uint64], length: NDArray[np.uint64]) -> Pfns:
    """The distinct page frames of pieces of memory, ascending; at most :data:`MAX_PAGES`."""
    some = length > 0
    first = (address[some] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    last = ((address[some] + length[some] - np.uint64(1)) >> np.uint64(PAGE_SHIFT)).astype(np.int64)
    if not (last > first).any():
        last = first[:0]
    pfns: Pfns = np.unique(np.concatenate([first, _spread(first, last)]) if len(last) else first)
    return pfns[:MAX_PAGES]


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
        self.learned = True
        self.version += 1
        return facts

    def forget(self, *, kind: bool) -> None:
        """Learn anew at the next write; with ``kind`` even what sort of memory it writes to."""
        self.learned = False
        self.version += 1
        if kind:
            self.kind = ""

    def promise(self, pfns: Pfns) -> Promise:
        """The promise for these pages; pages that the program did not announce have no known identity."""
        if not len(self.pfns):
            empty = np.zeros(len(pfns), dtype=np.uint64)
            return Promise(self.kind or USER, empty, empty, np.zeros(len(pfns), dtype=bool))
        place = np.searchsorted(self.pfns, pfns).clip(0, len(self.pfns) - 1)
        ours = self.pfns[place] == pfns
        return Promise(self.kind, self.mapping[place], self.index[place], self.known[place] & ours)

    def ends(self) -> tuple[int, int]:
        """First and last page that the program writes, in its own order."""
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

    ``version`` grows when pages have to be marked as written again.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._dirty_bit = kernel.flags.bit("dirty")
        self.version = 0
        self._reset(np.zeros(0, dtype=np.int64))
        self._sample: PageSet | None = None
        self._sampled = b""

    def __len__(self) -> int:
        return len(self.pfns)

    def _reset(self, pfns: Pfns) -> None:
        self.pfns = pfns
        self.pages = PageSet(self._kernel, pfns)
        count = len(pfns)
        self.clean = np.zeros(count, dtype=bool)
        self.written = np.zeros(count, dtype=bool)
        self.mapping = np.zeros(count, dtype=np.uint64)
        self.index = np.zeros(count, dtype=np.uint64)
        self._last = b""

    def add(self, facts: PageFacts) -> int:
        """Watch the pinned ones among these pages; returns how many of those that are new were clean."""
        rows = np.flatnonzero(facts.pinned & facts.present & ~facts.torn)
        new = rows[~np.isin(facts.pfn[rows], self.pfns)]
        if not len(new) or len(self.pfns) + len(new) > MAX_PAGES:
            return 0
        old = (self.clean, self.written, self.mapping, self.index)
        clean = ~facts.has(self._dirty_bit)[new]
        merged = np.concatenate([self.pfns, facts.pfn[new]])
        order = np.argsort(merged)
        self._reset(merged[order])
        self.clean = np.concatenate([old[0], clean])[order]
        self.written = np.concatenate([old[1], np.zeros(len(new), dtype=bool)])[order]
        self.mapping = np.concatenate([old[2], facts.mapping[new]])[order]
        self.index = np.concatenate([old[3], facts.index[new]])[order]
        self.version += 1
        return int(clean.sum())

    def mark_written(self, pfns: Pfns) -> None:
        """The device has written to these pages."""
        if len(self.pfns):
            place = np.searchsorted(self.pfns, pfns).clip(0, len(self.pfns) - 1)
            self.written[place[self.pfns[place] == pfns]] = True

    def watch(self, records: Iterable[Record]) -> None:
        """Take the first and last page of each program as its sample for :meth:`stirred`."""
        ends = {pfn for record in records if record.learned and len(record.ranges) for pfn in record.ends()}
        chosen = np.array(sorted(ends), dtype=np.int64)
        self._sample = PageSet(self._kernel, chosen[np.isin(chosen, self.pfns)])
        self._sampled = b""

    def stirred(self) -> bool:
        """A cheap look at the samples: whether reference counts have changed since the last one."""
        if self._sample is None or not len(self._sample):
            return False
        column = self._sample.read()[:, self._kernel.layout.refcount // 8].tobytes()
        changed, self._sampled = column != self._sampled, column
        return changed

    def look(self) -> Release | None:
        """Look at all pages; those that are pinned no longer are returned once and watched no more."""
        if not len(self.pfns):
            return None
        now = self.pages.read().tobytes()
        if now == self._last:
            return None
        self._last = now
        facts = self.pages.facts()
        gone = ~facts.pinned & ~facts.torn
        if not gone.any():
            self.clean = ~facts.has(self._dirty_bit)
            return None
        rows = np.flatnonzero(gone)
        same = (facts.mapping == self.mapping) & (facts.index == self.index)
        release = Release(facts, rows, self.clean[rows], self.written[rows], same[rows])
        self._keep(~gone, facts)
        return release

    def still_pinned(self) -> PageFacts | None:
        """A fresh look at all pages that are watched; None when there are none."""
        if not len(self.pfns):
            return None
        self.pages.read()
        return self.pages.facts()

    def _keep(self, keep: Bools, facts: PageFacts) -> None:
        kept = (self.written[keep], self.mapping[keep], self.index[keep])
        clean = ~facts.has(self._dirty_bit)[keep]
        self._reset(self.pfns[keep])
        self.clean = clean
        self.written, self.mapping, self.index = kept
        self._sample = None
        self.version += 1
