# SPDX-License-Identifier: GPL-2.0-or-later
"""The buffers of videobuf2 (drivers/media/common/videobuf2/videobuf2-core.c and its allocators).

A video device names its queue; a memory-to-memory device has two for each opener. What a plane's memory looks
like is the allocator's own affair: which one it is, the module of its operations tells.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.mediabuffer import DMABUF, MMAP, USERPTR, MediaBuffer
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE, GuestReadError
from vcapdev.guestmm.modulelist import ModuleList
from vcapdev.guestmm.planes import Allocators, PlaneMemory
from vcapdev.guestmm.structs import StructError, Structs
from vcapdev.guestmm.words import Reader

_INLINE = 32  # VB2_MAX_FRAME, as long as the queue held the array itself
_MAX_BUFFERS = 1024  # of one queue; a driver may allow more than 32 since 6.8
_MAX_PLANES = 8  # VB2_MAX_PLANES
_MEMORY = {1: MMAP, 2: USERPTR, 4: DMABUF}  # enum vb2_memory
_STATE = "VB2_BUF_STATE_"
_OWNED = "active"
_STEADY = frozenset(("queued", "active", "done", "error"))  # neither pinned nor released just now


class Vb2:
    """Reads queues and buffers.

    :raise StructError: when the kernel's types do not tell how (the modules may not be loaded yet).
    """

    name = "vb2"

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._reader = kernel, Reader.of(kernel)
        structs = self._structs = Structs.of(kernel)
        self._handle = structs.offsets("v4l2_fh", "vdev")
        self._device = structs.offsets("video_device", "queue")
        self._queue = structs.offsets("vb2_queue", "bufs", "mem_ops", "ops")
        self._inline = structs.is_array("vb2_queue", "bufs")
        self._count = (
            None if self._inline else structs.offsets("vb2_queue", "max_num_buffers")["max_num_buffers"]
        )
        names = ("vb2_queue", "index", "memory", "num_planes", "state", "planes")
        self._buffer = structs.offsets("vb2_buffer", *names)
        self._plane = structs.offsets("vb2_plane", "mem_priv", "length", "m.userptr")
        self._plane_size = structs.size("vb2_plane")
        self._head_size = structs.size("vb2_buffer")
        values = structs.enumerators("vb2_buffer_state")
        self._states = {v: k.removeprefix(_STATE).lower().replace("_", "-") for k, v in values.items()}
        self._modules = ModuleList(kernel)
        self._allocators = Allocators(kernel)
        self._of_ops: dict[int, str] = {}
        self._slots = _INLINE if self._inline else _MAX_BUFFERS

    def queues(self, private: int) -> list[int]:
        """Addresses of the queues that an opener of a video device can use; ``private`` is its handle."""
        found = []
        for address in self._candidates(private):
            try:
                if address and self.alive(address):
                    found.append(address)
            except GuestReadError:
                continue
        return found

    def _candidates(self, private: int) -> Iterator[int]:
        try:
            device = self._reader.u64(private + self._handle["vdev"])
            yield self._reader.u64(device + self._device["queue"])
        except GuestReadError:
            return
        try:
            context = self._reader.u64(private + self._structs.offsets("v4l2_fh", "m2m_ctx")["m2m_ctx"])
            at = self._structs.offsets("v4l2_m2m_ctx", "cap_q_ctx.q", "out_q_ctx.q")
        except (GuestReadError, StructError):
            return
        if context:
            yield from (context + offset for offset in at.values())

    def alive(self, queue: int) -> bool:
        """Whether there is a queue at this address, of an allocator that is known."""
        return bool(self._allocator(self._reader.u64(queue + self._queue["mem_ops"])))

    def _allocator(self, operations: int) -> str:
        known = self._of_ops.get(operations)
        if known is None:
            built_in = self._kernel.symbols.at(operations)
            name = self._modules.name_at(operations) or (built_in[0] if built_in is not None else "")
            known = self._of_ops[operations] = self._allocators.kind(name)
        return known

    def buffers(self, queue: int) -> list[MediaBuffer]:
        """The buffers of a queue that have memory; one that makes no sense is left out."""
        first, count = self._array(queue)
        if not first:
            return []
        found: list[MediaBuffer] = []
        for index, address in enumerate(self._reader.words(first, count).tolist()):
            try:
                if address:
                    found += self._planes(queue, first + 8 * index, address)
            except GuestReadError:
                continue
        return found

    def numbered(self, queue: int, index: int) -> list[MediaBuffer]:
        """The planes of the buffer of a queue that has this number, as far as they have memory."""
        first, count = self._array(queue)
        if not first or not 0 <= index < count:
            return []
        address = self._reader.u64(first + 8 * index)
        return list(self._planes(queue, first + 8 * index, address)) if address else []

    def _array(self, queue: int) -> tuple[int, int]:
        """Address and number of a queue's pointers to buffers."""
        reader, first = self._reader, queue + self._queue["bufs"]
        if self._count is None:
            return first, self._slots
        return reader.u64(first), min(reader.u32(queue + self._count), _MAX_BUFFERS)

    def _planes(self, queue: int, slot: int, address: int) -> Iterator[MediaBuffer]:
        head, at = self._reader.read(address, self._head_size), self._buffer
        if _u64(head, at["vb2_queue"]) != queue:
            return
        allocator = self._allocator(self._reader.u64(queue + self._queue["mem_ops"]))
        memory = _MEMORY.get(_u32(head, at["memory"]), "")
        for plane in range(min(_u32(head, at["num_planes"]), _MAX_PLANES)):
            start = at["planes"] + plane * self._plane_size
            private = _u64(head, start + self._plane["mem_priv"])
            if private and memory:
                read = self._allocators.read(allocator, private, memory)
                if read is not None:
                    yield self._make(queue, slot, address, plane, memory, head, read)

    def _make(
        self, queue: int, slot: int, address: int, plane: int, memory: str, head: bytes, read: PlaneMemory
    ) -> MediaBuffer:
        at, start = self._buffer, self._buffer["planes"] + plane * self._plane_size
        state = _u32(head, at["state"])
        name = self._states.get(state, str(state))
        user = memory == USERPTR
        pointer = _u64(head, start + self._plane["m.userptr"]) if user else 0
        length = _u32(head, start + self._plane["length"])
        offset = pointer & (PAGE_SIZE - 1)
        watched = [slot, *read.watch]
        watched += [address + start + self._plane[member] for member in ("mem_priv", "m.userptr", "length")]
        return MediaBuffer(
            framework="vb2", queue=queue, address=address, index=_u32(head, at["index"]), plane=plane,
            memory=memory, state=state, state_name=name, owned=name == _OWNED,
            steady=name in _STEADY and read.mapped, userptr=pointer, length=length, offset=offset,
            pfns=read.pfns, pinned=user and read.mapped,
            complete=len(read.pfns) == (offset + length + PAGE_SIZE - 1) >> PAGE_SHIFT,
            watch=tuple(word & ~7 for word in watched), state_at=address + at["state"],
            extents=read.extents, entries=read.entries,
        )  # fmt: skip


def _u32(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", data, offset)[0])


def _u64(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<Q", data, offset)[0])
