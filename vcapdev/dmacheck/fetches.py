# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages that the device fetches its instructions from: still whose they were, and unchanged on the way.

A program lies in a few pages, which are looked at together, once a field. Coherent memory of more than a
page is an allocation without compound pages: only its first page is counted (kernel/dma/direct.c), so a page
with a count of 0 is either behind a page that is held, or free. What was freed last waits in a list of its
CPU (mm/page_alloc.c, per_cpu_pages): without a mark, and told by its links.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vcapdev.dma import Program
from vcapdev.dmacheck.rules import FETCH_CHANGED, FETCH_FREE, FETCH_REUSED, Rule, Setting, unmarked
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, GuestReadError
from vcapdev.guestmm.pages import PageFacts, PageSet
from vcapdev.guestmm.pageview import page_kinds
from vcapdev.guestmm.words import Reader

_MAX_ORDER = 10  # of the largest block of the allocator
_MAX_GROUPS = 1 << 10
_MAX_HOMES = 1 << 13
_MAX_PROGRAMS = 4096
_SYNC = 8  # bytes: a program is known from behind the SYNC that it is entered by
_MAX_PAGES = 64  # of one program; the engine's texts have 16
_MASK = (1 << 64) - 1

PLAIN, FREE, USER, OTHER = "driver memory", "free", "user", "other"


@dataclass(frozen=True)
class Kind:
    """What a page is as a place of instructions: its class, its identity, and whether that is beyond doubt.

    ``head`` is the page that holds it, itself if none other does.
    """

    name: str
    identity: tuple[int, int, str]
    head: int
    sure: bool = True


@dataclass(frozen=True)
class Suspicion:
    """A fetch that breaks a rule: the page, or the address of an instruction."""

    rule: Rule
    address: int
    what: str


class _Group:
    """Pages that are looked at together: those of a program, and what holds them.

    :param key: first and last page of the program.
    """

    def __init__(self, kernel: Kernel, key: tuple[int, int], pfns: list[int]) -> None:
        self.pfns = pfns
        self.pages = PageSet(kernel, np.array(pfns, dtype=np.int64))
        self.good: PageFacts | None = None
        self.peeked = b""  # the words that the good facts were made of
        self.start, self.end = key[0] << PAGE_SHIFT, (key[1] + 1) << PAGE_SHIFT


class Fetches:
    """Judges fetches. ``former`` hands the programs on after a re-attach."""

    def __init__(self, kernel: Kernel, setting: Setting, former: Fetches | None = None) -> None:
        self._kernel, self._setting = kernel, setting
        self._programs: dict[int, Program] = {} if former is None else former._programs
        self._homes: dict[int, tuple[int, int]] = {} if former is None else former._homes
        self._groups: dict[tuple[int, int], _Group] = {}
        self._first: dict[int, Kind] = {}  # by page frame, at the first fetch since DMA was switched on
        self._by_page: dict[int, _Group] = {}  # those that were looked at, by page frame
        self._looked: set[_Group] = set()  # in the field under way
        self._low = self._high = 0  # what of it was fetched last
        self._generation = kernel.memory.generation
        self._begin = self._end = -1  # of what was fetched without a jump
        self.looks = 0

    def program(self, program: Program) -> Suspicion | None:
        """A program was decoded: where instructions differ from those that the device is amid of, say so."""
        if len(self._programs) >= _MAX_PROGRAMS:
            self._programs.pop(next(iter(self._programs)))
        found = self._changed(program) if self._begin < program.address <= self._end else None
        self._programs[program.id] = program
        size = min(max(len(program.code), 1), _MAX_PAGES << PAGE_SHIFT)
        first, last = program.address >> PAGE_SHIFT, (program.address + size - 1) >> PAGE_SHIFT
        if len(self._homes) >= _MAX_HOMES:
            self._homes.clear()
        for pfn in range(first, last + 1):
            self._homes[pfn] = first, last
        return found

    def gone(self, program: int) -> None:
        """A program will not run again."""
        self._programs.pop(program, None)

    def forget(self) -> None:
        """DMA is off: memory of programs may be given back, and the next ones may lie anywhere."""
        self._groups.clear()
        self._first.clear()
        self._by_page.clear()
        self.next_field()
        self._begin = self._end = -1

    def next_field(self) -> None:
        """Look again at the next fetch."""
        self._looked.clear()
        self._low = self._high = 0

    def fresh(self, addr: int, length: int) -> bool:
        """Note a fetch; whether its pages are what they were when last found good: nearly always so."""
        end = addr + length
        if not self._begin <= addr <= self._end:
            self._begin = addr
        self._end = end
        if self._low <= addr and end <= self._high:
            return True
        group = self._by_page.get(addr >> PAGE_SHIFT)
        if group is None or end > group.end:
            return False
        if group not in self._looked:
            if group.good is None or self._kernel.memory.generation != self._generation:
                return False
            if group.pages.peek() != group.peeked:
                return False
            self._looked.add(group)
        self._low, self._high = group.start, group.end
        return True

    def look(self, addr: int, length: int) -> list[Suspicion]:
        """Look at the pages of a fetch, and at those of its program."""
        first, last = addr >> PAGE_SHIFT, (addr + max(length, 1) - 1) >> PAGE_SHIFT
        last = min(last, first + _MAX_PAGES)
        low, high = zip(*(self._homes.get(pfn, (pfn, pfn)) for pfn in (first, last)), strict=True)
        key = min(low), max(high)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _MAX_GROUPS:
                self._groups.clear()
                self._by_page.clear()
            group = self._groups[key] = _Group(self._kernel, key, list(range(key[0], key[1] + 1)))
        return [] if group.good is group.pages.sight() else self._judge(group, key)

    def _judge(self, group: _Group, key: tuple[int, int]) -> list[Suspicion]:
        """Read until two reads agree, then compare with the first sight."""
        self.looks += 1
        facts, kinds = self._at_rest(group)
        found: list[Suspicion] = []
        names = page_kinds(self._kernel, facts)
        for row, kind in enumerate(kinds):
            if kind is None:
                continue
            pfn = int(facts.pfn[row])
            rule = self._rule(pfn, kind, pinned=bool(facts.pinned[row]))
            if rule is not None:
                found.append(Suspicion(rule, pfn << PAGE_SHIFT, names[row]))
        heads = {kind.head for kind in kinds if kind is not None}
        if not heads <= set(group.pfns):
            self._groups[key] = _Group(self._kernel, key, sorted(heads | set(group.pfns)))
            return found
        group.good = None
        if not found and facts is group.pages.sight():
            group.good, group.peeked = facts, group.pages.peeked()
        self._looked.add(group)
        self._by_page.update(dict.fromkeys(range(key[0], key[1] + 1), group))
        return found

    def _at_rest(self, group: _Group) -> tuple[PageFacts, list[Kind | None]]:
        """Facts, and the kind of each page; None for those that two looks disagree on."""
        facts, before = group.pages.sight(), self._kinds(group.pages.sight())
        group.pages.read()
        again = group.pages.facts()
        after = self._kinds(again)
        if len(before) != len(after):
            return facts, [None] * len(facts.pfn)
        return again, [kind if kind == old else None for kind, old in zip(after, before, strict=True)]

    def _rule(self, pfn: int, kind: Kind, *, pinned: bool) -> Rule | None:
        """The rule that a fetch from this page breaks."""
        first = self._first.get(pfn)
        if kind.name == FREE and (kind.sure or (first is not None and first.sure)):
            return FETCH_FREE
        if kind.name == FREE:  # no count and no mark at first sight: it may be held in a way of its own
            self._first.setdefault(pfn, kind)
            return None
        if first is None or not first.sure:
            self._first[pfn] = first = kind
        if kind.identity != first.identity or kind.name != first.name:
            return FETCH_REUSED
        if (kind.name == USER and not pinned) or (kind.name == OTHER and kind.identity[2] != "slab page"):
            return FETCH_REUSED
        return None

    def _kinds(self, facts: PageFacts) -> list[Kind | None]:
        """What each page is; None where that cannot be told."""
        plain = unmarked(facts, self._setting)
        buddy = self._setting.is_type(facts, self._setting.buddy_type)
        slab = facts.has(self._setting.slab_bit)
        marked = facts.typed | slab
        names = page_kinds(self._kernel, facts)
        found: list[Kind | None] = []
        for row, pfn in enumerate(facts.pfn.tolist()):
            if not facts.present[row] or facts.torn[row]:
                found.append(None)
            elif buddy[row]:
                found.append(Kind(FREE, (0, 0, ""), pfn))
            elif marked[row]:
                found.append(Kind(OTHER, (0, 0, names[row]), pfn))
            elif facts.refcount[row] == 0:
                found.append(self._uncounted(pfn))
            elif plain[row]:
                found.append(Kind(PLAIN, (0, 0, ""), pfn))
            else:
                identity = 0 if facts.large[row] else int(facts.index[row])
                found.append(Kind(USER, (int(facts.mapping[row]), identity, ""), pfn))
        return found

    def _uncounted(self, pfn: int) -> Kind:
        """A page with a count of 0 and no mark: behind the first of an allocation, or of a free block."""
        if self._linked(pfn):
            return Kind(FREE, (0, 0, ""), pfn)
        heads = sorted(
            {pfn & ~((1 << order) - 1) for order in range(1, _MAX_ORDER + 1)} - {pfn}, reverse=True
        )
        free = Kind(FREE, (0, 0, ""), pfn, sure=False)
        if not heads:
            return free
        pages = PageSet(self._kernel, np.array(heads, dtype=np.int64))
        rows, facts = pages.read(), pages.facts()
        plain = unmarked(facts, self._setting)
        buddy = self._setting.is_type(facts, self._setting.buddy_type)
        for row, head in enumerate(heads):
            if buddy[row]:
                order = int(rows[row, self._kernel.layout.private // 8])
                return Kind(FREE, (0, 0, ""), pfn, sure=order <= 64 and head + (1 << order) > pfn)
            if facts.refcount[row] != 0 or not facts.present[row]:
                held = plain[row] and not facts.large[row] and self._alone(head, pfn)
                return Kind(PLAIN, (0, 0, ""), head) if held else free
            if not facts.typed[row] and self._linked(head):  # nothing that is held can contain a free page
                return Kind(FREE, (0, 0, ""), pfn)
        return free

    def _linked(self, pfn: int) -> bool:
        """Whether a page is in a list, and its neighbours know it: uncounted, it is in one of free pages.

        What has left a list has poison for links (include/linux/list.h), and is nobody's neighbour.
        """
        kernel, reader = self._kernel, Reader.of(self._kernel)
        node = kernel.vmemmap.address(pfn) + kernel.layout.head & _MASK
        try:
            after, before = reader.words(node, 2).tolist()
            return after != node and reader.u64(after + 8) == node == reader.u64(before)
        except GuestReadError:
            return False

    def _alone(self, head: int, pfn: int) -> bool:
        """Whether no page between the two has a count or a mark of its own."""
        between = PageSet(self._kernel, np.arange(head + 1, pfn + 1, dtype=np.int64))
        between.read()
        facts = between.facts()
        return bool(((facts.refcount == 0) & ~facts.typed & ~facts.large).all())

    def _changed(self, program: Program) -> Suspicion | None:
        """Whether a program begins amid another one that is being executed, with other instructions."""
        for other in self._programs.values():
            offset = program.address - other.address
            if other.address <= self._begin + _SYNC and 0 < offset < len(other.code):
                was = other.code[offset : offset + len(program.code)]
                if was != program.code[: len(was)]:
                    return Suspicion(FETCH_CHANGED, program.address, f"program {other.id}")
        return None
