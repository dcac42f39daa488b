# SPDX-License-Identifier: GPL-2.0-or-later
"""A synthetic guest with a process that has a video device open: its memory, and buffers of either framework.

Places of members are our own wherever the code under test probes them; videobuf's structs lie as their
declarations do.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from synthetic import DIRECT_MAP, PAGE, BtfBuilder, SyntheticGuest

HEAP = 0x600000  # physical; where kernel objects lie
USER = 0x7F1234000000  # where the process has its buffers
ANON_VMA, CHAIN, AREA, MM, TASK, FILES, TABLE, DESCRIPTORS, FILE, PRIVATE = (
    HEAP + i * 0x400 for i in range(10)
)
SPACE = PRIVATE + 0x1000
OTHERS = PRIVATE + 0x2000
MAGIC_OPS, MAGIC_BUFFER, MAGIC_DMABUF, MAGIC_SG_MEM = 0x12261003, 0x20070728, 0x19721112, 0x17890714
STATES = ("needs-init", "prepared", "queued", "active", "done", "error", "idle")
VB2_STATES = ("dequeued", "in_request", "preparing", "queued", "active", "done", "error")
MEMORIES = {"mmap": 1, "userptr": 2, "overlay": 3, "dmabuf": 4}
SWAP_TYPE = 1


def at(physical: int) -> int:
    """Kernel address of an object."""
    return DIRECT_MAP + physical


class MediaGuest(SyntheticGuest):
    """The guest: pid 42 "capture" has one area of 64 pages at USER, and a video device open."""

    def __init__(self, style: str = "6.1", framework: str = "videobuf", mib: int = 32) -> None:
        self.framework = framework
        self._heap = OTHERS
        super().__init__(style, mib=mib)
        self.user_top = self._table()
        self._process()
        self.write_note()

    def put(self, place: int, *words: int) -> int:
        """Words at a physical address; returns their kernel address."""
        self.poke(place, struct.pack(f"<{len(words)}Q", *(word & 0xFFFFFFFFFFFFFFFF for word in words)))
        return at(place)

    def new(self, *words: int) -> int:
        """A new object; returns its physical address."""
        place = self._heap
        self.put(place, *words)
        self._heap += -(-8 * len(words) // 64) * 64
        return place

    # Types.

    def _btf(self) -> None:
        super()._btf()
        media_types(self.btf)

    # The process.

    def _process(self) -> None:
        mm = self.put(MM, at(self.user_top), at(TASK))
        area = self.put(AREA, USER, USER + 64 * PAGE, mm, USER >> 12, 0, 0, 0, 0, 2)
        self.put(CHAIN, area, 0, 0, 0, 0, 0, 0, 0)
        self.put(ANON_VMA, 0, 0, at(CHAIN) + 32)
        self.put(SPACE, 0, area + 40, 0, 1)  # an address_space that the same area maps
        init = self.variable("init_task", bytes(64))
        link = self.symbols["init_task"] + 24
        self.put(TASK, 42, 0, 0, link, link, at(FILES), mm)
        self.poke(TASK + 8, b"capture\0")
        self.poke(init + 24, struct.pack("<QQ", at(TASK) + 24, at(TASK) + 24))  # a ring of two
        self.put(FILES, at(TABLE))
        self.put(TABLE, 4, at(DESCRIPTORS))
        module = self.variable("videodev", bytes(16) + b"videodev".ljust(56, b"\0") + bytes(64))
        operations = self.variable("video_fops", struct.pack("<Q", self.virtual(module)))
        self.put(DESCRIPTORS, 0, at(FILE), 0, 0)
        self.put(FILE, 0, 0, self.virtual(operations), at(PRIVATE))
        self.variable("modules", struct.pack("<QQ", 0x1234, 0))
        self.qtype_ops = self.virtual(self.variable("sg_ops", struct.pack("<Q", MAGIC_OPS)))
        self.mem_ops = self.virtual(self.variable("vb2_dma_sg_memops", bytes(64)))

    @property
    def anon_mapping(self) -> int:
        """``page.mapping`` of the process's anonymous pages."""
        return at(ANON_VMA) | 1

    def own(self, row: int, pfn: int, *, pins: int = 1, mapped: bool = True, **more: object) -> None:
        """Give the process an anonymous page at ``row`` of its area."""
        more.setdefault("mapping", self.anon_mapping)
        self.anon(pfn, pins=pins, index=(USER >> 12) + row, **more)  # type: ignore[misc]
        if mapped:
            self.map(USER + row * PAGE, pfn * PAGE, top=self.user_top)

    def rights(self, flags: int) -> None:
        """Set ``vm_flags`` of the area."""
        self.put(AREA + 64, flags)

    def entry(self, row: int, value: int) -> None:
        """Set the page table entry of a page of the area, whose table must exist."""
        table = self.user_top
        for shift in (39, 30, 21):
            table = self.peek64(table + 8 * (USER + row * PAGE >> shift & 511)) & ~0xFFF & (1 << 52) - 1
        self.poke64(table + 8 * ((USER >> 12) + row & 511), value)

    def fill(self, pfn: int, seed: int) -> None:
        """Content in which no two words are equal."""
        words = [(seed << 32) + 0x9E3779B97F4A7C15 * (i + 1) & 0xFFFFFFFFFFFFFFFF for i in range(512)]
        self.put(pfn * PAGE, *words)

    # Buffers.

    def buffer(self, pfns: Sequence[int], row: int = 0, **more: object) -> Buffer:
        """A USERPTR buffer of these pages, at ``row`` of the process's area, queued and being filled."""
        return Buffer(self, pfns, USER + row * PAGE, **more)  # type: ignore[arg-type]


class Buffer:
    """One buffer of the guest's queue, the first one at slot 0. Its state can be set."""

    def __init__(
        self,
        guest: MediaGuest,
        pfns: Sequence[int],
        user: int,
        *,
        slot: int = 0,
        length: int | None = None,
        state: str = "active",
        queue: int = 0,
        memory: str = "userptr",
    ) -> None:
        self.guest, self.pfns, self.user = guest, list(pfns), user
        self.length = len(self.pfns) * PAGE - (user & 0xFFF) if length is None else length
        self.pages = guest.new(*(guest_page(pfn) for pfn in self.pfns))
        self.sg = guest.new(*([1] * 4 * len(self.pfns)))
        if guest.framework == "videobuf":
            self._videobuf(slot, queue, memory)
        else:
            self._vb2(slot, memory)
        self.state = state

    def _videobuf(self, slot: int, queue: int, memory: str) -> None:
        guest = self.guest
        dma = [MAGIC_SG_MEM, MAGIC_DMABUF, self.length, at(self.pages), 0, 0, 0, 0, 0, at(self.sg)]
        self.memory_at = guest.new(*dma, len(self.pfns), len(self.pfns), 2)
        self.place = guest.new(*[0] * 32)
        guest.poke(self.place, struct.pack("<II", slot, MAGIC_BUFFER))
        for offset, value in ((112, MEMORIES[memory]), (120, self.length), (136, self.user)):
            guest.put(self.place + offset, value)
        guest.put(self.place + 160, at(self.memory_at))
        self.state_at = self.place + 36
        first = PRIVATE + queue * 0x200
        guest.put(first + VIDEOBUF_BUFS + 8 * slot, at(self.place))
        guest.put(first + VIDEOBUF_INT_OPS, guest.qtype_ops)

    def _vb2(self, slot: int, memory: str) -> None:
        guest = self.guest
        device, queue = PRIVATE + 0x400, PRIVATE + 0x500
        guest.put(PRIVATE + 16, at(device))
        guest.put(device + 64, at(queue))
        guest.put(queue + 8, guest.mem_ops)
        self.table = guest.new(at(self.sg), len(self.pfns) << 32 | len(self.pfns))
        private = [0, 0, at(self.pages), 0, (self.user & 0xFFF), at(self.sg), 0, at(self.table), self.length]
        self.memory_at = guest.new(*private, len(self.pfns))
        self.place = guest.new(*[0] * 16)
        guest.put(self.place, at(queue), slot | MEMORIES[memory] << 32, 1)
        guest.put(self.place + 32, at(self.memory_at), self.length, self.user)
        self.state_at = self.place + 20
        guest.put(queue + 64 + 8 * slot, at(self.place))

    @property
    def state(self) -> str:
        """The framework's word for it."""
        return self._names[int(self.guest.ram[self.state_at])]

    @state.setter
    def state(self, name: str) -> None:
        self.guest.poke(self.state_at, struct.pack("<I", self._names.index(name)))

    @property
    def _names(self) -> Sequence[str]:
        return STATES if self.guest.framework == "videobuf" else VB2_STATES

    def unmap(self) -> None:
        """The framework takes the buffer away from the device: the first step of a release."""
        if self.guest.framework == "videobuf":
            self.guest.put(self.memory_at + 8 + 64, 0, 0)
        else:
            self.guest.put(self.table, 0)

    def release(self) -> None:
        """The framework lets go of the pages."""
        self.unmap()
        if self.guest.framework == "videobuf":
            self.guest.put(self.memory_at + 8 + 16, 0)
            self.guest.put(self.memory_at + 8 + 80, 0)
        else:
            self.guest.put(self.place + 32, 0)

    def queue_at(self, user: int) -> None:
        """Queue it with another user address, without a look at the pages."""
        self.user = user
        self.guest.put(self.place + (136 if self.guest.framework == "videobuf" else 48), user)


def guest_page(pfn: int) -> int:
    """Address of a struct page."""
    return 0xFFFFEA0000000000 + 64 * pfn


# struct videobuf_queue with a mutex of 32 bytes and a wait_queue_head of 24
VIDEOBUF_BUFS = 32 + 3 * 8 + 24 + 4 * 4
VIDEOBUF_INT_OPS = VIDEOBUF_BUFS + 33 * 8


def media_types(builder: BtfBuilder) -> None:
    """Types of processes and their files, and of videobuf2 with places of our own."""
    ulong, uint = builder.integer("ulong", 8), builder.integer("uint", 4)
    char, void = builder.integer("char8", 1, 1), builder.pointer(0)
    link = builder.compound("list_link", 16, [("next", void, 0), ("prev", void, 8)])
    for name, size in (("mutex", 32), ("wait_queue_head", 24)):
        builder.compound(name, size, [("inside", ulong, 0)])
    layout = builder.compound("module_layout", 16, [("base", void, 0), ("size", uint, 8)])
    members = [("list", link, 0), ("name", builder.array(char, 56), 16), ("core_layout", layout, 80)]
    builder.compound("module", 128, members)
    builder.compound("file_operations", 64, [("owner", void, 0)])
    builder.compound("files_struct", 64, [("fdt", void, 0)])
    builder.compound("fdtable", 64, [("max_fds", uint, 0), ("fd", void, 8)])
    entry = [("page_link", ulong, 0), ("offset", uint, 8), ("length", uint, 12), ("dma_address", ulong, 16)]
    builder.compound("scatterlist", 32, entry)
    builder.compound("sg_table", 16, [("sgl", void, 0), ("nents", uint, 8), ("orig_nents", uint, 12)])
    builder.compound("v4l2_fh", 64, [("vdev", void, 16)])
    builder.compound("video_device", 128, [("queue", void, 64)])
    slots = builder.array(void, 32)
    builder.compound("vb2_queue", 512, [("ops", void, 0), ("mem_ops", void, 8), ("bufs", slots, 64)])
    user = builder.compound("", 8, [("userptr", ulong, 0)], kind=5)
    plane = builder.compound("vb2_plane", 32, [("mem_priv", void, 0), ("length", uint, 8), ("m", user, 16)])
    members = [("vb2_queue", void, 0), ("index", uint, 8), ("memory", uint, 12), ("num_planes", uint, 16)]
    members += [("state", uint, 20), ("planes", builder.array(plane, 1), 32)]
    builder.compound("vb2_buffer", 64, members)
    builder.enum("vb2_buffer_state", {f"VB2_BUF_STATE_{n.upper()}": i for i, n in enumerate(VB2_STATES)})


__all__ = ["ANON_VMA", "SPACE", "SWAP_TYPE", "USER", "Buffer", "MediaGuest", "at"]
