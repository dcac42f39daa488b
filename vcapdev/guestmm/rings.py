# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that are registered with io_uring as buffers: it holds a pin on each of its own (io_uring/rsrc.c).

A ring is an open file with io_uring's operations. Its buffers are pointers (5.13, commit 41edf1a5ec96) or an
array before, and entries of a table since 6.13.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.btf import BtfError, Kind
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import GuestReadError
from vcapdev.guestmm.structs import StructError, Structs
from vcapdev.guestmm.words import Reader

_MAX_BUFFERS = 1 << 12  # of one ring
_MAX_PAGES = 1 << 14  # of one buffer


class Rings:
    """Reads the registered buffers of rings. ``operations`` are io_uring's, 0 where they are not known."""

    def __init__(self, kernel: Kernel) -> None:
        self._reader, self._btf = Reader.of(kernel), kernel.btf
        self.operations = kernel.symbols.address("io_uring_fops") or 0
        try:
            self._find(Structs.of(kernel))
        except (StructError, BtfError):
            self.operations = 0

    def _find(self, structs: Structs) -> None:
        self._table = self._btf.offset("io_ring_ctx", "buf_table")
        if self._table is not None:
            self._nodes = structs.offsets("io_rsrc_data", "nr", "nodes")
            self._buffer_of = structs.offsets("io_rsrc_node", "buf")["buf"]
        else:
            self._context = structs.offsets("io_ring_ctx", "nr_user_bufs", "user_bufs")
        self._mapped = structs.offsets("io_mapped_ubuf", "nr_bvecs", "bvec")
        self._page = structs.offsets("bio_vec", "bv_page")["bv_page"]
        self._mapped_size, self._piece = structs.size("io_mapped_ubuf"), structs.size("bio_vec")
        self._double = self._points_twice()

    def _points_twice(self) -> bool:
        """Whether ``user_bufs`` is an array of pointers."""
        place = self._btf.place("io_ring_ctx", "user_bufs")
        if place is None:
            return False
        first = self._btf.resolve(place.type_id)
        return first.kind == Kind.PTR and self._btf.resolve(first.ref).kind == Kind.PTR

    def pages(self, context: int) -> list[NDArray[np.int64]]:
        """The page frames of all buffers of a ring, one pin each; what cannot be read is left out."""
        found = []
        try:
            for buffer in self._buffers(context):
                pfns = self._pages_of(buffer)
                if pfns is not None:
                    found.append(pfns)
        except GuestReadError:
            pass
        return found

    def _buffers(self, context: int) -> Iterator[int]:
        """Addresses of ``struct io_mapped_ubuf``."""
        read = self._reader
        if self._table is not None:
            at = context + self._table
            nodes = self._pointers(read.u64(at + self._nodes["nodes"]), read.u32(at + self._nodes["nr"]))
            yield from (read.u64(node + self._buffer_of) for node in nodes)
            return
        count = read.u32(context + self._context["nr_user_bufs"])
        first = read.u64(context + self._context["user_bufs"])
        if self._double:
            yield from self._pointers(first, count)
        elif first:
            yield from (first + i * self._mapped_size for i in range(min(count, _MAX_BUFFERS)))

    def _pointers(self, array: int, count: int) -> list[int]:
        words = self._reader.words(array, min(count, _MAX_BUFFERS)) if array else np.zeros(0, np.uint64)
        return [word for word in words.tolist() if word]

    def _pages_of(self, buffer: int) -> NDArray[np.int64] | None:
        count = self._reader.u32(buffer + self._mapped["nr_bvecs"])
        if not 0 < count <= _MAX_PAGES:
            return None
        first = buffer + self._mapped["bvec"]
        if not self._double and self._table is None:
            first = self._reader.u64(first)  # a pointer, not the array itself
        words = self._reader.words(first, count * self._piece // 8).reshape(count, -1)
        return self._reader.pfns(words[:, self._page // 8])
