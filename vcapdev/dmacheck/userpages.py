# SPDX-License-Identifier: GPL-2.0-or-later
"""Still the user's page? What the owner's page tables say of one buffer's pages, at each look.

What they may say, and what is made of it, is in :mod:`vcapdev.dmacheck.mapping`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.layout import MAPPING_ANON
from vcapdev.guestmm.leaves import Leaves
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE, GuestReadError
from vcapdev.guestmm.openfiles import OpenFiles
from vcapdev.guestmm.pages import PageFacts, PageSet, head_pfns
from vcapdev.guestmm.pagetable import PRESENT, WRITABLE
from vcapdev.guestmm.rmap import AddressSpace, ReverseMap, areas_of

# What may have become of a page; by these names it is told.
FINE, COPIED, REMAPPED, REPLACED, DISCARDED, UNMAPPED, MOVED, GONE, UNKNOWN = range(9)
NAMES = ("", "copied-away", "remapped", "replaced", "discarded", "unmapped", "moved", "process-gone", "")
LOST = (REMAPPED, REPLACED, DISCARDED, UNMAPPED)
MAX_MAPPINGS = 8  # anon_vmas and files that are asked for one buffer
_MAX_COMPARED = 512  # pages whose content is compared at a time
_SAME_WORDS = 32  # of 512 that are equal, and differ from the word before: then one is a copy of the other

Ints = NDArray[np.int64]
Rows = NDArray[np.intp]


class UserPages:
    """One buffer's pages in the memory of whoever owns it.

    :raise GuestReadError: when page tables lead nowhere.
    """

    def __init__(self, kernel: Kernel, reverse: ReverseMap, space: AddressSpace, buffer: MediaBuffer) -> None:
        self.space, self.expected = space, buffer.pfns
        self.place = buffer.userptr, id(buffer.pfns)
        self._kernel, self._reverse = kernel, reverse
        first = buffer.userptr & ~(PAGE_SIZE - 1)
        self.leaves = Leaves.of_range(kernel, space.top, first, len(buffer.pfns))
        self.states = np.zeros(len(buffer.pfns), dtype=np.int8)
        self.any_lost = False
        # Pages that their owner may write to only after a fault, although his area is writable.
        self._faulting = np.zeros(len(buffer.pfns), dtype=bool)
        self.written = False  # whether the device has written to them since they were seen
        self.copied = np.zeros(0, dtype=np.intp)  # rows that were copied away and are not pronounced yet
        self.former: UserPages | None = None  # the same pages at the address that was queued before
        self._stirred = False
        self._absent = np.zeros(len(buffer.pfns), dtype=bool)  # at the last look: reclaim may be amid of it

    def is_of(self, buffer: MediaBuffer) -> bool:
        """Whether these are the buffer's pages, at its address."""
        place = int(self.leaves.addresses[0]) >> PAGE_SHIFT
        return place == buffer.userptr >> PAGE_SHIFT and np.array_equal(self.expected, buffer.pfns)

    def astray(self) -> bool:
        """Whether the pages are still those of the address before, where they still are: none was released.

        A user who has moved his memory, or maps it twice, may well queue the same pages at another address.
        """
        former = self.former
        if former is None:
            return False
        former.leaves.read()
        self.quiet()
        return former.hits() > 0 and self.hits() == 0

    def hits(self) -> int:
        """How many of the pages are where they belong."""
        return int(np.count_nonzero(self.leaves.pfns() == self.expected))

    def begin(self) -> None:
        """Follow only what is in place now, be it in swap."""
        away = self._away()
        self.states[away] = UNKNOWN
        self._see_faulting()

    def begins_again(self) -> bool:
        """Follow the same pages anew, where all of them are, and were, in place and nothing has been found.

        False where that is not so: then it takes another to :meth:`begin`.
        """
        if self.states.any() or self._faulting.any() or self._absent.any() or not self.settled():
            return False
        self.written, self.former = False, None
        return True

    def quiet(self) -> bool:
        """Whether nothing has changed in the page tables since the last :meth:`changes`."""
        try:
            self._stirred |= self.leaves.read()
        except GuestReadError:
            self._stirred = True
        return not self._stirred

    def settled(self) -> bool:
        """Whether nothing has changed, and nothing that was found is left to be told."""
        return not self.any_lost and not len(self.copied) and self.quiet()

    def changes(self, files: OpenFiles) -> dict[int, Rows]:
        """Rows by the state that they have entered, after :meth:`quiet` was False."""
        self._stirred = False
        now = np.zeros(len(self.states), dtype=np.int8)
        away = self._away()
        now[away] = self._classify(away, files) if len(away) else FINE
        now[(self.states == UNKNOWN) & (now != FINE)] = UNKNOWN
        self._forgive_the_hasty(now)
        changed = now != self.states
        self.states = now
        self.any_lost = self.lost() > 0
        self._see_faulting()
        return {int(state): np.flatnonzero(changed & (now == state)) for state in np.unique(now[changed])}

    def _forgive_the_hasty(self, now: NDArray[np.int8]) -> None:
        """An entry is empty for a moment while reclaim takes a page out: only the next look can tell.

        A vCPU may be away for long just then. Reclaim and migration have the page locked all the time.
        """
        absent = now == UNMAPPED
        hasty = absent & (self.states == FINE) & (~self._absent | self._locked(absent))
        now[hasty] = FINE
        self._absent, self._stirred = absent, bool(hasty.any())

    def _locked(self, some: NDArray[np.bool_]) -> NDArray[np.bool_]:
        rows = np.flatnonzero(some)
        locked = np.zeros_like(some)
        if len(rows):
            facts = facts_of(self._kernel, self.expected[rows])
            locked[rows] = facts.anon & facts.has(self._kernel.flags.bit("locked"))
        return locked

    def lost(self) -> int:
        """How many pages the user has no longer, by his own doing."""
        return int(np.count_nonzero(np.isin(self.states, LOST)))

    def elsewhere(self, rows: Rows) -> bool:
        """Whether at all of these addresses another page is mapped at this moment."""
        self.leaves.read()
        found = self.leaves.pfns()[rows]
        return bool(((found >= 0) & (found != self.expected[rows])).all())

    def text(self, row: int) -> str:
        """One line about a page's address."""
        where = f"{int(self.leaves.addresses[row]):#x} of pid {self.space.pid} ({self.space.comm})"
        there = int(self.leaves.pfns()[row])
        return f"at user address {where}, where pfn {int(self.expected[row]):#x} was, " + (
            f"pfn {there:#x} is mapped now" if there >= 0 else "nothing is mapped now"
        )

    # What has become of pages that are not in place.

    def _see_faulting(self) -> None:
        """After fork, or mprotect to and fro, the next write of the owner faults, and may go to a copy."""
        entries = self.leaves.entries
        bits = np.uint64(PRESENT | WRITABLE)
        self._faulting = (self.leaves.pfns() == self.expected) & ((entries & bits) == np.uint64(PRESENT))
        rows = np.flatnonzero(self._faulting)
        if not len(rows):
            return
        writable = np.zeros(len(rows), dtype=bool)
        facts, places = facts_of(self._kernel, self.expected[rows]), self.leaves.addresses[rows]
        for mapping in np.unique(facts.mapping[facts.anon])[:MAX_MAPPINGS].tolist():
            for area in areas_of(self._reverse, mapping):
                if area.mm == self.space.mm and area.writable:
                    writable |= (places >= area.start) & (places < area.end)
        self._faulting[rows] = writable & facts.anon

    def _away(self) -> Rows:
        """Rows whose page is neither mapped nor, by its own swap entry, about to be mapped again."""
        rows = np.flatnonzero(self.leaves.pfns() != self.expected)
        if not len(rows):
            return rows
        swap = self.leaves.swapped()[rows]
        fine = swap == -2  # a migration that fails because the page is pinned, or a marker
        some = swap >= 0
        if some.any():
            fine |= some & (self._swap_entries(self.expected[rows]) == swap)
        result: Rows = rows[~fine]
        return result

    def _swap_entries(self, pfns: Ints) -> Ints:
        """Where the pages would be in swap: their ``private``, if they are in the swap cache.

        Of a compound page the head's counts on; since 6.6 (cfeed8ffe55b) its tails have none of their own.
        """
        layout, vmemmap = self._kernel.layout, self._kernel.vmemmap
        rows = vmemmap.gather(pfns).read()
        entries = rows[:, layout.private // 8].astype(np.int64)
        named = head_pfns(vmemmap, layout.head_is_mask, pfns, rows, layout.head)
        tails = np.flatnonzero(((rows[:, layout.head // 8] & np.uint64(1)) != 0) & (named >= 0))
        if len(tails):
            heads = vmemmap.gather(named[tails]).read()
            first: Ints = heads[:, layout.private // 8].astype(np.int64)
            entries[tails] = first + pfns[tails] - named[tails]
        return entries

    def _classify(self, rows: Rows, files: OpenFiles) -> NDArray[np.int8]:
        there = self.leaves.pfns()[rows]
        old = facts_of(self._kernel, self.expected[rows])
        found = np.full(len(rows), UNMAPPED, dtype=np.int8)
        mapped = there >= 0
        found[self.leaves.swapped()[rows] >= 0] = REPLACED
        zero = there == self._kernel.zero_pfn
        huge = self._kernel.huge_zero_pfn()
        if huge is not None:
            zero |= (there >= huge) & (there < huge + 512)
        found[zero] = DISCARDED
        other = np.flatnonzero(mapped & ~zero)
        if len(other):
            found[other] = self._other(rows[other], there[other], old.take(other))
        self._excuse(rows, found, old, files)
        return found

    def _other(self, rows: Rows, there: Ints, old: PageFacts) -> NDArray[np.int8]:
        """Another page is mapped: a copy, the same area with new memory, or another area."""
        new = facts_of(self._kernel, there)
        same = (new.mapping == old.mapping) & ((new.index == old.index) | old.large | new.large)
        found = np.where(same, REPLACED, REMAPPED).astype(np.int8)
        some = np.flatnonzero(new.anon & old.anon & (self.states[rows] == FINE))[:_MAX_COMPARED]
        if self.written and len(some):
            faulting = self._faulting[rows[some]] & same[some]
            copied = self._copied(self.expected[rows[some]], there[some], faulting)
            found[some[copied]] = COPIED
        return found

    def _copied(self, old: Ints, new: Ints, faulting: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether pages were copied from others: they have much in common, which hardly two others have.

        Where the owner's next write had to fault anyhow it is enough that the page was not made of zeroes:
        he may have written all of it since.
        """
        ours, theirs = _contents(self._kernel, old), _contents(self._kernel, new)
        equal = ours == theirs
        telling = equal[:, 1:] & (ours[:, 1:] != ours[:, :-1])
        alike = np.count_nonzero(telling, axis=1) >= _SAME_WORDS
        fresh = np.count_nonzero((theirs == 0) & (ours != 0), axis=1) > 0
        result: NDArray[np.bool_] = alike | (faulting & ~fresh)
        return result

    def _excuse(self, rows: Rows, found: NDArray[np.int8], old: PageFacts, files: OpenFiles) -> None:
        """A page of a file comes back with the next access; others may have moved, or nobody is left."""
        empty = found == UNMAPPED
        of_file = (old.mapping != 0) & ((old.mapping & np.uint64(MAPPING_ANON)) == 0) & ~old.torn
        found[empty & of_file] = FINE
        empty &= ~of_file
        if empty.any() and not files.uses(self.space.mm):
            found[empty] = GONE
            return
        suspects = np.flatnonzero(~np.isin(found, (FINE, COPIED)) & (old.mapcount >= 0) & old.anon)
        if len(suspects):
            found[suspects[self._moved(old.take(suspects))]] = MOVED

    def _moved(self, old: PageFacts) -> NDArray[np.bool_]:
        """Which pages the same process has at another address."""
        moved = np.zeros(len(old.pfn), dtype=bool)
        for mapping in np.unique(old.mapping)[:MAX_MAPPINGS].tolist():
            for area in areas_of(self._reverse, mapping):
                index = old.index.astype(np.int64)
                inside = (index >= area.first) & (
                    index < area.first + ((area.end - area.start) >> PAGE_SHIFT)
                )
                rows = np.flatnonzero((old.mapping == np.uint64(mapping)) & inside)
                if area.mm != self.space.mm or not len(rows):
                    continue
                places = area.start + ((index[rows] - area.first) << PAGE_SHIFT)
                moved[rows] |= Leaves(self._kernel, self.space.top, places).pfns() == old.pfn[rows]
        return moved


def facts_of(kernel: Kernel, pfns: Ints) -> PageFacts:
    """What the pages' own structs say at this moment."""
    pages = PageSet(kernel, pfns)
    pages.read()
    return pages.facts()


def _contents(kernel: Kernel, pfns: Ints) -> NDArray[np.uint64]:
    """The bytes of pages as words, shape ``(n, 512)``."""
    pages = [kernel.memory.read(pfn << PAGE_SHIFT, PAGE_SIZE) for pfn in pfns.tolist()]
    return np.frombuffer(b"".join(pages), dtype="<u8").reshape(len(pages), PAGE_SIZE // 8)
