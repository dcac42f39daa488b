# SPDX-License-Identifier: GPL-2.0-or-later
"""Still the user's page? What the owner's page tables say of a buffer's pages, at each write.

When a buffer is first seen, the reverse map of its pages tells in whose memory it lies. From then on the page
table entries at its user addresses are compared with what they were::

    same page                    fine, with whatever rights      swapped, same page in swap cache   fine
    copied-away                  the kernel gave the user a copy (fork or mprotect, and a write): data loss
    remapped, replaced           other memory at the address: munmap and mmap, MADV_DONTNEED and a write
    discarded, unmapped          nothing there, or the zero page: MADV_DONTNEED, munmap
    moved                        the page is at another address now (mremap)
    process-gone                 nobody is left who could read it

Only the copy is the kernel's doing. That it is one shows in its content, which is compared before the device
writes again, and right after it has written, when the user has had no time yet to use the buffer anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.oddities import Oddities
from vcapdev.dmacheck.rules import STALE_BUFFER
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.layout import MAPPING_ANON
from vcapdev.guestmm.leaves import Leaves
from vcapdev.guestmm.mediabuffer import USERPTR, MediaBuffer
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE, GuestReadError
from vcapdev.guestmm.openfiles import OpenFiles
from vcapdev.guestmm.pages import PageFacts, PageSet, head_pfns
from vcapdev.guestmm.pagetable import PRESENT, WRITABLE
from vcapdev.guestmm.rmap import AddressSpace, ReverseMap, areas_of
from vcapdev.recall import keep

_FINE, _COPIED, _REMAPPED, _REPLACED, _DISCARDED, _UNMAPPED, _MOVED, _GONE, _UNKNOWN = range(9)
NAMES = ("", "copied-away", "remapped", "replaced", "discarded", "unmapped", "moved", "process-gone", "")
_LOST = (_REMAPPED, _REPLACED, _DISCARDED, _UNMAPPED)
_MAX_MAPPINGS = 8  # anon_vmas and files that are asked for one buffer
_MAX_NOTICES = 16
_MAX_RESTING = 64
_MAX_COMPARED = 512  # pages whose content is compared at a time
_SAME_WORDS = 32  # of 512 that are equal, and differ from the word before: then one is a copy of the other

_Ints = NDArray[np.int64]
_Rows = NDArray[np.intp]


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
        self.states[away] = _UNKNOWN
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

    def changes(self, files: OpenFiles) -> dict[int, _Rows]:
        """Rows by the state that they have entered, after :meth:`quiet` was False."""
        self._stirred = False
        now = np.zeros(len(self.states), dtype=np.int8)
        away = self._away()
        now[away] = self._classify(away, files) if len(away) else _FINE
        now[(self.states == _UNKNOWN) & (now != _FINE)] = _UNKNOWN
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
        absent = now == _UNMAPPED
        hasty = absent & (self.states == _FINE) & (~self._absent | self._locked(absent))
        now[hasty] = _FINE
        self._absent, self._stirred = absent, bool(hasty.any())

    def _locked(self, some: NDArray[np.bool_]) -> NDArray[np.bool_]:
        rows = np.flatnonzero(some)
        locked = np.zeros_like(some)
        if len(rows):
            facts = _facts(self._kernel, self.expected[rows])
            locked[rows] = facts.anon & facts.has(self._kernel.flags.bit("locked"))
        return locked

    def lost(self) -> int:
        """How many pages the user has no longer, by his own doing."""
        return int(np.count_nonzero(np.isin(self.states, _LOST)))

    def elsewhere(self, rows: _Rows) -> bool:
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
        facts, places = _facts(self._kernel, self.expected[rows]), self.leaves.addresses[rows]
        for mapping in np.unique(facts.mapping[facts.anon])[:_MAX_MAPPINGS].tolist():
            for area in areas_of(self._reverse, mapping):
                if area.mm == self.space.mm and area.writable:
                    writable |= (places >= area.start) & (places < area.end)
        self._faulting[rows] = writable & facts.anon

    def _away(self) -> _Rows:
        """Rows whose page is neither mapped nor, by its own swap entry, about to be mapped again."""
        rows = np.flatnonzero(self.leaves.pfns() != self.expected)
        if not len(rows):
            return rows
        swap = self.leaves.swapped()[rows]
        fine = swap == -2  # a migration that fails because the page is pinned, or a marker
        some = swap >= 0
        if some.any():
            fine |= some & (self._swap_entries(self.expected[rows]) == swap)
        result: _Rows = rows[~fine]
        return result

    def _swap_entries(self, pfns: _Ints) -> _Ints:
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
            first: _Ints = heads[:, layout.private // 8].astype(np.int64)
            entries[tails] = first + pfns[tails] - named[tails]
        return entries

    def _classify(self, rows: _Rows, files: OpenFiles) -> NDArray[np.int8]:
        there = self.leaves.pfns()[rows]
        old = _facts(self._kernel, self.expected[rows])
        found = np.full(len(rows), _UNMAPPED, dtype=np.int8)
        mapped = there >= 0
        found[self.leaves.swapped()[rows] >= 0] = _REPLACED
        zero = there == self._kernel.zero_pfn
        huge = self._kernel.huge_zero_pfn()
        if huge is not None:
            zero |= (there >= huge) & (there < huge + 512)
        found[zero] = _DISCARDED
        other = np.flatnonzero(mapped & ~zero)
        if len(other):
            found[other] = self._other(rows[other], there[other], old.take(other))
        self._excuse(rows, found, old, files)
        return found

    def _other(self, rows: _Rows, there: _Ints, old: PageFacts) -> NDArray[np.int8]:
        """Another page is mapped: a copy, the same area with new memory, or another area."""
        new = _facts(self._kernel, there)
        same = (new.mapping == old.mapping) & ((new.index == old.index) | old.large | new.large)
        found = np.where(same, _REPLACED, _REMAPPED).astype(np.int8)
        some = np.flatnonzero(new.anon & old.anon & (self.states[rows] == _FINE))[:_MAX_COMPARED]
        if self.written and len(some):
            faulting = self._faulting[rows[some]] & same[some]
            copied = self._copied(self.expected[rows[some]], there[some], faulting)
            found[some[copied]] = _COPIED
        return found

    def _copied(self, old: _Ints, new: _Ints, faulting: NDArray[np.bool_]) -> NDArray[np.bool_]:
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

    def _excuse(self, rows: _Rows, found: NDArray[np.int8], old: PageFacts, files: OpenFiles) -> None:
        """A page of a file comes back with the next access; others may have moved, or nobody is left."""
        empty = found == _UNMAPPED
        of_file = (old.mapping != 0) & ((old.mapping & np.uint64(MAPPING_ANON)) == 0) & ~old.torn
        found[empty & of_file] = _FINE
        empty &= ~of_file
        if empty.any() and not files.uses(self.space.mm):
            found[empty] = _GONE
            return
        suspects = np.flatnonzero(~np.isin(found, (_FINE, _COPIED)) & (old.mapcount >= 0) & old.anon)
        if len(suspects):
            found[suspects[self._moved(old.take(suspects))]] = _MOVED

    def _moved(self, old: PageFacts) -> NDArray[np.bool_]:
        """Which pages the same process has at another address."""
        moved = np.zeros(len(old.pfn), dtype=bool)
        for mapping in np.unique(old.mapping)[:_MAX_MAPPINGS].tolist():
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


class Mappings:
    """The buffers that are followed; pages that are not in place any more count as oddities."""

    def __init__(self, kernel: Kernel, reverse: ReverseMap, files: OpenFiles, oddities: Oddities) -> None:
        self._kernel, self._reverse, self._files = kernel, reverse, files
        self._known: dict[tuple[int, int], UserPages] = {}
        self._resting: dict[tuple[int, int], UserPages] = {}  # by user address and the list of pages
        self._mm = 0  # address of the mm_struct in which the last buffer was found
        self._turns: dict[tuple[int, int], int] = {}  # at which pages were found lost; -1: told
        self._oddities = oddities
        self.notices: list[str] = []
        self.field = 0  # that is under way
        self._stale: dict[str, Any] | None = None

    def learn(self, buffer: MediaBuffer) -> UserPages | None:
        """Begin to follow a buffer, or go on; None where it is nothing that lies in a process's memory."""
        if buffer.memory != USERPTR or not buffer.userptr or not len(buffer.pfns):
            return None
        known = self._known.get(buffer.key)
        if known is not None and known.is_of(buffer):
            return known
        found = self._again(buffer)
        if found is None:
            found = self._where_the_last_was(buffer) or self._find(buffer)
            if found is not None:
                found.begin()
        if self._known.pop(buffer.key, None) is not None and known is not None:
            keep(self._resting, known.place, known, _MAX_RESTING)
        if found is not None:
            if known is not None and np.array_equal(known.expected, buffer.pfns):
                known.former, found.former = None, known
            if len(self._known) >= 1024:
                self._known.clear()
            self._known[buffer.key] = found
            self._mm = found.space.mm
        return found

    def _again(self, buffer: MediaBuffer) -> UserPages | None:
        """The pages of a buffer that was here before, if they are where they were all the time."""
        found = self._resting.pop((buffer.userptr, id(buffer.pfns)), None)
        if found is None or found.expected is not buffer.pfns or found.space.mm != self._mm:
            return None
        try:
            same = self._reverse.space(self._mm) == found.space
        except GuestReadError:
            return None
        return found if same and found.begins_again() else None

    def _where_the_last_was(self, buffer: MediaBuffer) -> UserPages | None:
        """A program's buffers lie in one address space: to find all of its pages there will do."""
        try:
            space = self._reverse.space(self._mm)
            pages = None if space is None else UserPages(self._kernel, self._reverse, space, buffer)
        except GuestReadError:
            return None
        return pages if pages is not None and pages.hits() == len(pages.expected) else None

    def _find(self, buffer: MediaBuffer) -> UserPages | None:
        """The process that has most of the pages where the user said that they are."""
        facts = _facts(self._kernel, buffer.pfns)
        spaces: dict[int, AddressSpace] = {}
        for mapping in np.unique(facts.mapping[~facts.torn])[:_MAX_MAPPINGS].tolist():
            for area in areas_of(self._reverse, mapping):
                if (
                    area.mm not in spaces
                    and area.start < buffer.userptr + buffer.length
                    and area.end > buffer.userptr
                ):
                    space = self._reverse.space(area.mm)
                    if space is not None:
                        spaces[area.mm] = space
        best, most = None, 0
        for space in spaces.values():
            pages = UserPages(self._kernel, self._reverse, space, buffer)
            hits = pages.hits()
            if hits > most or best is None:
                best, most = pages, hits
        return best

    def look(self, pages: UserPages, buffer: MediaBuffer, turn: int) -> None:
        """What has changed since the last look.

        :param turn: how often another buffer of the queue was written to in between.
        """
        changes = {} if pages.quiet() else pages.changes(self._files)
        for state, rows in changes.items():
            if state != _COPIED and NAMES[state]:
                self._oddities.add(NAMES[state], len(rows))
        if _COPIED in changes:
            pages.copied = np.union1d(pages.copied, changes[_COPIED])
        self._tell(pages, buffer, turn)

    def _tell(self, pages: UserPages, buffer: MediaBuffer, turn: int) -> None:
        """DQBUF, munmap, mmap at the same address, QBUF: frameworks keep the old pages, with no one to see.

        That a buffer was queued again is certain once another one has had its turn since.
        """
        lost = pages.lost() if pages.any_lost else 0
        if not lost:
            self._turns.pop(buffer.key, None)
            return
        first = self._turns.setdefault(buffer.key, turn)
        if first in (turn, -1):
            return
        self._turns[buffer.key] = -1
        self._oddities.add("stale-buffer", lost)
        text = (
            f"{buffer.framework} buffer {buffer.index} was queued again at {buffer.userptr:#x} by pid "
            f"{pages.space.pid} ({pages.space.comm}), where {lost} of its {len(pages.expected)} pages "
            "are mapped no longer: the framework kept the old ones, and nobody will see what comes there"
        )
        if len(self.notices) < _MAX_NOTICES:
            self.notices.append(text)
        if self._stale is None:
            row = int(np.flatnonzero(np.isin(pages.states, _LOST))[0])
            self._stale = {"field": self.field, "pfn": int(pages.expected[row]), "page": text, "pages": 0}
        self._stale["pages"] += lost

    def hazards(self) -> list[dict[str, Any]]:
        """Buffers that were queued without their pages, in the form of the report's hazards."""
        if self._stale is None:
            return []
        rule = {"rule": STALE_BUFFER.name, "id": STALE_BUFFER.id, "sentence": STALE_BUFFER.sentence}
        return [{**rule, "instruction": None, **self._stale}]


def _facts(kernel: Kernel, pfns: _Ints) -> PageFacts:
    pages = PageSet(kernel, pfns)
    pages.read()
    return pages.facts()


def _contents(kernel: Kernel, pfns: _Ints) -> NDArray[np.uint64]:
    """The bytes of pages as words, shape ``(n, 512)``."""
    pages = [kernel.memory.read(pfn << PAGE_SHIFT, PAGE_SIZE) for pfn in pfns.tolist()]
    return np.frombuffer(b"".join(pages), dtype="<u8").reshape(len(pages), PAGE_SIZE // 8)
