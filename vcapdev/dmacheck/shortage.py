# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that have fewer pins than the buffers that list them account for: somebody else's pin holds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.breach import Breach
from vcapdev.dmacheck.claims import Claims
from vcapdev.dmacheck.look import BatchPages
from vcapdev.dmacheck.rules import MISSING_PIN
from vcapdev.dmacheck.watch import Watch
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.media import Media
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.guestmm.pages import PageFacts, PageSet

Ints = NDArray[np.int64]

_MAX_SHORT = 4096
_SEARCH_EVERY = 100  # fields between two searches for holders of pins that are not known yet: two seconds


class Shortage:
    """Compares pins with claims, as seldom as may be: to look for all who hold pins takes its time."""

    def __init__(self, kernel: Kernel, media: Media) -> None:
        self._kernel, self._claims = kernel, Claims(kernel, media)
        self._short: dict[int, int] = {}  # pages that are short of pins: at which field that was first seen
        self._asked = -_SEARCH_EVERY  # the field at which the holders of pins were last looked for anew
        self._trusted = 0  # how many more buffers' pins may be compared with what was learnt then

    def learnt(self, buffer: MediaBuffer) -> None:
        """A buffer was looked at: that is what it holds now."""
        self._claims.learnt(buffer)

    def settle(self, watch: Watch, facts: PageFacts) -> None:
        """Compare before the program writes, where what is known of other holders will do."""
        buffer = watch.buffer
        if watch.claims is not None or self._trusted <= 0 or not buffer.pinned:
            return
        if buffer.bounced or self._short:
            return
        claims = self._claims.of(facts, anew=False)
        if not len(_short(facts, claims)):
            watch.claims = facts, claims
            self._trusted -= 1

    def missing(self, watch: Watch, pages: BatchPages, field: int) -> list[Breach]:
        """Pages of this batch that were short of pins at an earlier field, and are so now."""
        facts = pages.facts
        if facts is None:
            return []
        if not watch.buffer.pinned or watch.buffer.bounced:
            watch.claims = facts, np.zeros(0, dtype=np.int64)
            return []
        if watch.claims is None or watch.claims[0] is not facts or watch.short:
            anew = watch.short or not 0 <= field - self._asked < _SEARCH_EVERY
            watch.claims = facts, self._claimed(facts, field, anew=anew)
        rows = _short(facts, watch.claims[1])
        watch.short = len(rows) > 0
        rows = self._still_short(facts, rows, field)
        subject = "DMA write to a page that only others have pinned"
        return [Breach(MISSING_PIN, subject, rows)] if len(rows) else []

    def confirm(self, breach: Breach, pages: BatchPages) -> str | None:
        """Look at pins and at all who hold them again: a line of evidence, or None if it is not so."""
        now = PageSet(self._kernel, pages.pages.pfns)
        now.read()
        facts = now.facts()
        claims = self._claims.of(facts, anew=True)
        rows = np.intersect1d(_short(facts, claims), breach.rows)
        if not len(rows):
            return None
        row = int(rows[0])
        counts = f"{facts.pins[row]} pins, but the buffers that list it account for {claims[row]}"
        return f"pfn {facts.pfn[row]:#x} has {counts}"

    def _claimed(self, facts: PageFacts, field: int, *, anew: bool) -> Ints:
        """Pins that are accounted for; that one is missing must not come of what was learnt before."""
        claims = self._claims.of(facts, anew=anew)
        if not anew and len(_short(facts, claims)):
            anew, claims = True, self._claims.of(facts, anew=True)
        if anew:
            self._asked, self._trusted = field, _SEARCH_EVERY // 2
        return claims

    def _still_short(self, facts: PageFacts, rows: NDArray[np.intp], field: int) -> NDArray[np.intp]:
        """Those that were so at an earlier field: another holder may be giving up its pins right now."""
        if not len(rows) and not self._short:
            return rows
        short = set(facts.pfn[rows].tolist())
        for pfn in [pfn for pfn in self._short if pfn not in short]:
            if pfn in facts.pfn:
                del self._short[pfn]
        if len(self._short) > _MAX_SHORT:
            self._short.clear()
        first = [self._short.setdefault(pfn, field) for pfn in facts.pfn[rows].tolist()]
        return rows[np.array(first, dtype=np.int64) < field]


def _short(facts: PageFacts, claims: Ints) -> NDArray[np.intp]:
    """Rows with fewer pins than are claimed; without any pin it is another rule's affair."""
    if len(claims) != len(facts.pfn):
        return np.zeros(0, dtype=np.intp)
    rows = np.flatnonzero(facts.pins < claims)
    if not len(rows):
        return rows
    result: NDArray[np.intp] = rows[(facts.pinned & ~facts.torn & facts.present)[rows]]
    return result
