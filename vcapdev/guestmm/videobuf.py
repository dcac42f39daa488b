# SPDX-License-Identifier: GPL-2.0-or-later
"""The buffers of videobuf on dma-sg (drivers/media/v4l2-core/videobuf-core.c, videobuf-dma-sg.c; until 6.6).

A driver keeps its queues in what it has for each opener. Every queue points to operations that begin with a
magic number, and so does every buffer and everything behind it: what bears the right number is what it seems.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.mediabuffer import KERNEL, MAX_BUFFER_PAGES, MMAP, OVERLAY, USERPTR, MediaBuffer
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE, GuestReadError
from vcapdev.guestmm.scatter import ScatterLists
from vcapdev.guestmm.structs import VIDEO_MAX_FRAME, Structs
from vcapdev.guestmm.words import Reader

_MAGIC_QTYPE_OPS = 0x12261003  # include/media/videobuf-core.h
_MAGIC_BUFFER = 0x20070728
_MAGIC_DMABUF = 0x19721112  # videobuf-dma-sg.c
_MAGIC_SG_MEM = 0x17890714
_DMA_AT = 8  # of the videobuf_dmabuf in videobuf_dma_sg_memory: behind a 32-bit number, aligned to 8

_STATES = ("needs-init", "prepared", "queued", "active", "done", "error", "idle")  # enum videobuf_state
_OWNED = frozenset((2, 3))  # queued, active
_MEMORY = {1: MMAP, 2: USERPTR, 3: OVERLAY}  # enum v4l2_memory
_OPENER_WORDS = 1024  # of what a driver keeps for an opener: two queues and more
_KERNEL_HALF = 0xFFFFFFFF80000000  # where kernel and modules are, and so all operations


class _Known(NamedTuple):
    """A buffer, and the bytes that it was read from."""

    head: bytes
    dma: bytes
    pages: bytes
    buffer: MediaBuffer


class Videobuf:
    """Reads queues and buffers.

    :raise StructError: when the kernel's types do not tell how.
    """

    name = "videobuf"

    def __init__(self, kernel: Kernel) -> None:
        self._reader = Reader.of(kernel)
        structs = Structs.of(kernel)
        self._queue = structs.offsets("videobuf_queue", "bufs", "int_ops", "read_buf")
        self._buffer = structs.offsets(
            "videobuf_buffer", "magic", "size", "state", "memory", "bsize", "baddr", "priv"
        )
        self._dma = structs.offsets(
            "videobuf_dmabuf", "magic", "pages", "vaddr_pages", "bus_addr", "sglist", "sglen", "nr_pages"
        )
        self._kernel, self._lists = kernel, ScatterLists(kernel)
        self._operations: dict[int, bool] = {}
        self._known: dict[int, _Known] = {}

    def queues(self, private: int) -> list[int]:
        """Addresses of the queues that a driver keeps in what it has for an opener."""
        try:
            words = self._reader.words(private, _OPENER_WORDS)
        except GuestReadError:
            return []
        chosen = np.flatnonzero(words >= np.uint64(_KERNEL_HALF))
        return [
            private + 8 * place - self._queue["int_ops"]
            for place, word in zip(chosen.tolist(), words[chosen].tolist(), strict=True)
            if self._is_operations(word)
        ]

    def _is_operations(self, address: int) -> bool:
        known = self._operations.get(address)
        if known is None:
            try:
                known = self._reader.u32(address) == _MAGIC_QTYPE_OPS
            except GuestReadError:
                known = False
            self._operations[address] = known
        return known

    def alive(self, queue: int) -> bool:
        """Whether there still is a queue at this address."""
        operations = self._reader.u64(queue + self._queue["int_ops"])
        return self._operations.get(operations, False) and self._reader.u32(operations) == _MAGIC_QTYPE_OPS

    def buffers(self, queue: int) -> list[MediaBuffer]:
        """The buffers of a queue that have memory to write to; one that makes no sense is left out."""
        first, last = queue + self._queue["bufs"], queue + self._queue["read_buf"]
        slots = [*self._reader.words(first, VIDEO_MAX_FRAME).tolist(), self._reader.u64(last)]
        found = []
        for index, address in enumerate(slots):
            slot = last if index == VIDEO_MAX_FRAME else first + 8 * index
            try:
                buffer = self._of(queue, slot, index, address) if address else None
            except GuestReadError:
                continue
            if buffer is not None:
                found.append(buffer)
        return found

    def numbered(self, queue: int, index: int) -> list[MediaBuffer]:
        """The buffer of a queue that has this number, if it has memory."""
        if not 0 <= index < VIDEO_MAX_FRAME:
            return []
        slot = queue + self._queue["bufs"] + 8 * index
        address = self._reader.u64(slot)
        found = self._of(queue, slot, index, address) if address else None
        return [found] if found is not None else []

    def _of(self, queue: int, slot: int, index: int, address: int) -> MediaBuffer | None:
        reader, at = self._reader, self._buffer
        head = reader.read(address, at["priv"] + 8)
        (memory,) = struct.unpack_from("<Q", head, at["priv"])
        if _u32(head, at["magic"]) != _MAGIC_BUFFER or not memory:
            return None
        dma = reader.read(memory, _DMA_AT + self._dma["nr_pages"] + 8)
        if _u32(dma, 0) != _MAGIC_SG_MEM or _u32(dma, _DMA_AT) != _MAGIC_DMABUF:
            return None
        pages = self._pages(dma[_DMA_AT:])
        known = self._known.get(address)
        if known is not None and known.pages == pages and known.head == head and known.dma == dma:
            return known.buffer
        pfns = self._reader.frames(pages)
        number = -1 if index == VIDEO_MAX_FRAME else index
        buffer = self._make(queue, slot, number, address, memory + _DMA_AT, head, dma[_DMA_AT:], pfns)
        if len(self._known) > 1024:
            self._known.clear()
        self._known[address] = _Known(head, dma, pages, buffer)
        return buffer

    def _pages(self, dma: bytes) -> bytes:
        """The pointers to its pages, as far as they are pages of RAM."""
        array = _u64(dma, self._dma["pages"]) or _u64(dma, self._dma["vaddr_pages"])
        count = min(_u64(dma, self._dma["nr_pages"]), MAX_BUFFER_PAGES)
        if array:
            return self._reader.read(array, 8 * count)
        return self._of_list(_u64(dma, self._dma["sglist"]), min(_u32(dma, self._dma["sglen"]), count))

    def _of_list(self, entries: int, count: int) -> bytes:
        """The same of a scatterlist, where an altered framework keeps no other list."""
        if not entries or not count:
            return b""
        start = self._lists.read(entries, count).memory[:, 0]
        base = self._kernel.vmemmap
        return (np.uint64(base.base) + ((start >> PAGE_SHIFT) * base.page_size).astype(np.uint64)).tobytes()

    def _make(
        self,
        queue: int,
        slot: int,
        index: int,
        address: int,
        dma_at: int,
        head: bytes,
        dma: bytes,
        pfns: NDArray[np.int64],
    ) -> MediaBuffer:
        at = self._buffer
        base, count = _u64(head, at["baddr"]), _u64(dma, self._dma["nr_pages"])
        bus, state = _u64(dma, self._dma["bus_addr"]), _u32(head, at["state"])
        user = base != 0 and not bus and not _u64(dma, self._dma["vaddr_pages"])
        length = _u64(head, at["bsize"]) if user else count * PAGE_SIZE
        memory = _MEMORY.get(_u32(head, at["memory"]), USERPTR) if user else OVERLAY if bus else KERNEL
        offset = base & (PAGE_SIZE - 1) if user else 0
        mapped = _u32(dma, self._dma["sglen"]) > 0 and _u64(dma, self._dma["sglist"]) != 0
        watched = [slot, address + at["baddr"], address + at["bsize"], address + at["priv"]]
        watched += [dma_at + self._dma[name] for name in ("pages", "sglist", "sglen", "nr_pages")]
        return MediaBuffer(
            framework="videobuf", queue=queue, address=address, index=index, plane=0, memory=memory,
            state=state, state_name=_STATES[state] if state < len(_STATES) else f"{state}",
            owned=state in _OWNED, steady=mapped and state != 0, userptr=base if user else 0, length=length,
            offset=offset, pfns=pfns, pinned=user and mapped,
            complete=len(pfns) == (offset + length + PAGE_SIZE - 1) >> PAGE_SHIFT,
            watch=tuple(word & ~7 for word in watched), state_at=address + at["state"],
            extents=np.array([[bus, length]], dtype=np.int64) if memory == OVERLAY else None,
            entries=(_u64(dma, self._dma["sglist"]), _u32(dma, self._dma["sglen"])),
        )  # fmt: skip


def _u32(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", data, offset)[0])


def _u64(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<Q", data, offset)[0])
