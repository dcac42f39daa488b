# SPDX-License-Identifier: GPL-2.0-or-later
"""The books: which programs there are, and what their pages were at first sight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Program
from vcapdev.dmacheck.rules import USER, Promise, Setting, classify, has_owner
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE
from vcapdev.guestmm.pages import PageFacts, PageSet, Pfns

MAX_PAGES = 1 << 14  # pages of one program or batch (64 MB)


def pages_of(address: NDArray[np.uint64], length: NDArray[np.uint64]) -> Pfns:
    """The distinct page frames of pieces of memory, ascending; at most :data:`MAX_PAGES`."""
    return _pages_of(*_ends_of(address, length))


def _pages_of(first: Pfns, last: Pfns) -> Pfns:
    if (last > first).any():
        first = np.concatenate([first, _spread(first, last)])
    return distinct(first)[:MAX_PAGES]


def too_many(address: NDArray[np.uint64], length: NDArray[np.uint64]) -> bool:
    """Whether :func:`pages_of` may have left some out."""
    if len(address) <= MAX_PAGES // 2 and int(length.sum()) <= MAX_PAGES // 2 * PAGE_SIZE:
        return False
    first, last = _ends_of(address, length)
    return int(np.sum(last - first + 1)) > MAX_PAGES and len(pages_of(address, length)) >= MAX_PAGES


def _ends_of(address: NDArray[np.uint64], length: NDArray[np.uint64]) -> tuple[Pfns, Pfns]:
    """First and last page frame of each piece that is not empty."""
    if not length.all():
        some = length > 0
        address, length = address[some], length[some]
    shift = np.uint64(PAGE_SHIFT)
    return (address >> shift).view(np.int64), ((address + length - np.uint64(1)) >> shift).view(np.int64)


def distinct(pfns: Pfns) -> Pfns:
    """Ascending, each once: what ``np.unique`` does, in a tenth of the time for a few hundred."""
    ordered = np.sort(pfns)
    if len(ordered) < 2:
        return ordered
    keep = np.empty(len(ordered), dtype=bool)
    keep[0] = True
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


class Reach:
    """All that a program can write to: pieces of memory, and the pages that they lie in, ascending.

    :param ranges: shape ``(n, 2)``, address and length of each piece.
    :ivar crosses: whether any piece runs from one page into the next.
    :ivar ends: first and last page that is written, in the program's own order.
    """

    def __init__(self, ranges: NDArray[np.uint64]) -> None:
        self.ranges = ranges
        first, last = _ends_of(ranges[:, 0], ranges[:, 1])
        self.crosses = bool((last > first).any())
        self.pfns = _pages_of(first, last)
        self.nothing = np.zeros(len(self.pfns), dtype=np.uint64)  # what is known of them before a look
        self.none = np.zeros(len(self.pfns), dtype=bool)
        self.partial = too_many(ranges[:, 0], ranges[:, 1])  # then ``pfns`` are not all of them
        self.ends = -1, -1
        if len(ranges):
            end = int(ranges[-1, 0]) + max(int(ranges[-1, 1]), 1)
            self.ends = int(ranges[0, 0]) >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT


class Record:
    """A program and what it was promised. ``version`` grows whenever that is learnt anew.

    ``pages`` are its pages ready for looks, while it is learned; the rest is its :class:`Reach`.
    """

    def __init__(self, program: Program, reach: Reach | None = None) -> None:
        self.id = program.id
        self.address = program.address
        if reach is None:
            reach = Reach(np.asarray(program.ranges, np.uint64).reshape(-1, 2))
        self.reach = reach
        self.ranges, self.crosses, self.ends = reach.ranges, reach.crosses, reach.ends
        self.pfns = reach.pfns
        self.version = 0
        self.learned = False
        self.kind = ""
        self.pages: PageSet | None = None
        self.mapping = self.index = reach.nothing
        self.known = reach.none
        self._first: tuple[PageFacts, Setting] | None = None

    def learn(self, pages: PageSet, setting: Setting) -> PageFacts:
        """Look at the pages now and hold the program to what is found.

        What once wrote to user pages stays a program for user pages: pages that were all given away may by
        chance look like a kernel buffer.

        :param pages: the pages ``pfns``; another program's set of the same pages will do.
        """
        facts = pages.sight()
        self.pages, self.pfns, self._first = pages, pages.pfns, (facts, setting)
        self.kind = self.kind or facts.once("kind", lambda: classify(facts, setting))
        self.mapping, self.index = facts.mapping, facts.index
        self.known = facts.held
        self.learned = True
        self.version += 1
        return facts

    def forget(self, *, kind: bool) -> None:
        """Learn anew at the next write; with ``kind`` even what sort of memory it writes to."""
        self.learned, self.pages = False, None
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
        if pfns is self.pfns:
            return Promise(self.kind, self.mapping, self.index, self.known)
        place = np.minimum(np.searchsorted(self.pfns, pfns), len(self.pfns) - 1)
        ours = self.pfns[place] == pfns
        return Promise(self.kind, self.mapping[place], self.index[place], self.known[place] & ours)

    def identity(self, pfn: int) -> tuple[int, int] | None:
        """``mapping`` and ``index`` of a page at first sight, None where it was no page of a user then."""
        rows = np.flatnonzero(self.pfns == pfn)
        if self._first is None or not len(rows):
            return None
        facts, setting = self._first
        first = facts.take(rows)
        return (int(first.mapping[0]), int(first.index[0])) if has_owner(first, setting)[0] else None

    def writes_just(self, address: NDArray[np.uint64], length: NDArray[np.uint32]) -> bool:
        """Whether these pieces are the whole program, piece by piece."""
        if len(address) != len(self.ranges):
            return False
        return bool((self.ranges[:, 0] == address).all() and (self.ranges[:, 1] == length).all())

    def place(self, address: int) -> tuple[int, int, int]:
        """``(page, pages, offset)`` of a bus address, counted in the order in which the program writes.

        ``offset`` is the number of bytes written before it; all are 0 for an address outside the ranges.
        """
        start, length = self.ranges[:, 0], self.ranges[:, 1]
        hit = np.flatnonzero((start <= address) & (np.uint64(address) - start < length))
        if not len(hit):
            return 0, len(self.pfns), 0
        before = int(length[: hit[0]].sum()) + address - int(start[hit[0]])
        written = pages_of(start[: hit[0]], length[: hit[0]])  # whole pieces, and of the last what is before
        part = np.array([address - int(start[hit[0]]) + 1], dtype=np.uint64)
        written = np.union1d(written, pages_of(start[hit[0] : hit[0] + 1], part))
        return max(len(written) - 1, 0), len(self.pfns), before
