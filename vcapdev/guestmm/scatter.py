# SPDX-License-Identifier: GPL-2.0-or-later
"""Scatterlists: the pieces of memory of a buffer, for the kernel and for the device (lib/scatterlist.c)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE
from vcapdev.guestmm.structs import StructError, Structs
from vcapdev.guestmm.words import Reader

_CHAIN, _END = 1, 2  # low bits of scatterlist.page_link
_MAX_ENTRIES = 1 << 14
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scatter:
    """Physical start and length of each piece, and where the device finds it; shape ``(n, 2)`` each."""

    memory: _Ints
    bus: _Ints


class ScatterLists:
    """Reads them.

    :raise StructError: when the kernel's types do not tell how.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._reader = Reader.of(kernel)
        structs = Structs.of(kernel)
        self._at = structs.offsets("scatterlist", "page_link", "offset", "length", "dma_address")
        self._size = structs.size("scatterlist")
        self._chunk = PAGE_SIZE // self._size  # entries of one part of a list that is chained
        try:  # only with CONFIG_NEED_SG_DMA_LENGTH; it differs from the other where pieces were merged
            self._dma_length = structs.offsets("scatterlist", "dma_length")["dma_length"]
        except StructError:
            self._dma_length = self._at["length"]

    def read(self, first: int, count: int) -> Scatter:
        """A list of ``count`` entries, which may be in several parts that are chained.

        :raise GuestReadError: when it leads nowhere.
        """
        parts: list[NDArray[np.uint64]] = []
        left, place, width = min(count, _MAX_ENTRIES), first, self._size // 8
        for _ in range(_MAX_ENTRIES):
            if left <= 0 or not place:
                break
            rows = self._reader.words(place, min(left, self._chunk) * width).reshape(-1, width)
            link = rows[:, self._at["page_link"] // 8]
            chained = np.flatnonzero(link & np.uint64(_CHAIN))
            if len(chained):
                place = int(link[chained[0]]) & ~(_CHAIN | _END)
                rows = rows[: chained[0]]
            else:
                place += len(rows) * self._size
            parts.append(rows)
            left -= len(rows)
        table = np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.uint64)
        return Scatter(self._memory(table), self._bus(table))

    def _memory(self, table: NDArray[np.uint64]) -> _Ints:
        pfns = self._reader.pfns(table[:, self._at["page_link"] // 8] & ~np.uint64(_CHAIN | _END))
        start = (pfns << PAGE_SHIFT) + _u32(table, self._at["offset"])
        return np.stack([np.where(pfns < 0, np.int64(-1), start), _u32(table, self._at["length"])], axis=1)

    def _bus(self, table: NDArray[np.uint64]) -> _Ints:
        start = table[:, self._at["dma_address"] // 8].astype(np.int64)
        return np.stack([start, _u32(table, self._dma_length)], axis=1)


def _u32(table: NDArray[np.uint64], offset: int) -> _Ints:
    """A 32-bit member of each row."""
    word = table[:, offset // 8] >> np.uint64(32 if offset % 8 else 0)
    return (word & np.uint64(0xFFFFFFFF)).astype(np.int64)
