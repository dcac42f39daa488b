# SPDX-License-Identifier: GPL-2.0-or-later
"""Harmless things worth counting: legitimate states of pinned pages that look odd, and close shaves."""

from __future__ import annotations

from collections import Counter

from vcapdev.dmacheck.states import PageStates
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import Bools, PageFacts, Pfns

_MAX_WATCHED = 1 << 16


#: All that is counted, by name, in the words of docs/report.md. The first three count a page each time that
#: it enters the state; ``remapped`` to ``process-gone`` come from :mod:`vcapdev.dmacheck.mapping`.
ODDITIES = {
    "orphan": "pinned, but no page table maps it any more: the program unmapped it or ended",
    "unmapped-in-swap-cache": "pinned, and taken out of the page tables by reclaim",
    "under-writeback": "being written out during DMA",
    "remapped": "another mapping's page is at the user's address now: munmap and mmap",
    "replaced": "the same mapping has another page there now: MADV_DONTNEED and a write",
    "discarded": "the zero page is there now: MADV_DONTNEED and a read",
    "unmapped": "nothing is there any more: munmap, or MADV_DONTNEED",
    "stale-buffer": "pages of the last four kinds in a buffer that was queued again; see `hazards`",
    "moved": "the user has the page at another address (mremap)",
    "process-gone": "nobody is left who could read the page",
    "bounced": "the device wrote to the bounce pool (swiotlb); the kernel copies that to the buffer's pages",
    "bus-master-off": "a transfer that did not happen, because the driver has bus mastering switched off",
    "fetch-aborted": "instructions were fetched from an address behind which there is no RAM",
    "given-back": (
        "pages of a buffer that the framework had back before and after a write, at one field: no judgement"
    ),
    "held-by-exporter": (
        "pages of an imported DMABUF that its exporter holds by references, not by pins (udmabuf before 6.11)"
    ),
    "raced-with-stop": "looked bad, but the driver had stopped DMA by then",
    "release-seen-late": "released, and cleaned or given away before that was seen: no judgement",
    "passing": "bad at only one of two looks",
    "unreadable": "guest data that led nowhere",
    "pinned-again": (
        "a whole buffer was released and pinned anew between two looks: no judgement on its identity"
    ),
    "unwatched": "pinned pages beyond the 65 536 that are watched for their release",
}


class Oddities:
    """Counters by name, which are those of :data:`ODDITIES`.

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
