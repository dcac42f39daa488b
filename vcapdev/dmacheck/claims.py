# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pins are accounted for: how often each page frame is listed by those who hold pins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.ledger import distinct
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.media import Media
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.guestmm.pages import PageFacts, head_pfns
from vcapdev.recall import Recall

Ints = NDArray[np.int64]

_MAX_HOLDERS = 4096


class Claims:
    """Counts by page frame, kept as lists of pages come and go: with every frame one of them is another.

    What was learnt last may be behind the times by a frame or two: where it tells of too few pins, ask anew.
    """

    def __init__(self, kernel: Kernel, media: Media) -> None:
        self._kernel, self._media = kernel, media
        self._counts = np.zeros(kernel.vmemmap.pages, dtype=np.int64)
        self._lists: dict[tuple[int, int], Ints] = {}  # what is counted, by who holds it
        self._simple: Recall[Ints | None] = Recall()

    def learnt(self, buffer: MediaBuffer) -> None:
        """A buffer was looked at: that is what it holds now."""
        self._put(buffer.key, buffer.pfns if buffer.holds else None)

    def of(self, facts: PageFacts, *, anew: bool) -> Ints:
        """How many pins are accounted for, for each page or its compound page.

        :param anew: look for all who hold pins, in the place of what was learnt.
        """
        if anew:
            self._learn_all()
        if facts.large.any():
            return self._of_compounds(facts)
        claims: Ints = self._counts[np.minimum(facts.pfn, len(self._counts) - 1)]
        return claims

    def _learn_all(self) -> None:
        found = self._media.pins()
        for holder in [holder for holder in self._lists if holder not in found]:
            self._put(holder, None)
        for holder, pfns in found.items():
            self._put(holder, pfns)

    def _put(self, holder: tuple[int, int], pfns: Ints | None) -> None:
        old = self._lists.get(holder)
        if pfns is old:
            return
        if old is not None:
            self._add(self._lists.pop(holder), -1)
        if pfns is not None and len(self._lists) < _MAX_HOLDERS:
            self._lists[holder] = pfns
            self._add(pfns, 1)

    def _add(self, pfns: Ints, times: int) -> None:
        inside = self._simple(lambda: self._once_each(pfns), pfns)
        if inside is not None:
            self._counts[inside] += times
        else:  # a page that is mapped twice in one buffer: a tenth as quick
            np.add.at(self._counts, self._inside(pfns), times)

    def _once_each(self, pfns: Ints) -> Ints | None:
        """The pages that there are; None where one is listed twice."""
        inside = self._inside(pfns)
        return inside if len(distinct(inside)) == len(inside) else None

    def _inside(self, pfns: Ints) -> Ints:
        return pfns[(pfns >= 0) & (pfns < len(self._counts))]

    def _of_compounds(self, facts: PageFacts) -> Ints:
        """A pin on a tail is its head's."""
        pages = self._heads(facts.pfn)
        claims = np.zeros(len(pages), dtype=np.int64)
        for each in self._lists.values():
            own = np.sort(self._heads(each))
            claims += np.searchsorted(own, pages, side="right") - np.searchsorted(own, pages)
        return claims

    def _heads(self, pfns: Ints) -> Ints:
        """The heads of compound pages, in the place of their tails."""
        rows = self._kernel.vmemmap.gather(pfns).read()
        layout = self._kernel.layout
        tail = (rows[:, layout.head // 8] & np.uint64(1)) != 0
        heads = head_pfns(self._kernel.vmemmap, layout.head_is_mask, pfns, rows, layout.head)
        return np.where(tail, heads, pfns)
