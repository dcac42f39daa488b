# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking at the pages of one batch: cheap while nothing changes, thorough when something does.

A look copies the struct pages out of guest RAM and compares them with those of the last look that was found
good. Only when a word differs that the rules depend on are the pages decoded and judged; only what is then
found bad is read again until it stands still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.ledger import Record
from vcapdev.dmacheck.rules import Codes, Promise, Setting, judge
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import Bools, PageFacts, PageSet, Pfns

_TRIES = 8  # for a page to stand still between two reads
_MOVED_CHECKS = 4  # bad pages whose place in vmemmap is looked up again


@dataclass(slots=True)
class Look:
    """What one thorough look found. ``changed`` are the rows that differ from the look before."""

    facts: PageFacts
    codes: Codes
    changed: NDArray[np.intp]
    moved: bool = False  # the kernel has moved struct pages: the vmemmap table has to be built again

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
        "_promise",
        "_setting",
        "_version",
        "before",
        "count",
        "epoch",
        "facts",
        "pages",
        "record",
        "size",
        "written_version",
    )

    def __init__(
        self, epoch: object, kernel: Kernel, setting: Setting, record: Record, pfns: Pfns, size: int
    ) -> None:
        self.epoch = epoch
        self.record = record
        self.pages = PageSet(kernel, pfns)
        self.count = len(pfns)
        self.size = size
        self.before: Look | None = None
        self.facts: PageFacts | None = None
        self.written_version = -1
        self._kernel = kernel
        self._setting = setting
        self._version = -1
        self._promise: Promise = record.promise(pfns)
        self._good = b""
        self._last: NDArray[np.uint64] | None = None

    def unchanged(self) -> bool:
        """Read the pages; whether they are byte for byte what was last judged good."""
        return self.pages.read().tobytes() == self._good and self._version == self.record.version

    def look(self) -> Look | None:
        """Judge what :meth:`unchanged` has just read; None when no word changed that matters."""
        if self._version != self.record.version:
            self._version, self._good = self.record.version, b""
            self._promise = self.record.promise(self.pages.pfns)
        changed = self._changed()
        if self._good and not len(changed):
            self._remember()
            return None
        facts = self.pages.facts()
        look = Look(facts, judge(facts, self._promise, self._setting), changed)
        if look.bad:
            look = self.restudy(changed)
        self.facts = look.facts
        self._remember(good=not look.bad)
        return look

    def restudy(self, changed: NDArray[np.intp] | None = None) -> Look:
        """Read and judge until two reads in a row agree on everything that matters."""
        rows = np.arange(self.count) if changed is None else changed
        before = self.pages.rows.copy()
        for _ in range(_TRIES):
            after = self.pages.read()
            still = before.shape == after.shape and not ((before ^ after) & self.pages.relevant).any()
            facts = self.pages.facts()
            codes = judge(facts, self._promise, self._setting)
            if still:
                break
            before = self.pages.rows.copy()
        bad = facts.pfn[codes != 0][:_MOVED_CHECKS].tolist()
        moved = not all(self._kernel.vmemmap.still_there(pfn) for pfn in bad)
        return Look(facts, codes, rows, moved)

    def _changed(self) -> NDArray[np.intp]:
        rows = self.pages.rows
        if self._last is None or self._last.shape != rows.shape:
            return np.arange(self.count)
        different: Bools = np.any((rows ^ self._last) & self.pages.relevant, axis=1)
        if different[self.count :].any():  # a head or a pin count: it concerns pages that themselves stayed
            return np.arange(self.count)
        return np.flatnonzero(different)

    def _remember(self, *, good: bool = True) -> None:
        self._last = self.pages.rows.copy()
        self._good = self._last.tobytes() if good else b""
