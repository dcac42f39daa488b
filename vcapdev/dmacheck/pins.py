# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is pinned since when: every DMA target until its pins are seen dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import Bools, PageFacts, PageSet, Pfns, among
from vcapdev.guestmm.peeks import Peeks
from vcapdev.guestmm.vmemmap import Gather

MAX_WATCHED = 1 << 16  # pages watched for their release: 32 buffers of the largest size have 17 000
MAX_CHUNKS = 16  # looked at one by one; a queue of buffers is shorter
_CALM = 64  # looks without a change after which one large chunk is cheaper than many


@dataclass(frozen=True)
class Release:
    """Pages whose pins were found gone, one row each, and what was known while they were pinned."""

    facts: PageFacts
    was_clean: Bools
    same: Bools  # mapping and index are what they were
    written: Bools
    was_cached: Bools  # in the swap cache at the last look while pinned

    @classmethod
    def joined(cls, parts: list[Release]) -> Release:
        """All of them, ascending by page frame."""
        if len(parts) == 1:
            return parts[0]
        facts = PageFacts.joined([part.facts for part in parts])
        order = np.argsort(facts.pfn, kind="stable")
        names = ("was_clean", "same", "written", "was_cached")
        columns = (np.concatenate([getattr(part, name) for part in parts])[order] for name in names)
        return cls(facts.take(order), *columns)


class Chunk:
    """Pages that came to be watched together, and what is known of them: arrays of shape ``(n,)``.

    :param pages: may be shared with whoever else looks at just these pages.
    :param clean: whether each was clean at the last look while pinned.
    :param sample: the pages among them that serve as samples, see :meth:`PinTable.stirred`.
    :param seen: the facts that the columns agree with, None where they have to be looked at anew.
    """

    def __init__(
        self,
        pages: PageSet,
        clean: Bools,
        mapping: NDArray[np.uint64],
        index: NDArray[np.uint64],
        sample: Pfns,
        seen: PageFacts | None = None,
    ) -> None:
        self.pages, self.sample = pages, sample
        self._samples: tuple[Gather, bytes] | None = None
        self.clean, self.mapping, self.index = clean, mapping, index
        self._seen = seen
        self.of_files = (
            _any_of_files(mapping) if seen is None else seen.once("files", lambda: _any_of_files(mapping))
        )

    @classmethod
    def joined(cls, kernel: Kernel, chunks: list[Chunk]) -> Chunk:
        """One chunk of all these pages, ascending by page frame."""
        pfns = np.concatenate([chunk.pages.pfns for chunk in chunks])
        order = np.argsort(pfns, kind="stable")
        clean = np.concatenate([chunk.clean for chunk in chunks])[order]
        mapping = np.concatenate([chunk.mapping for chunk in chunks])[order]
        index = np.concatenate([chunk.index for chunk in chunks])[order]
        sample = np.concatenate([chunk.sample for chunk in chunks])
        return cls(PageSet(kernel, pfns[order]), clean, mapping, index, sample)

    def __len__(self) -> int:
        return len(self.pages)

    @property
    def sampled(self) -> bool:
        """Whether :meth:`stirred` was asked before."""
        return self._samples is not None

    def cached(self, bits: int) -> Bools | None:
        """Which of its pages were in the swap cache at the last look; None where none was.

        :param bits: the flag of such pages.
        """
        seen = self._seen
        return (
            None if seen is None else seen.once("in swap cache", lambda: _or_none(seen.anon & seen.has(bits)))
        )

    def stirred(self, kernel: Kernel) -> bool:
        """Whether the reference counts of the samples are others than when this was asked last.

        The first time there is nothing to compare them with.
        """
        gather, before = self._samples or (kernel.vmemmap.gather(self.sample), None)
        counts = gather.read()[:, kernel.layout.refcount // 8].tobytes()
        self._samples = gather, counts
        return before is not None and counts != before

    def look(self, dirty_bit: int) -> tuple[PageFacts, Bools] | None:
        """The facts, and which pages are pinned no longer; None when there are none of these.

        ``clean`` stays as it was for the caller in that case, until :meth:`kept` is asked for the rest.
        """
        facts = self.pages.sight()
        if facts is self._seen:
            return None
        gone = facts.once("gone", lambda: _or_none(~facts.pinned & ~facts.torn))
        if gone is not None:
            return facts, gone
        self._seen, self.clean = facts, clean_of(facts, dirty_bit)
        return None

    def kept(self, kernel: Kernel, facts: PageFacts, keep: Bools, dirty_bit: int) -> Chunk:
        """The chunk that is left when only some pages stay."""
        pfns = self.pages.pfns[keep]
        clean = ~facts.has(dirty_bit)[keep]
        sample = self.sample[among(self.sample, pfns)]
        return Chunk(PageSet(kernel, pfns), clean, self.mapping[keep], self.index[keep], sample)


class PinTable:
    """Every page that was seen pinned as a DMA target, until it is seen released.

    What one program adds is a chunk of its own: programs and buffers come and go with every frame, and
    only the chunk that changes has to pay. ``version`` grows when pages have to be marked as written again.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._dirty_bit, self._cached_bit = kernel.flags.bit("dirty"), kernel.flags.bit("swapcache")
        self._chunks: list[Chunk] = []  # no page is in two of them
        self._watched = np.zeros(kernel.vmemmap.pages, dtype=bool)  # by page frame
        self._written = np.zeros(kernel.vmemmap.pages, dtype=bool)  # by page frame; means nothing of others
        self._count = self._calm = 0
        self._peeks: Peeks | None = None  # at all chunks together
        self._gathers: list[Gather] = []  # for which that was made
        self._peeked = b""  # when each was last found as it was before
        self.version = 0
        self.refused = 0  # pages that there was no room for
        self.added = np.zeros(0, dtype=np.intp)  # rows that the last add() has taken

    def __len__(self) -> int:
        return self._count

    @property
    def chunks(self) -> int:
        """In how many chunks the pages are; at most :data:`MAX_CHUNKS`."""
        return len(self._chunks)

    @property
    def of_files(self) -> bool:
        """Whether any page belongs to a file."""
        return any(chunk.of_files for chunk in self._chunks)

    @property
    def in_swap(self) -> bool:
        """Whether any page was in the swap cache at the last look."""
        return any(chunk.cached(self._cached_bit) is not None for chunk in self._chunks)

    def add(
        self, facts: PageFacts, pages: PageSet | None = None, ends: tuple[int, int] = (-1, -1)
    ) -> tuple[int, int]:
        """Watch the pinned ones among these pages.

        :param pages: looked through if it is the set of just the pages that are new.
        :param ends: serve as the samples of :meth:`stirred`.
        :return: how many pages are new, and how many of those were clean.
        """
        self.added = self.added[:0]
        if pages is not None and facts.pfn is pages.pfns and any(c.pages is pages for c in self._chunks):
            return 0, 0  # the program of the other field has brought all of them
        rows = facts.once("rows held", lambda: np.flatnonzero(facts.held))
        watched = self._watched[facts.pfn[rows]]
        if watched.any():
            rows = rows[~watched]
        if not len(rows) or self._count + len(rows) > MAX_WATCHED:
            self.refused += len(rows)
            return 0, 0
        chunk = self._chunk(facts, rows, pages, ends)
        self._watched[chunk.pages.pfns] = True
        self._written[chunk.pages.pfns] = False
        self._take([*self._chunks, chunk])
        self.version += 1
        self.added = rows
        return len(rows), int(np.count_nonzero(chunk.clean))

    def _chunk(
        self, facts: PageFacts, rows: NDArray[np.intp], pages: PageSet | None, ends: tuple[int, int]
    ) -> Chunk:
        """The chunk of these rows of the facts."""
        if pages is not None and len(rows) == len(pages) and facts.pfn is pages.pfns:
            chosen, seen = facts, facts
        else:
            chosen = facts.take(rows)
            pages, seen = PageSet(self._kernel, chosen.pfn), None
        sample = chosen.pfn[(chosen.pfn == ends[0]) | (chosen.pfn == ends[1])]
        clean = clean_of(chosen, self._dirty_bit)
        return Chunk(pages, clean, chosen.mapping, chosen.index, sample, seen)

    def _take(self, chunks: list[Chunk]) -> None:
        """These are the chunks from now on."""
        self._chunks = chunks
        if len(chunks) > MAX_CHUNKS:
            self._chunks = [Chunk.joined(self._kernel, chunks)]
        self._count = sum(map(len, self._chunks))
        for chunk in self._chunks:
            if not chunk.sampled:
                chunk.stirred(self._kernel)
        self._peeks, self._gathers = None, []
        self._calm = 0

    def mark_written(self, pfns: Pfns) -> None:
        """The device has written to these pages, which are ascending."""
        self._written[pfns[: np.searchsorted(pfns, len(self._written))]] = True

    def stirred(self) -> bool:
        """A cheap look at the first and last page of each program: have their reference counts changed?"""
        changed = [chunk.stirred(self._kernel) for chunk in self._chunks]  # all are asked
        return any(changed)

    def look(self) -> Release | None:
        """Look at all pages; those that are pinned no longer are returned once and watched no more."""
        if self._peeks is not None and self._peeks.peek() == self._peeked:
            self._rest()
            return None
        released: list[Release] = []
        left: list[Chunk] = []
        for chunk in self._chunks:
            found = chunk.look(self._dirty_bit)
            if found is None:
                left.append(chunk)
                continue
            facts, gone = found
            released.append(self._release(chunk, facts, gone))
            if not gone.all():
                left.append(chunk.kept(self._kernel, facts, ~gone, self._dirty_bit))
        if not released:
            if self._calm:  # with each frame a buffer may come or go: not worth it then
                self._remember()
            self._rest()
            return None
        self._take(left)
        return Release.joined(released)

    def _remember(self) -> None:
        """Each chunk was just found as it was: next time one look will do for all."""
        gathers = [chunk.pages.gather for chunk in self._chunks]
        if not gathers:
            return
        if gathers != self._gathers:
            self._gathers, self._peeks = gathers, Peeks.of([gather.spots for gather in gathers])
        self._peeked = b"".join(chunk.pages.peeked() for chunk in self._chunks)

    def _release(self, chunk: Chunk, facts: PageFacts, gone: Bools) -> Release:
        """Watch these pages of a chunk no more."""
        same = (facts.mapping == chunk.mapping) & (facts.index == chunk.index)
        known = chunk.cached(self._cached_bit)
        cached = np.zeros(len(same), dtype=bool) if known is None else known
        if gone.all():
            self._watched[facts.pfn] = False
            return Release(facts, chunk.clean, same, self._written[facts.pfn], cached)
        rows = np.flatnonzero(gone)
        pfns = facts.pfn[rows]
        self._watched[pfns] = False
        written = self._written[pfns]
        return Release(facts.take(rows), chunk.clean[rows], same[rows], written, cached[rows])

    def _rest(self) -> None:
        """Another look has found all pins in place: after many of them buffers seem to be here to stay."""
        self._calm += 1
        if self._calm >= _CALM and len(self._chunks) > 1:
            self._take([Chunk.joined(self._kernel, self._chunks)])

    def still_pinned(self) -> PageFacts | None:
        """A fresh look at all pages that are watched, ascending by page frame; None when there are none."""
        if not self._chunks:
            return None
        if len(self._chunks) > 1:
            self._take([Chunk.joined(self._kernel, self._chunks)])
        self._chunks[0].pages.read()
        return self._chunks[0].pages.facts()


def clean_of(facts: PageFacts, dirty_bit: int) -> Bools:
    """Which pages are clean."""
    return facts.once("clean", lambda: ~facts.has(dirty_bit))


def _any_of_files(mapping: NDArray[np.uint64]) -> bool:
    return bool(((mapping != 0) & ((mapping & np.uint64(1)) == 0)).any())


def _or_none(pages: Bools) -> Bools | None:
    return pages if pages.any() else None
