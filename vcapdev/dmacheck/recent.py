# SPDX-License-Identifier: GPL-2.0-or-later
"""What was looked at of late: batches, for the picture of page states, and sets of pages, to use again."""

from __future__ import annotations

from collections import deque

from vcapdev.dmacheck.look import BatchPages
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import PageFacts, PageSet, Pfns
from vcapdev.guestmm.pageview import state_labels

_MAX_BATCHES = 1024  # of one field
_MAX_SETS = 64  # as many buffers as programs rotate over, and both fields of a frame write to the same
_FIELDS_KEPT = 3  # the one under way and two complete ones: a frame

Sight = list[PageFacts]


class RecentFields:
    """Which batches were written in the field under way and in the two before."""

    def __init__(self) -> None:
        self._fields: deque[dict[int, BatchPages]] = deque([{}], maxlen=_FIELDS_KEPT)

    def add(self, pages: BatchPages) -> None:
        """A batch is about to be written."""
        if len(self._fields[-1]) < _MAX_BATCHES:
            self._fields[-1][id(pages)] = pages

    def next_field(self) -> None:
        """A field has ended; one without writes does not count."""
        if self._fields[-1]:
            self._fields.append({})

    def clear(self) -> None:
        """Forget all batches."""
        self._fields.clear()
        self._fields.append({})

    def sight(self) -> Sight:
        """The last thorough looks at the pages of the last complete frame, in their order."""
        complete = list(self._fields)[:-1] or list(self._fields)
        return [pages.facts for batches in complete for pages in batches.values() if pages.facts is not None]


def states_in(sight: Sight, kernel: Kernel) -> dict[int, str]:
    """State of each page by the last of these looks at it."""
    states: dict[int, str] = {}
    for facts in sight:
        states.update(zip(facts.pfn.tolist(), state_labels(kernel, facts), strict=True))
    return states


class RecentSets:
    """Sets of pages that programs were learnt with: both fields of a frame write to the same pages."""

    def __init__(self) -> None:
        self._kernel: Kernel | None = None
        self._sets: dict[bytes, PageSet] = {}  # by page frames

    def of(self, kernel: Kernel, pfns: Pfns) -> PageSet:
        """The set of these pages, a known one if possible. Its ``pfns`` are the caller's or their equal."""
        if kernel is not self._kernel:
            self.clear()
            self._kernel = kernel
        key = pfns.tobytes()
        pages = self._sets.get(key)
        if pages is None:
            if len(self._sets) >= _MAX_SETS:
                self._sets.pop(next(iter(self._sets)))
            pages = self._sets[key] = PageSet(kernel, pfns)
        return pages

    def clear(self) -> None:
        """Forget all sets: guest memory is no longer where they look for it."""
        self._kernel = None
        self._sets.clear()
