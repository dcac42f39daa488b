# SPDX-License-Identifier: GPL-2.0-or-later
"""What videobuf2's allocators know of the memory of a plane: videobuf2-dma-sg, -dma-contig and -vmalloc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.mediabuffer import DMABUF, MAX_BUFFER_PAGES, USERPTR
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE
from vcapdev.guestmm.scatter import ScatterLists
from vcapdev.guestmm.structs import StructError, Structs
from vcapdev.guestmm.words import Reader

_MAX_SIZE = MAX_BUFFER_PAGES << PAGE_SHIFT
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PlaneMemory:
    """The page frames in order; ``extents`` where a scatterlist or a bus address says it all,
    ``entries`` address and number of the scatterlist's entries.

    ``mapped``: for DMA, at this moment. ``watch`` are the addresses of the words that it rests on.
    """

    pfns: _Ints
    mapped: bool
    watch: tuple[int, ...]
    extents: _Ints | None = None
    entries: tuple[int, int] = (0, 0)


class Allocators:
    """Reads the private data of each allocator that writes to, or pins, pages of memory."""

    def __init__(self, kernel: Kernel) -> None:
        self._reader, self._structs = Reader.of(kernel), Structs.of(kernel)
        self._lists = ScatterLists(kernel)
        self._readers: dict[str, Callable[[int, str], PlaneMemory | None]] = {
            "dma_sg": self._dma_sg,
            "dma_contig": self._dma_contig,
            "vmalloc": self._vmalloc,
        }

    def kind(self, name: str) -> str:
        """The allocator that a module, or a symbol of its operations, belongs to; empty when unknown."""
        names = (kind for kind in self._readers if name in (f"videobuf2_{kind}", f"vb2_{kind}_memops"))
        return next(names, "")

    def read(self, kind: str, private: int, memory: str) -> PlaneMemory | None:
        """The memory behind a plane's ``mem_priv``; None where it has none now, or cannot be understood.

        :raise GuestReadError: when it leads nowhere.
        """
        reader = self._readers.get(kind)
        try:
            return None if reader is None else reader(private, memory)
        except StructError:
            return None

    def _dma_sg(self, private: int, memory: str) -> PlaneMemory | None:
        names = ("pages", "dma_sgt", "size", "num_pages")
        at = self._structs.offsets("vb2_dma_sg_buf", *names)
        watch = tuple(private + at[name] for name in names)
        table = self._reader.u64(private + at["dma_sgt"])
        if memory == DMABUF:
            return self._of_table(table, watch)
        count = min(self._reader.u32(private + at["num_pages"]), MAX_BUFFER_PAGES)
        pages = self._reader.u64(private + at["pages"])
        if not pages or not count:
            return None
        pfns = self._reader.frames(self._reader.read(pages, 8 * count))
        return PlaneMemory(pfns, self._mapped(table), watch, entries=self._entries(table))

    def _dma_contig(self, private: int, memory: str) -> PlaneMemory | None:
        names = ("dma_addr", "size", "dma_sgt", "vec")
        at = self._structs.offsets("vb2_dc_buf", *names)
        watch = tuple(private + at[name] for name in names)
        table = self._reader.u64(private + at["dma_sgt"])
        if memory == USERPTR:
            pfns = self._frames(self._reader.u64(private + at["vec"]))
            return None if pfns is None else PlaneMemory(pfns, self._mapped(table), watch)
        start = self._reader.u64(private + at["dma_addr"])
        size = min(self._reader.u64(private + at["size"]), _MAX_SIZE)
        if not start or not size or start >> 52:
            return None
        pfns = np.arange(start >> PAGE_SHIFT, (start + size + PAGE_SIZE - 1) >> PAGE_SHIFT, dtype=np.int64)
        return PlaneMemory(pfns, True, watch, np.array([[start, size]], dtype=np.int64))

    def _vmalloc(self, private: int, memory: str) -> PlaneMemory | None:
        """Nothing that a device writes to, but pins all the same."""
        at = self._structs.offsets("vb2_vmalloc_buf", "vec")
        pfns = self._frames(self._reader.u64(private + at["vec"])) if memory == USERPTR else None
        return None if pfns is None else PlaneMemory(pfns, True, (private + at["vec"],))

    def _frames(self, vector: int) -> _Ints | None:
        """The pages of a ``struct frame_vector``, where they are pinned pages and not mere numbers."""
        if not vector:
            return None
        at = self._structs.offsets("frame_vector", "nr_frames", "got_ref", "ptrs")
        count = min(self._reader.u32(vector + at["nr_frames"]), MAX_BUFFER_PAGES)
        # bool got_ref, is_pfns: two bytes, one behind the other
        flags = self._reader.read(vector + at["got_ref"], 2)
        if not flags[0] or flags[1] or not count:
            return None
        return self._reader.frames(self._reader.read(vector + at["ptrs"], 8 * count))

    def _mapped(self, table: int) -> bool:
        """Whether a ``struct sg_table`` has a list: it loses it before the pins are given back."""
        return bool(table) and self._reader.u64(table + self._structs.offsets("sg_table", "sgl")["sgl"]) != 0

    def _of_table(self, table: int, watch: tuple[int, ...]) -> PlaneMemory | None:
        """Pages of a ``struct sg_table``."""
        entries = self._entries(table)
        if not entries[0]:
            return None
        extents = self._lists.read(*entries).memory
        return PlaneMemory(_pages_of(extents), True, watch, extents, entries) if len(extents) else None

    def _entries(self, table: int) -> tuple[int, int]:
        """Address and number of the entries of a ``struct sg_table``; zeroes when it has none."""
        at = self._structs.offsets("sg_table", "sgl", "orig_nents")
        return (
            (self._reader.u64(table + at["sgl"]), self._reader.u32(table + at["orig_nents"]))
            if table
            else (0, 0)
        )


def _pages_of(extents: _Ints) -> _Ints:
    """The page frames of pieces of memory, in order, at most so many."""
    found = [
        np.arange(start >> PAGE_SHIFT, (start + max(length, 1) - 1 >> PAGE_SHIFT) + 1, dtype=np.int64)
        for start, length in extents.tolist()
        if 0 <= length <= _MAX_SIZE
    ]
    return np.concatenate(found)[:MAX_BUFFER_PAGES] if found else np.zeros(0, dtype=np.int64)
