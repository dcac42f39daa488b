# SPDX-License-Identifier: GPL-2.0-or-later
"""Harmless things worth counting: legitimate states of pinned pages that look odd, and close shaves."""

from __future__ import annotations

from collections import Counter

from vcapdev.dmacheck.states import PageStates
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import Bools, PageFacts, Pfns

_MAX_WATCHED = 1 << 16


class Oddities:
    """Counters by name.

    ``orphan``: pinned, but no page table maps it any more (munmap, exit); ``unmapped-in-swap-cache``: pinned
    and taken out of the page tables by reclaim; ``under-writeback``: being written out during DMA.
    These three count a page each time that it enters the state. ``raced-with-stop``: found bad, but the
    driver had stopped DMA by then; ``release-seen-late``: released, and cleaned or given away
    before that was seen;
    ``pinned-again``: a whole buffer released and pinned anew at once; ``unwatched``: too many pinned pages to
    watch them for their release;
    ``remapped``, ``replaced``, ``discarded``, ``unmapped``, ``moved``, ``process-gone``, ``stale-buffer``:
    see :mod:`vcapdev.dmacheck.mapping`; ``bounced``: pages of the bounce pool, in the place of a buffer's;
    ``passing``: bad at only one of two looks; ``unreadable``: guest data that led nowhere.

    :ivar states: all states and changes of state that were seen, odd or not.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._inside: dict[str, set[int]] = {}
        self.states = PageStates()

    def add(self, name: str, count: int = 1) -> None:
        """Count something."""
        if count:
            self._counts[name] += count

    def observe(self, kernel: Kernel, facts: PageFacts) -> None:
        """Count pages that have entered an odd state."""
        self.states.observe(kernel, facts)
        bit = kernel.flags.bit
        odd = (facts.mapcount < 0) | facts.has(bit("swapcache") | bit("writeback")) | facts.torn
        if not self._inside and not odd.any():
            return
        single = facts.pinned & ~facts.large & facts.present
        unmapped = single & (facts.mapcount == -1)
        swapcache = facts.has(bit("swapcache")) & facts.has(bit("swapbacked"))
        self._enter("orphan", facts.pfn, unmapped & facts.anon & ~swapcache)
        self._enter("unmapped-in-swap-cache", facts.pfn, unmapped & swapcache)
        self._enter("under-writeback", facts.pfn, facts.pinned & facts.has(bit("writeback")))
        self._enter("unreadable", facts.pfn, facts.torn)

    def counts(self) -> dict[str, int]:
        """All counters that are not zero."""
        return dict(self._counts)

    def forget(self) -> None:
        """Pages are others now; counts stay."""
        self._inside.clear()
        self.states.forget()

    def _enter(self, name: str, pfns: Pfns, inside: Bools) -> None:
        now = set(pfns[inside].tolist())
        before = self._inside.get(name)
        if not now and not before:
            return
        known = self._inside.setdefault(name, set())
        self.add(name, len(now - known))
        known -= set(pfns.tolist()) - now
        if not known and not now:
            del self._inside[name]
            return
        if len(known) < _MAX_WATCHED:
            known |= now
