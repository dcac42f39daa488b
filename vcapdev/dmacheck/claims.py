# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pins are accounted for: how often each page frame is listed by those who hold pins on what they list."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.ledger import distinct
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.media import Media
from vcapdev.guestmm.pages import PageFacts, head_pfns

Ints = NDArray[np.int64]


class Claims:
    """Counts by page frame, kept as lists of pages come and go: with every frame one of them is another."""

    def __init__(self, kernel: Kernel, media: Media) -> None:
        self._kernel, self._media = kernel, media
        self._counts = np.zeros(kernel.vmemmap.pages, dtype=np.int64)
        self._counted: dict[int, Ints] = {}  # lists that are counted, by their identity

    def of(self, facts: PageFacts, *, anew: bool = True) -> Ints:
        """How many pins are accounted for, for each page or its compound page.

        :param anew: whether holders may be new; whoever comes between two searches is found by the next.
        """
        lists = self._media.pins(anew=anew)
        if facts.large.any():
            return self._of_compounds(facts, lists)
        self._count(lists)
        claims: Ints = self._counts[np.minimum(facts.pfn, len(self._counts) - 1)]
        return claims

    def _count(self, lists: list[Ints]) -> None:
        now = {id(each): each for each in lists}
        for key in [key for key in self._counted if key not in now]:
            self._add(self._counted.pop(key), -1)
        for key, each in now.items():
            if key not in self._counted:
                self._counted[key] = each
                self._add(each, 1)

    def _add(self, pfns: Ints, times: int) -> None:
        inside = pfns[(pfns >= 0) & (pfns < len(self._counts))]
        if len(distinct(inside)) == len(inside):
            self._counts[inside] += times
        else:  # a page that is mapped twice in one buffer: a tenth as quick
            np.add.at(self._counts, inside, times)

    def _of_compounds(self, facts: PageFacts, lists: list[Ints]) -> Ints:
        """A pin on a tail is its head's."""
        pages = self._heads(facts.pfn)
        claims = np.zeros(len(pages), dtype=np.int64)
        for each in lists:
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
