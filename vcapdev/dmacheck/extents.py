# SPDX-License-Identifier: GPL-2.0-or-later
"""What bytes are a buffer's, and which pieces of a program go beyond them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Batch
from vcapdev.guestmm.mediabuffer import MediaBuffer

_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Outside:
    """Pieces that go beyond a buffer, in order: their numbers, and of each the first byte that is outside."""

    pieces: NDArray[np.intp]
    address: _Ints
    subject: str

    def text(self, batch: Batch) -> list[str]:
        """A line of evidence."""
        if not len(self.pieces):
            return []
        piece, first = int(self.pieces[0]), int(self.address[0])
        end = int(batch.addr[piece]) + int(batch.length[piece])
        return [
            f"{len(self.pieces)} of {len(batch.addr)} pieces; the first writes {first:#x} to {end - 1:#x}, "
            f"which is not the buffer's"
        ]


class Extents:
    """The bytes of a buffer as intervals that neither touch nor overlap, ascending.

    ``known`` is False where the framework does not list the pages of all of the buffer.
    """

    def __init__(self, buffer: MediaBuffer) -> None:
        ranges = buffer.ranges()
        ranges = ranges[(ranges[:, 0] >= 0) & (ranges[:, 1] > 0)]
        order = np.argsort(ranges[:, 0], kind="stable")
        start = ranges[order, 0]
        end = np.maximum.accumulate(start + ranges[order, 1]) if len(order) else start
        first = np.ones(len(start), dtype=bool)
        first[1:] = start[1:] > end[:-1]
        last = np.ones(len(start), dtype=bool)
        last[:-1] = first[1:]
        self._start, self._end = start[first], end[last]
        self._pfns = buffer.pfns
        self.known = buffer.complete and bool(len(start)) and not (buffer.pfns < 0).any()

    def outside(
        self, address: NDArray[np.uint64], length: NDArray[np.uint32] | NDArray[np.uint64]
    ) -> Outside:
        """The pieces that are not wholly inside."""
        first, size = address.astype(np.int64), length.astype(np.int64)
        place = np.searchsorted(self._start, first, side="right") - 1
        inside = place >= 0
        limit = np.where(inside, self._end[np.maximum(place, 0)], first) if len(self._end) else first
        begins = inside & (first < limit)
        wrong = np.flatnonzero((size > 0) & ~(begins & (first + size <= limit)))
        beyond = np.where(begins, limit, first)[wrong]
        return Outside(wrong, beyond, self._subject(beyond))

    def _subject(self, beyond: _Ints) -> str:
        if not len(beyond):
            return ""
        own = bool(np.isin(beyond[:1] >> 12, self._pfns)[0])
        where = "beside the buffer, in a page that it shares" if own else "in a page that is not the buffer's"
        return f"DMA write {where}"
