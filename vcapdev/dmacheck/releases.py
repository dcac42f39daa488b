# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to pins: dropped with the page marked dirty (good), without (V10), or never (V11)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.court import Court
from vcapdev.dmacheck.ledger import Record
from vcapdev.dmacheck.oddities import Oddities
from vcapdev.dmacheck.pinledger import PinLedger, pins_of
from vcapdev.dmacheck.pins import PinTable, Release
from vcapdev.dmacheck.rules import BAD_COUNT, NOT_DIRTIED, PIN_LEAK, PINNED_AFTER_CLOSE, Rule
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE, GuestReadError
from vcapdev.guestmm.pages import Bools, PageFacts, Pfns
from vcapdev.guestmm.vmstat import PinCounters, read_pages_written, read_pin_counters

_LOOKS = 4  # in a row at which nobody lists a page: half a minute

Books = Callable[[], Iterable[Record]]  # all programs that are remembered, the latest first


class Releases:
    """Watches the pins of all DMA targets. ``former`` hands its figures on after a re-attach.

    :param when: gives the number of the field under way.
    :ivar ledger: one account for each buffer.
    """

    def __init__(
        self,
        kernel: Kernel,
        court: Court,
        oddities: Oddities,
        former: Releases | None,
        when: Callable[[], int] = lambda: 0,
    ) -> None:
        self._kernel, self._court, self._oddities = kernel, court, oddities
        self.table = PinTable(kernel)
        self._when = when
        self.ledger: PinLedger = PinLedger.after(kernel, when, former.ledger if former is not None else None)
        self._figures: Counter[str] = former._figures if former is not None else Counter()
        self._late: set[int] = set()
        self._unlisted: dict[int, int] = {}  # pinned pages that nobody lists: at how many linger() in a row
        self._docket: deque[tuple[Rule, PageFacts, NDArray[np.intp]]] = deque()
        known: PinCounters | None = former._at_attach if former is not None else None
        self._at_attach: PinCounters | None = known if known is not None else read_pin_counters(kernel)
        self._latest: PinCounters | None = None
        self._written: int | None = None  # pages written back or to swap, before the last look

    def drop(self) -> None:
        """The guest has gone: its pins are no more."""
        self.table = PinTable(self._kernel)
        self.ledger = PinLedger.after(self._kernel, self._when, self.ledger)
        self._at_attach = self._latest = None

    def admit(self, facts: PageFacts, record: Record) -> None:
        """Watch the pinned pages of a program."""
        refused = self.table.refused
        new, clean = self.table.add(facts, record.pages, record.ends)
        if new:
            self.ledger.pinned(facts, self.table.added, record.id)
        else:
            self.ledger.again(facts)
        self._oddities.add("unwatched", self.table.refused - refused)
        self._figures["watched"] += new
        self._figures["clean_at_pin"] += clean

    def look(self) -> Pfns | None:
        """Look for dropped pins and judge them; returns the pages that were released.

        What breaks a rule waits for :meth:`hear`: this is called from within register writes as well, where
        the vCPUs cannot be stopped because one of them may be waiting for the device.
        """
        table = self.table
        written = read_pages_written(self._kernel) if table.of_files or table.in_swap else None
        release = self.table.look()
        if release is not None:
            if self._unlisted:
                for pfn in release.facts.pfn.tolist():
                    self._unlisted.pop(pfn, None)
            self._judge(release)
        self._written = written
        return None if release is None else release.facts.pfn

    @property
    def heard(self) -> bool:
        """Whether :meth:`look` has found anything that was not pronounced yet."""
        return bool(self._docket)

    def hear(self, books: Books) -> None:
        """Pronounce what :meth:`look` has found."""
        while self._docket:
            rule, facts, rows = self._docket.popleft()
            self._court.pin_verdict(rule, self._kernel, facts, rows, books())

    def _judge(self, release: Release) -> None:
        facts = release.facts
        dirty = facts.once("dirty", lambda: facts.has(self._kernel.flags.bit("dirty")))
        below = facts.once("below", lambda: self._below(facts))
        gone = facts.once("lost", lambda: _lost(facts) | below) | ~release.same
        doubtful = facts.once("doubtful", lambda: self._doubtful(facts)) | self._cleaned_file_pages(facts)
        doubtful |= self._cleaned_in_swap(release, ~dirty & ~gone)
        judged = release.written & ~gone & ~doubtful
        figures = self._figures
        figures["released"] += len(dirty)
        figures["released_unwritten"] += int(np.count_nonzero(~release.written))
        figures["released_dirty"] += int(np.count_nonzero(release.written & ~gone & dirty))
        figures["judged_clean_before"] += int(np.count_nonzero(judged & release.was_clean))
        bad = judged & ~dirty & release.was_clean
        # Dirty is good, wherever the page is by now. A clean one that was dirty has been cleaned since.
        late = release.written & (gone | (~dirty & ~bad))
        self._oddities.add("release-seen-late", int(np.count_nonzero(late)))
        self.ledger.released(release.facts.pfn, dirty & ~gone, late)
        if bad.any():
            self._docket.append((NOT_DIRTIED, release.facts, np.flatnonzero(bad)))
        if below.any():
            self._docket.append((BAD_COUNT, release.facts, np.flatnonzero(below)))

    def _below(self, facts: PageFacts) -> Bools:
        """Pages that more was given back of than had been taken (V12)."""
        slab = self._kernel.flags.bit("slab")
        below: Bools = (facts.refcount < 0) | (facts.pins < 0)
        return below & facts.present & ~facts.typed & ~facts.has(slab)

    def _doubtful(self, facts: PageFacts) -> Bools:
        """Pages that may have been dirtied at their release although they are clean now, or the reverse.

        (For those in the swap cache, or of files, see below.) A page that is on no LRU list may be a new one:
        memory that was given back and came again at the same address, as it does from a program's heap
        (folio_add_lru() puts that off, mm/swap.c). A page that somebody holds besides those who map it may be
        on its way to another list: MADV_FREE takes the dirtiness away at once, but PG_swapbacked only when a
        batch of pages is full (folio_mark_lazyfree()). Whoever ends a write holds the page as well, until
        that is counted (folio_end_writeback(), mm/filemap.c).
        """
        bit = self._kernel.flags.bit
        busy = facts.has(bit("writeback"))
        lazily_freed = facts.anon & ~facts.has(bit("swapbacked"))  # MADV_FREE takes the dirtiness away
        perhaps_new = facts.anon & ~facts.large & ~facts.has(bit("lru"))
        users = facts.mapcount + 1 + facts.has(bit("swapcache"))
        on_its_way = facts.anon & ~facts.large & (facts.refcount > users)
        doubtful: Bools = busy | lazily_freed | perhaps_new | on_its_way
        return doubtful

    def _cleaned_file_pages(self, facts: PageFacts) -> Bools:
        """File pages that are clean may have been dirtied at their release, and written back already.

        That is ruled out where the kernel has finished writing back not one page since before the last look
        at them while pinned, and is not about to begin.
        """
        bit = self._kernel.flags.bit
        of_file: Bools = facts.once(
            "cached", lambda: ~facts.anon & (facts.mapping != 0) & ~facts.has(bit("swapbacked"))
        )
        if not of_file.any():
            return of_file
        moving = facts.has(bit("dirty") | bit("writeback") | bit("locked")) & of_file
        now = read_pages_written(self._kernel)
        quiet = now is not None and now == self._written and not moving.any()
        return np.zeros_like(of_file) if quiet else of_file

    def _cleaned_in_swap(self, release: Release, clean: Bools) -> Bools:
        """Clean pages in the swap cache may have been dirtied at their release, and written out already.

        Reclaim clears PG_dirty when it begins to write a page out, which only a page in the swap cache (or of
        a file) can suffer. One that came from swap may well stay in the swap cache while it is pinned. That
        it was written out since is ruled out as for files; but what goes to zswap does not count as written,
        nor does a page of zeroes (since 6.12).
        """
        bit, facts = self._kernel.flags.bit, release.facts
        inside: Bools = facts.once(
            "maybe in swap cache", lambda: facts.has(bit("swapcache")) & facts.has(bit("swapbacked"))
        )
        if not inside.any():
            return inside
        asked = inside & clean & release.was_cached & release.was_clean & release.written
        here = np.flatnonzero(asked & facts.anon & ~facts.has(bit("locked")))
        now = read_pages_written(self._kernel) if len(here) else None
        if now is None or now != self._written or self._compresses():
            return inside
        doubtful = inside.copy()
        doubtful[[row for row in here.tolist() if self._holds_data(int(facts.pfn[row]))]] = False
        return doubtful

    def _compresses(self) -> bool:
        """Whether zswap may take what is swapped out."""
        symbols = self._kernel.symbols
        place = symbols.address("zswap_enabled")
        if place is None:  # kallsyms may leave data out; a kernel without zswap has neither
            return symbols.address("zswap_store") is not None
        try:
            return self._kernel.table.read(place, 1) != b"\0"
        except GuestReadError:
            return True

    def _holds_data(self, pfn: int) -> bool:
        """Whether a page holds anything but zeroes."""
        try:
            return any(self._kernel.memory.read(pfn << PAGE_SHIFT, PAGE_SIZE))
        except GuestReadError:
            return False

    def settle(self, books: Books, *, final: bool) -> dict[str, Any]:
        """See :meth:`vcapdev.dmacheck.checker.Checker.settle`."""
        counters = self._latest = read_pin_counters(self._kernel)
        facts = self.table.still_pinned()
        held = np.zeros(0, dtype=np.intp) if facts is None else np.flatnonzero(facts.pinned & ~facts.torn)
        if facts is not None:
            back = self._late - set(facts.pfn[held].tolist())
            self._oddities.add("release-seen-late", len(back))
            self._late = set(facts.pfn[held].tolist()) if not final else set()
        if final and len(held) and facts is not None:
            self._court.pin_verdict(PIN_LEAK, self._kernel, facts, held, books())
        grown = self._grown(counters)
        self.ledger.draw(0 if facts is None else pins_of(facts, held), self._at_attach)
        if final and grown and not len(held):
            self._court.leak_verdict(PIN_LEAK, self._confirm_growth)
        return {
            "settled": not len(held) and not grown,
            "pinned_pages": len(held),
            "outstanding": None if counters is None else counters.outstanding,
            "outstanding_at_attach": None if self._at_attach is None else self._at_attach.outstanding,
            "acquired": None if counters is None else counters.acquired,
            "released": None if counters is None else counters.released,
        }

    def linger(self, claimed: Callable[[Pfns], Bools | None], books: Books) -> None:
        """Pins that nobody lists for half a minute are forgotten ones. To be called every ten seconds.

        They must be of pages that were a buffer's, and not have been dropped in between.

        :param claimed: which pages some buffer of a media framework lists; None where that is unknown.
        """
        facts = self.table.still_pinned()
        before, self._unlisted = self._unlisted, {}
        if facts is None:
            return
        listed = claimed(facts.pfn)
        if listed is None:
            return
        named = np.array([self.ledger.is_named(pfn) for pfn in facts.pfn.tolist()], dtype=bool)
        rows = np.flatnonzero(facts.pinned & ~facts.torn & ~listed & named)
        self._unlisted = {pfn: before.get(pfn, 0) + 1 for pfn in facts.pfn[rows].tolist()}
        overdue = [row for row in rows.tolist() if self._unlisted[int(facts.pfn[row])] >= _LOOKS]
        if overdue:
            rows = np.array(overdue, dtype=np.intp)
            self._court.pin_verdict(PINNED_AFTER_CLOSE, self._kernel, facts, rows, books())

    def _confirm_growth(self) -> tuple[int, str]:
        """Read the counters once more, with the vCPUs standing: pins too many, and a line on them."""
        counters, base = read_pin_counters(self._kernel), self._at_attach
        if counters is None or base is None:
            return 0, ""
        text = f"nr_foll_pin_acquired {counters.acquired}, nr_foll_pin_released {counters.released}"
        text += f"; outstanding at attach {base.outstanding}; whoever else pins pages counts as well"
        return counters.outstanding - base.outstanding, text

    def _grown(self, counters: PinCounters | None) -> bool:
        """Whether more pins are out than when the first ones were seen.

        Read with all per-CPU shares the counters are exact but for what runs during the reading.
        """
        if counters is None or self._at_attach is None:
            return False
        return counters.outstanding > self._at_attach.outstanding

    def status(self) -> dict[str, Any]:
        """Figures on pins. ``conclusive`` tells whether a missing dirtying could have been seen at all."""
        figures = self._figures
        names = ("watched", "clean_at_pin", "released", "released_dirty", "released_unwritten")
        return {
            "pinned_now": len(self.table),
            **{name: figures[name] for name in names},
            "judged_clean_before": figures["judged_clean_before"],
            "conclusive": figures["judged_clean_before"] > 0,
            "ledger": self.ledger.status(),
        }


def _lost(facts: PageFacts) -> Bools:
    """Pages that have lost everything since their release: they were freed."""
    lost: Bools = (facts.refcount == 0) | facts.typed | ~facts.present
    return lost
