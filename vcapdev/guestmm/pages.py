# SPDX-License-Identifier: GPL-2.0-or-later
"""What struct pages say, decoded for many pages at once.

A tail of a compound page (THP, hugetlb) says little of itself: state is read from its head, the pin count
from one of the first tails. A :class:`PageSet` therefore reads its pages' *companions* along with them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.layout import MAPPING_ANON, MAPPING_BITS, MAPPING_KSM, PIN_BIAS
from vcapdev.guestmm.vmemmap import Gather, Rows, Vmemmap

T = TypeVar("T")
Bools = NDArray[np.bool_]
Pfns = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PageFacts:
    """One array each, shape ``(n,)``, row ``i`` for page ``pfn[i]``; of compound pages the head's values.

    ``refcount`` and ``mapcount`` are as the kernel stores them (a map count of -1 is "not mapped"; below -1
    it is a page type, then ``typed`` is set). ``pins`` is the number of pins at least; for order 0 it is
    ``refcount // 1024``, as ``folio_maybe_dma_pinned`` sees it. ``torn`` pages could not be resolved: their
    other columns mean nothing.
    """

    pfn: Pfns
    present: Bools
    torn: Bools
    large: Bools
    flags: NDArray[np.uint64]
    mapping: NDArray[np.uint64]
    index: NDArray[np.uint64]
    refcount: NDArray[np.int32]
    mapcount: NDArray[np.int32]
    pins: NDArray[np.int32]
    _found: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def take(self, rows: NDArray[np.intp]) -> PageFacts:
        """The facts of some of the pages, copied."""
        return PageFacts(*(getattr(self, name)[rows] for name in _COLUMNS))

    @classmethod
    def joined(cls, parts: Sequence[PageFacts]) -> PageFacts:
        """The facts of several sets of pages, one behind the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))

    def once(self, what: Hashable, find: Callable[[], T]) -> T:
        """What follows from these facts alone: found out the first time that somebody asks for it."""
        if what not in self._found:
            self._found[what] = find()
        found: T = self._found[what]
        return found

    @property
    def pinned(self) -> Bools:
        """Maybe pinned, as the kernel itself would say."""
        found: Bools = np.greater(self.pins, 0)
        return found

    @property
    def held(self) -> Bools:
        """Pinned, as far as that can be told."""
        return self.once("held", lambda: self.pinned & self.present & ~self.torn)

    @property
    def typed(self) -> Bools:
        """The page carries a page type: free, page table, offline, (since 6.10) slab ..."""
        found: Bools = np.less(self.mapcount, -1)
        return found

    @property
    def anon(self) -> Bools:
        """Anonymous memory, KSM pages included."""
        found: Bools = np.not_equal(self.mapping & np.uint64(MAPPING_ANON), 0)
        return found

    @property
    def ksm(self) -> Bools:
        """Merged by KSM: one page for many readers."""
        found: Bools = np.equal(self.mapping & np.uint64(MAPPING_BITS), MAPPING_KSM)
        return found

    def has(self, bits: int) -> Bools:
        """Pages with any of these flags."""
        found: Bools = np.not_equal(self.flags & np.uint64(bits), 0)
        return found


_COLUMNS = tuple(each.name for each in fields(PageFacts) if each.init)
_NONE = np.int32(-1 << 31)  # no count at all; one that was given back too often is a little below 0
_NO_PAGES: Pfns = np.zeros(0, dtype=np.int64)
_REMEMBERED = 4  # sights of one set: a buffer's pages go to and fro between pinned and released


class PageSet:
    """A set of pages read and decoded together.

    Several may look through one set, each for itself: facts are never written to, and whoever needs ``rows``
    reads and uses them before anybody else has a turn.

    :param pfns: shape ``(n,)``, distinct; kept.
    :ivar good: facts that somebody has found nothing wrong with, for others who would judge them alike.
    :ivar calm: facts in which no page is being written to disk.
    :ivar counted: for whoever counts pages: where these are counted already.
    """

    def __init__(self, kernel: Kernel, pfns: Pfns) -> None:
        self.good: PageFacts | None = None
        self.calm: PageFacts | None = None
        self.counted: object = None
        self._kernel = kernel
        self._vmemmap = kernel.vmemmap
        self.pfns = pfns
        self._heads: Pfns = _NO_PAGES
        self._facts: PageFacts | None = None  # of the rows that were read last
        self._peeked: bytes | None = None  # the same rows' relevant words
        self._sights: dict[bytes, PageFacts] = {}  # by those words
        self.relevant, self._words, single = _words_of(kernel)
        self._use(self._vmemmap.gather(pfns), single)

    def __len__(self) -> int:
        return len(self.pfns)

    def _use(self, gather: Gather, words: NDArray[np.intp]) -> None:
        gather.watch(words)
        self.gather, self.watched = gather, words
        self._sights.clear()
        self.peek = gather.peek  # the relevant words as bytes; nothing is kept

    def read(self) -> Rows:
        """Rows of all pages, then of the companions, as they are now; the array is re-used."""
        self._facts = self._peeked = None
        return self.gather.read()

    def peeked(self) -> bytes:
        """What :meth:`peek` would have given for the rows that were read last."""
        if self._peeked is None:
            self._peeked = self.rows[:, self.watched].tobytes()
        return self._peeked

    def words(self) -> Rows:
        """The same as an array: a row for each page and companion, a column for each word ``watched``."""
        return np.frombuffer(self.peeked(), dtype=np.uint64).reshape(-1, len(self.watched))

    def sight(self) -> PageFacts:
        """The facts as they are now: the very object of a former time where no relevant word differs.

        Nothing is copied to ``rows`` then.
        """
        peeked = self.peek()
        if peeked != self._peeked or self._facts is None:
            facts = self._sights.get(peeked)
            if facts is None:
                self.read()
                return self.facts()
            self._facts, self._peeked = facts, peeked
        return self._facts

    @property
    def rows(self) -> Rows:
        """What :meth:`read` has copied last; the first ``len(self)`` rows are the pages' own."""
        return self.gather.rows

    def facts(self) -> PageFacts:
        """Decode what was read last. Reads anew when a page has become part of a compound page since."""
        if self._facts is None:
            self._facts = self._sights.get(self.peeked())
        if self._facts is None:
            self._facts = self._decoded()
            self._remember(self._facts)
        return self._facts

    def _remember(self, facts: PageFacts) -> None:
        """Of compound pages what :meth:`peek` reads shows each change, but not enough to know them again."""
        if facts.large.any():
            return
        if len(self._sights) >= _REMEMBERED:
            self._sights.pop(next(iter(self._sights)))
        self._sights[self.peeked()] = facts

    def _decoded(self) -> PageFacts:
        layout, n = self._kernel.layout, len(self.pfns)
        own = self.gather.rows[:n]
        head_bit = np.uint64(self._kernel.flags.bit("head"))
        tail = (own[:, layout.head // 8] & np.uint64(1)) != 0
        large = (tail | ((own[:, layout.flags // 8] & head_bit) != 0)) & self.gather.present[:n]
        if not large.any():
            return self._decode(own, large, np.zeros(n, dtype=bool), None)
        heads = np.where(
            tail, head_pfns(self._vmemmap, layout.head_is_mask, self.pfns, own, layout.head), self.pfns
        )
        if not among(heads[large], self._heads).all():
            self._adopt(np.unique(heads[large]))
        return self._compound(heads, large)

    def _adopt(self, heads: Pfns) -> None:
        """Read these heads, their pin counts and orders along from now on."""
        layout = self._kernel.layout
        pin_row = layout.pins.row if layout.pins else 0
        order_row = layout.order[0] if layout.order else 0
        self._heads = heads
        companions = np.concatenate([self.pfns, heads, heads + pin_row, heads + order_row])
        self._use(self._vmemmap.gather(companions), self._words)
        self.read()

    def _compound(self, heads: Pfns, large: Bools) -> PageFacts:
        n, k = len(self.pfns), len(self._heads)
        which = np.minimum(np.searchsorted(self._heads, heads), k - 1)
        known = self._heads[which] == heads
        rows, present = self.gather.rows, self.gather.present
        effective = np.where(large & known, n + which, np.arange(n))
        state = rows[effective]
        link = state[:, self._kernel.layout.head // 8]
        torn = large & (~known | ~present[effective] | ((link & np.uint64(1)) != 0))
        return self._decode(state, large, torn, self._separate_pins(which, n, k))

    def _separate_pins(self, which: NDArray[np.intp], n: int, k: int) -> NDArray[np.int32] | None:
        """Pin counts of the pages' heads; _NONE where the head's order is too small to have one."""
        layout = self._kernel.layout
        if layout.pins is None:
            return None
        counts = _int32(self.gather.rows[n + k : n + 2 * k], layout.pins.offset)
        if layout.pins.first_order > 1 and layout.order is not None:
            row, byte = self.gather.rows[n + 2 * k :], layout.order[1]
            order = (row[:, byte // 8] >> np.uint64(8 * (byte % 8))) & np.uint64(0xFF)
            counts = np.where(order >= layout.pins.first_order, counts, _NONE)
        return counts[which]

    def _decode(
        self, state: Rows, large: Bools, torn: Bools, separate: NDArray[np.int32] | None
    ) -> PageFacts:
        layout = self._kernel.layout
        refcount = _int32(state, layout.refcount)
        pins = refcount // PIN_BIAS
        if separate is not None:
            pins = np.where(large & (separate != _NONE), separate, pins)
        return PageFacts(
            pfn=self.pfns,
            present=self.gather.present[: len(self.pfns)],
            torn=torn,
            large=large,
            flags=state[:, layout.flags // 8] & np.uint64(self._kernel.flags.mask),
            mapping=state[:, layout.mapping // 8].copy(),
            index=state[:, layout.index // 8].copy(),
            refcount=refcount,
            mapcount=self._map_counts(state, large),
            pins=pins,
        )

    def _map_counts(self, state: Rows, large: Bools) -> NDArray[np.int32]:
        """As the kernel stores them, but for hugetlb pages: they are a user's, in spite of their page type.

        They carry one since Linux 6.9 (commit d99e3140a4d3); before, there is -1 in the place of the count.
        """
        counts = _int32(state, self._kernel.layout.mapcount)
        types = self._kernel.types
        hugetlb = types.values.get("hugetlb")
        if hugetlb is None or not large.any():
            return counts
        mask = np.uint32(0xFF000000 if types.top_byte else 0xFFFFFFFF)
        typed = large & (counts.view(np.uint32) & mask == np.uint32(hugetlb))
        return np.where(typed, np.int32(-1), counts)


def _words_of(kernel: Kernel) -> tuple[NDArray[np.uint64], NDArray[np.intp], NDArray[np.intp]]:
    """The mask of :func:`relevant_words`, the words it has bits in, and those to watch of single pages.

    Whether a page is a tail shows in its reference count as well, and the word that tells it is a list link
    of all other pages, which changes all the time.
    """
    if "words" not in kernel.cache:
        mask = relevant_words(kernel)
        words = np.flatnonzero(mask)
        kernel.cache["words"] = (mask, words, words[words != kernel.layout.head // 8])
    found: Any = kernel.cache["words"]
    return found[0], found[1], found[2]


def relevant_words(kernel: Kernel) -> NDArray[np.uint64]:
    """Mask over a row of what facts depend on: list links, memcg and the like change all the time."""
    layout = kernel.layout
    mask = np.zeros(layout.size // 8, dtype=np.uint64)
    mask[layout.flags // 8] = kernel.flags.mask
    mask[layout.head // 8] |= np.uint64(1)
    for offset in (layout.mapping, layout.index):
        mask[offset // 8] = np.uint64(0xFFFFFFFFFFFFFFFF)
    for offset in (layout.mapcount, layout.refcount):
        mask[offset // 8] |= np.uint64(0xFFFFFFFF << (8 * (offset % 8)))
    return mask


def among(some: Pfns, all_: Pfns) -> Bools:
    """Which of ``some`` are in ``all_``, which is sorted."""
    if not len(all_):
        return np.zeros(len(some), dtype=bool)
    found: Bools = all_[np.minimum(np.searchsorted(all_, some), len(all_) - 1)] == some
    return found


def head_pfns(vmemmap: Vmemmap, is_mask: bool, pfns: Pfns, rows: Rows, head: int) -> Pfns:
    """Page frame of the head that each tail names; -1 where it cannot be one."""
    word = rows[:, head // 8] - np.uint64(1)
    if is_mask:
        shift = vmemmap.page_size.bit_length() - 1
        return pfns & (word >> np.uint64(shift)).astype(np.int64)
    distance = word - np.uint64(vmemmap.base & 0xFFFFFFFFFFFFFFFF)
    inside = (distance < np.uint64(vmemmap.pages * vmemmap.page_size)) & (
        distance % np.uint64(vmemmap.page_size) == 0
    )
    return np.where(inside, (distance // np.uint64(vmemmap.page_size)).astype(np.int64), np.int64(-1))


def _int32(rows: Rows, offset: int) -> NDArray[np.int32]:
    """A 32-bit member of each row."""
    word = rows[:, offset // 8]
    return (word >> np.uint64(32) if offset % 8 else word).astype(np.uint32).view(np.int32)
