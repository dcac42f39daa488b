# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest's IOMMU lets a device reach: mappings that live, and a bounded history of those torn down.

Each map and unmap has a number, and is ordered with the driver's register writes by their count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import MemorySegment
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE

SMALL = 512  # pages; a driver's maps are smaller (a superpage at most), those of RAM as a whole are larger
HISTORY = 1 << 15  # mappings torn down that are remembered: 75 buffers of 432 pages
NO_MEMORY = -1

# What a mapping is of, as its pages looked while it lived.
UNKNOWN = "memory of unknown kind"
STREAMING = "user pages (streaming)"
COHERENT = "coherent memory"
FRAMEWORK = "a kernel buffer (streaming)"
PROGRAM = "a program (coherent)"

_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moment:
    """When a map or unmap was handled: its number among them, and what the driver had written by then."""

    number: int
    writes: int  # register writes of the driver handled before
    last: object  # the latest of them, for whoever can explain it
    seconds: float
    field: int


class Mapping:
    """A range of bus addresses with memory behind it. ``physical`` is NO_MEMORY where that is not RAM."""

    __slots__ = ("fetched", "kind", "made", "physical", "size", "start", "torn", "writable")

    def __init__(self, start: int, size: int, physical: int, writable: bool, made: Moment) -> None:
        self.start, self.size, self.physical, self.writable = start, size, physical, writable
        self.made = made
        self.torn: Moment | None = None
        self.kind = UNKNOWN
        self.fetched = False  # the device has read instructions from it

    @property
    def end(self) -> int:
        return self.start + self.size

    @property
    def what(self) -> str:
        """What it is, or was, a mapping of."""
        return PROGRAM if self.fetched else self.kind

    def behind(self, address: int) -> int:
        """The physical address behind a bus address in it."""
        return NO_MEMORY if self.physical < 0 else self.physical + address - self.start


class Now(Protocol):
    """Gives the moment of a map or unmap."""

    def __call__(self, number: int) -> Moment: ...


class Domain:
    """The mappings of one device; watches a DMA map.

    :param physical: the guest physical address behind a segment, by its descriptor, offset and size; None
        where that is not RAM.
    :param now: the moment, for the map or unmap with this number.
    :param before_unmap: called when mappings are about to end, while their pages are still what they were.
    :ivar version: grows with every change.
    """

    def __init__(
        self,
        physical: Callable[[int, int, int], int | None],
        now: Now,
        before_unmap: Callable[[], None] = lambda: None,
    ) -> None:
        self._physical = physical
        self._now = now
        self._before_unmap = before_unmap
        self._pages: dict[int, Mapping] = {}  # by bus page, of small mappings
        self._large: list[Mapping] = []
        self._torn: deque[Mapping] = deque()
        self._last: dict[int, Mapping] = {}  # by bus page, the mapping that was torn down last
        self.fresh: list[Mapping] = []  # whose kind is not known yet
        self.version = self.maps = self.unmaps = 0

    @property
    def translating(self) -> bool:
        """Whether the device reaches single mappings only, and not all of RAM."""
        return not self._large

    @property
    def live(self) -> list[Mapping]:
        """All mappings that live."""
        return [*self._large, *dict.fromkeys(self._pages.values())]

    # What a DMA map tells its watchers.

    def mapped(self, segment: MemorySegment) -> None:
        """A mapping begins."""
        self.maps += 1
        self.version += 1
        physical = self._physical(segment.fd, segment.fd_offset, segment.size)
        made = self._now(self.maps + self.unmaps)
        start, size = segment.start, segment.size
        mapping = Mapping(start, size, NO_MEMORY if physical is None else physical, segment.writable, made)
        if size > SMALL * PAGE_SIZE:
            self._large.append(mapping)
            return
        for page in range(start >> PAGE_SHIFT, (start + size) >> PAGE_SHIFT):
            self._pages[page] = mapping
        if len(self.fresh) < HISTORY:
            self.fresh.append(mapping)

    def unmapped(self, segments: Sequence[MemorySegment]) -> None:
        """Mappings end, by one unmap."""
        if self.fresh:
            self._before_unmap()
        self.unmaps += 1
        self.version += 1
        torn = self._now(self.maps + self.unmaps)
        for segment in segments:
            mapping = self._pages.get(segment.start >> PAGE_SHIFT)
            if mapping is None:
                self._large = [each for each in self._large if each.start != segment.start]
            else:
                self._end(mapping, torn)

    def clear(self) -> None:
        """Forget everything: the client is gone."""
        self._pages.clear()
        self._last.clear()
        self._torn.clear()
        self._large.clear()
        self.fresh.clear()
        self.version += 1

    def _end(self, mapping: Mapping, torn: Moment) -> None:
        mapping.torn = torn
        pages = range(mapping.start >> PAGE_SHIFT, mapping.end >> PAGE_SHIFT)
        for page in pages:
            self._pages.pop(page, None)
        if self._large:  # a stretch of RAM, from before the guest switched its IOMMU on
            return
        for page in pages:
            self._last[page] = mapping
        self._torn.append(mapping)
        if len(self._torn) > HISTORY:
            old = self._torn.popleft()
            for page in range(old.start >> PAGE_SHIFT, old.end >> PAGE_SHIFT):
                if self._last.get(page) is old:
                    del self._last[page]

    # Looking.

    def now(self) -> Moment:
        """This moment: behind the latest map or unmap."""
        return self._now(self.maps + self.unmaps)

    def at(self, address: int) -> Mapping | None:
        """The live mapping that holds a bus address."""
        found = self._pages.get(address >> PAGE_SHIFT)
        if found is None:
            found = next((each for each in self._large if each.start <= address < each.end), None)
        return found

    def former(self, address: int) -> Mapping | None:
        """The mapping that held a bus address last, where none does now."""
        return self._last.get(address >> PAGE_SHIFT)

    def formerly(self, address: int, most: int) -> list[Mapping]:
        """The last mappings that held a bus address and were torn down, the latest first."""
        found: list[Mapping] = []
        for mapping in reversed(self._torn):
            if mapping.start <= address < mapping.end:
                found.append(mapping)
                if len(found) >= most:
                    break
        return found

    def translate(self, pages: list[int]) -> _Ints:
        """The physical page behind each bus page; NO_MEMORY where none is, or no RAM."""
        get, found = self._pages.get, []
        for page in pages:
            mapping = get(page)
            if mapping is None and self._large:
                mapping = self.at(page << PAGE_SHIFT)
            if mapping is None or mapping.physical < 0:
                found.append(NO_MEMORY)
            else:
                found.append((mapping.physical - mapping.start >> PAGE_SHIFT) + page)
        return np.array(found, dtype=np.int64)

    def bus_pages(self) -> dict[int, int]:
        """Bus page to physical page, of all small mappings of RAM."""
        return {
            page: (mapping.physical - mapping.start >> PAGE_SHIFT) + page
            for page, mapping in self._pages.items()
            if mapping.physical >= 0
        }

    def kinds(self) -> dict[str, int]:
        """How many mappings live, by what they are of."""
        counts: dict[str, int] = {}
        for mapping in self.live:
            if mapping.size <= SMALL * PAGE_SIZE:
                counts[mapping.what] = counts.get(mapping.what, 0) + 1
        return counts
