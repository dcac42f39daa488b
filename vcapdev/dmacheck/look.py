# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking at the pages of one batch: cheap while nothing changes, thorough when something does.

A look copies out of guest RAM those words of the struct pages that the rules depend on, and compares them
with the last look that was found good. Only when one differs are the pages read in full, decoded and judged;
only what is then found bad is read again until it stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.ledger import Record
from vcapdev.dmacheck.rules import USER, Codes, Promise, Setting, certain_alone, judge
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.layout import PIN_BIAS
from vcapdev.guestmm.pages import Bools, PageFacts, PageSet, relevant_words
from vcapdev.guestmm.peeks import Peeks, Spots
from vcapdev.guestmm.vmemmap import Rows

_TRIES = 8  # for a page to stand still between two reads
_MOVED_CHECKS = 4  # bad pages whose place in vmemmap is looked up again
_FEW = 128  # changed words up to which one by one is quicker than all at once

# Flags that come and go on a pinned page and that no rule and no oddity asks for.
_FLEETING = ("locked", "referenced", "uptodate", "lru", "active", "workingset", "waiters", "reclaim", "dirty")


class Material:
    """Tells which changed words of a struct page can matter, for pages pinned by their reference count.

    Reclaim isolates pages, takes references and sets flags all the time; while the number of pins stays what
    it was, nothing that a rule asks for has changed.
    """

    def __init__(self, kernel: Kernel) -> None:
        layout = kernel.layout
        self._relevant: list[int] = relevant_words(kernel).tolist()
        self._count = layout.refcount // 8
        self._shift = 8 * (layout.refcount % 8)
        fleeting = sum(kernel.flags.bit(name) for name in _FLEETING)
        self._relevant[layout.flags // 8] &= ~fleeting

    def none(self, watched: NDArray[np.intp], places: NDArray[np.intp], now: Rows, before: Rows) -> bool:
        """Whether none of the changed words matters.

        :param watched: which word of a struct page each column holds.
        :param places: their numbers in the flattened rows.
        """
        words = watched.tolist()
        new, old = now.ravel()[places].tolist(), before.ravel()[places].tolist()
        counts = now[places // len(words), words.index(self._count)].tolist()
        for place, a, b, count in zip(places.tolist(), new, old, counts, strict=True):
            word = words[place % len(words)]
            difference = (a ^ b) & self._relevant[word]
            if not difference:
                continue
            pins = (count >> self._shift & 0xFFFFFFFF) // PIN_BIAS
            if word == self._count:
                difference &= ~(0xFFFFFFFF << self._shift)  # what shares the word: the map count
                difference |= pins ^ (b >> self._shift & 0xFFFFFFFF) // PIN_BIAS
            if difference or not 0 < pins < 1 << 20:
                return False
        return True


@dataclass(slots=True)
class Look:
    """What one thorough look found. ``changed`` are the rows that differ from the look before."""

    facts: PageFacts
    codes: Codes
    changed: NDArray[np.intp]
    moved: bool = False  # the kernel has moved struct pages: the vmemmap table has to be built again
    unsure: bool = False  # some pages could not be judged: unreadable, or bad but never at rest

    @property
    def bad(self) -> bool:
        """Whether any page breaks a rule."""
        return bool(self.codes.any())


class BatchPages:
    """The distinct pages of one batch, and what they were when last looked at."""

    __slots__ = (
        "_good",
        "_kernel",
        "_last",
        "_material",
        "_promise",
        "_rests",
        "_still",
        "_stillness",
        "_version",
        "_watch",
        "before",
        "count",
        "epoch",
        "facts",
        "field",
        "first",
        "pages",
        "partial",
        "record",
        "setting",
        "size",
        "watch",
        "written_version",
    )

    def __init__(
        self, epoch: object, kernel: Kernel, setting: Setting, record: Record, pages: PageSet, size: int
    ) -> None:
        self._material = material_of(kernel)
        self.epoch = epoch
        self.record = record
        self.pages = pages
        self.count = len(pages)
        self.size = size
        self.partial = False  # whether there were too many to look at all
        self.before: Look | None = None
        self.facts: PageFacts | None = None
        self.first: PageFacts | None = None  # the facts as of before the bytes moved
        self.written_version = self.field = -1
        self._kernel = kernel
        self.setting = setting
        self._version = -1
        self._promise: Promise = record.promise(pages.pfns)
        self._good = b""
        self._last: Rows | None = None  # the words that were looked at last
        self._still: Peeks | None = None  # at all that tells that nothing at all has changed
        self._stillness = b""
        self._rests = 0
        self._watch: object = None
        self.watch: object = None  # who watches at this write what is beside the pages

    def fresh(self, epoch: object) -> bool:
        """Whether what was made ready still holds."""
        return self.epoch is epoch and self.record.learned

    def unchanged(self) -> bool:
        """Whether all that matters of the pages is byte for byte what was last judged good."""
        return self._version == self.record.version and self.pages.peek() == self._good

    def still(self) -> bool:
        """Whether nothing has changed since :meth:`rest`, of the pages and of what was watched beside."""
        if self._still is None or self._watch is not self.watch or self._version != self.record.version:
            return False
        return self._still.peek() == self._stillness

    def rest(self, watch: object, others: Sequence[tuple[Spots | None, bytes]]) -> None:
        """All is as it was judged good.

        :param watch: who watches what is beside the pages.
        :param others: where that is, and the words there.
        """
        self._rests += 1
        if self._rests < 2:  # many a program runs but once
            return
        self._watch = watch
        self._stillness = b"".join([self._good, *(words for _, words in others)])
        self._still = Peeks.of([self.pages.gather.spots, *(spots for spots, _ in others)])

    def look(self) -> Look | None:
        """Read and judge; None when no word changed that matters."""
        if self._version != self.record.version:
            self._version, self._good = self.record.version, b""
            self._promise = self.record.promise(self.pages.pfns)
        if self._good:
            self.pages.read()
            if self._immaterial():
                self._remember()
                return None
            facts = self.pages.facts()
        else:
            facts = self.pages.sight()  # where the program was just learnt, a peek tells that it holds still
            if facts is self.pages.good and self._as_seen(facts):
                self.facts = facts
                self._remember()
                return None  # the program of the other field has been here
        changed = self._changed()
        look = Look(facts, judge(facts, self._promise, self.setting), changed)
        if look.bad or facts.torn.any():
            look = self.restudy(changed)
        self.facts = look.facts
        good = not look.bad and not look.unsure
        self.pages.good = look.facts if good and self._as_seen(look.facts) else None
        self._remember(good=good)
        return look

    def _as_seen(self, facts: PageFacts) -> bool:
        """Whether all that was promised is that user pages stay what these facts say."""
        promise = self._promise
        return promise.mapping is facts.mapping and promise.index is facts.index and promise.kind == USER

    def _immaterial(self) -> bool:
        """Whether what was read now differs from what was found good in nothing that matters."""
        now, last = self.pages.words(), self._last
        if last is None or last.shape != now.shape:
            return False
        places = np.flatnonzero(now.ravel() != last.ravel())
        return len(places) <= _FEW and self._material.none(self.pages.watched, places, now, last)

    def restudy(self, changed: NDArray[np.intp] | None = None) -> Look:
        """Read and judge until two reads in a row agree on everything that matters.

        A page that never comes to rest is not judged: no rule is certain of it.
        """
        rows = np.arange(self.count) if changed is None else changed
        before = self.pages.rows.copy()
        for _ in range(_TRIES):
            after = self.pages.read()
            facts = self.pages.facts()
            restless = self._restless(before, after, facts)
            if not restless.any():
                break
            before = self.pages.rows.copy()
        codes = judge(facts, self._promise, self.setting)
        unsure = facts.torn | (restless & (codes != 0))
        suspects = facts.pfn[(codes != 0) | facts.torn][:_MOVED_CHECKS].tolist()
        codes[restless] = 0
        moved = not all(self._kernel.vmemmap.still_there(pfn) for pfn in suspects)
        return Look(facts, codes, rows, moved, bool(unsure.any()))

    def _restless(self, before: Rows, after: Rows, facts: PageFacts) -> Bools:
        """Pages that differ between two reads, in themselves or in the head that ``facts`` are of."""
        if before.shape != after.shape or after.shape != self.pages.rows.shape:
            return np.ones(self.count, dtype=bool)
        different: Bools = np.any((before ^ after) & self.pages.relevant, axis=1)
        return different[: self.count] | (facts.large & bool(different[self.count :].any()))

    def _changed(self) -> NDArray[np.intp]:
        now = self.pages.words()
        if self._last is None or self._last.shape != now.shape:
            return np.arange(self.count)
        relevant = self.pages.relevant[self.pages.watched]
        different: Bools = np.any((now ^ self._last) & relevant, axis=1)
        if different[self.count :].any():  # a head or a pin count: it concerns pages that themselves stayed
            return np.arange(self.count)
        return np.flatnonzero(different)

    def _remember(self, *, good: bool = True) -> None:
        self._last = self.pages.words()
        self._still, self._rests = None, 0
        self._good = self.pages.peeked() if good else b""


def material_of(kernel: Kernel) -> Material:
    """The kernel's :class:`Material`, made once."""
    found = kernel.cache.get("material")
    if not isinstance(found, Material):
        found = kernel.cache["material"] = Material(kernel)
    return found


def weigh(before: Look | None, after: Look | None, count: int) -> tuple[Codes, int]:
    """What is certain from the looks before and after a write.

    :return: the code of the rule that each page certainly broke (0: none), and how many pages were bad at one
        look only, under a rule that takes two.
    """
    none = np.zeros(count, dtype=np.uint8)
    first = before.codes if before is not None else none
    second = after.codes if after is not None else none
    certain = certain_alone(first) | certain_alone(second) | ((first != 0) & (second != 0))
    codes = np.where(certain, np.where(certain_alone(first), first, second), none)
    passing = ((first != 0) | (second != 0)) & ~certain
    return codes, int(np.count_nonzero(passing))
