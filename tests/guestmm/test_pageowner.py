# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the decoder of page_owner on memory laid out as kernels of four generations lay it out.

Debian builds without CONFIG_PAGE_OWNER, so the memory is made by hand: structs as their sources declare them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from synthetic import STRUCT, UNION, BtfBuilder, SyntheticGuest

from vcapdev.guestmm.kernel import Kernel, attach
from vcapdev.guestmm.memory import GuestMemory, GuestReadError
from vcapdev.guestmm.pageowner import PageOwnerError, PageOwners, describe_page_owner

PFN = 2000
EXT, POOL = 0x600000, 0x680000  # where page_ext of section 0 and the pool of stack records lie
EXT_SIZE_OF = {"5.10": 8 + 16, "6.1": 8 + 64, "6.12": 8 + 72, "7.2": 8 + 72}


@dataclass(frozen=True)
class Layout:
    """How a release keeps page owners."""

    owner: tuple[tuple[str, str, int], ...]  # members of struct page_owner: name, type, offset
    index: tuple[str, int]  # name and bits of the pool's index in a handle
    rest: tuple[tuple[str, int], ...]  # the other bit fields behind it
    record: tuple[tuple[str, int], ...]  # members of struct stack_record with their offsets
    pools: str
    pointer: bool = False
    plus_one: bool = False


_OLD = (("order", "u16", 0), ("last_migrate_reason", "u16", 2), ("gfp_mask", "u32", 4), ("handle", "u32", 8))
_OLD += (("free_handle", "u32", 12),)
_NEW = (*_OLD, ("ts_nsec", "u64", 16), ("free_ts_nsec", "u64", 24), ("comm", "comm", 32))
_NEW += (("pid", "i32", 48), ("tgid", "i32", 52))
_LATE = (*_NEW, ("free_pid", "i32", 56), ("free_tgid", "i32", 60))
_SLAB = (("next", 0), ("hash", 8), ("size", 12), ("handle", 16), ("entries", 24))
_LIST = (("hash_list", 0), ("hash", 16), ("size", 20), ("handle", 24), ("count", 28), ("entries", 32))
LAYOUTS = {
    "5.10": Layout(_OLD, ("slabindex", 21), (("offset", 10), ("valid", 1)), _SLAB, "stack_slabs"),
    "6.1": Layout(
        _NEW, ("slabindex", 16), (("offset", 10), ("valid", 1), ("extra", 5)), _SLAB, "stack_slabs"
    ),
    "6.12": Layout(
        _LATE, ("pool_index_plus_1", 17), (("offset", 10), ("extra", 5)), _LIST, "stack_pools", plus_one=True
    ),
    "7.2": Layout(
        _LATE, ("pool_index_plus_1", 17), (("offset", 10), ("extra", 5)), _LIST, "stack_pools", True, True
    ),
}


def bit_fields(builder: BtfBuilder, name: str, fields: list[tuple[str, int, int]], type_id: int) -> int:
    """A struct of bit fields: ``(name, first bit, bits)``."""
    rows = [struct.pack("<III", builder.string(n), type_id, bits << 24 | at) for n, at, bits in fields]
    return builder.add(STRUCT, name, 4, len(rows), b"".join(rows), flag=True)


class OwnedGuest(SyntheticGuest):
    """A guest booted with ``page_owner=on``: page PFN was allocated and freed through two known stacks."""

    def __init__(self, style: str) -> None:
        self.kept = LAYOUTS[style]
        super().__init__(style)
        self.ext_size = EXT_SIZE_OF[style]
        self.variable("page_ext_size", struct.pack("<Q", self.ext_size))
        self.variable("page_owner_ops", struct.pack("<QQQQ", 8, self.ext_size - 8, 0, 0))
        table = self.variable("pool_table", struct.pack("<Q", 0xFFFF888000000000 + POOL) + bytes(64))
        if self.kept.pointer:
            self.variable(self.kept.pools, struct.pack("<Q", self.virtual(table)))
            self.variable("stack_max_pools", struct.pack("<I", 8192))
        else:
            self.symbols[self.kept.pools] = self.virtual(table)
        for name in ("alloc_inner", "alloc_outer", "free_inner"):
            self.variable(name, bytes(64))
        self._section(style)
        self._types()
        self.allocated = self.stack(0x100, "alloc_inner", "alloc_outer")
        self.freed = self.stack(0x180, "free_inner")
        self.write_note()

    def _section(self, style: str) -> None:
        section = self.peek64(self.roots) - self.image_virtual + 0x1000000
        self.poke64(section + 16, 0xFFFF888000000000 + EXT)

    def _types(self) -> None:
        b = self.btf
        types = {
            "u16": b.integer("unsigned short", 2),
            "u32": b.integer("u32", 4),
            "u64": b.integer("u64", 8),
        }
        types |= {"i32": b.integer("pid_t", 4, 1)}
        types["comm"] = b.array(b.integer("char", 1, 1), 16)
        u32, u64 = types["u32"], types["u64"]
        b.compound("page_owner", 64, [(name, types[kind], at) for name, kind, at in self.kept.owner])
        b.compound("page_ext", 8, [("flags", u64, 0)])
        b.compound("page_ext_operations", 32, [("offset", u64, 0), ("size", u64, 8)])
        b.enum("page_ext_flags", {"PAGE_EXT_OWNER": 0, "PAGE_EXT_OWNER_ALLOCATED": 1})
        at, fields = 0, []
        for name, bits in (self.kept.index, *self.kept.rest):
            fields.append((name, at, bits))
            at += bits
        parts = bit_fields(b, "", fields, u32)
        b.compound("handle_parts", 4, [("handle", u32, 0), ("", parts, 0)], UNION)
        b.compound("stack_record", 64, [(name, u64, at) for name, at in self.kept.record])

    def stack(self, place: int, *names: str) -> int:
        """Put a record into the pool; returns its handle. Frames are 0x10 behind the symbols."""
        at = dict(self.kept.record)
        self.poke(POOL + place + at["size"], struct.pack("<I", len(names)))
        frames = [self.symbols[name] + 0x10 for name in names]
        self.poke(POOL + place + at["entries"], struct.pack(f"<{len(frames)}Q", *frames))
        handle, shift = int(self.kept.plus_one), self.kept.index[1]
        for name, bits in self.kept.rest:
            handle |= {"offset": place >> 4, "valid": 1}.get(name, 0) << shift
            shift += bits
        return handle

    def own(self, pfn: int, *, flags: int = 3, handle: int | None = None, free: int | None = None) -> None:
        entry = EXT + self.ext_size * pfn
        self.poke64(entry, flags)
        values = {"order": 2, "gfp_mask": 0x1100CCA, "last_migrate_reason": 0xFFFF, "ts_nsec": 5_000_000_000}
        values |= {"free_ts_nsec": 4_000_000_000, "pid": 77, "tgid": 77, "free_pid": 66, "free_tgid": 66}
        values["handle"] = self.allocated if handle is None else handle
        values["free_handle"] = self.freed if free is None else free
        sizes = {"u16": 2, "u32": 4, "u64": 8, "i32": 4}
        for name, kind, at in self.kept.owner:
            data = b"capture\0" if kind == "comm" else values[name].to_bytes(sizes[kind], "little")
            self.poke(entry + 8 + at, data)


@pytest.fixture(params=sorted(LAYOUTS))
def owned(request):
    made = OwnedGuest(request.param)
    yield made
    made.close()


def kernel_of(guest: SyntheticGuest) -> Kernel:
    return attach(GuestMemory(guest.memory))


def test_the_last_allocation_and_the_last_free_are_told(owned) -> None:
    owned.own(PFN)
    found = PageOwners.of(kernel_of(owned)).read(PFN)
    assert found is not None
    assert found.allocated
    assert (found.order, found.gfp) == (2, 0x1100CCA)
    assert found.stack == ["alloc_inner+0x10", "alloc_outer+0x10"]
    assert found.free_stack == ["free_inner+0x10"]
    late = owned.style.name in ("6.12", "7.2")
    if owned.style.name == "5.10":
        assert (found.pid, found.comm, found.time) == (None, "", 0)
    else:
        assert (found.pid, found.comm, found.time, found.free_time) == (77, "capture", 5 * 10**9, 4 * 10**9)
    assert found.free_pid == (66 if late else None)


def test_the_lines_of_a_splat(owned) -> None:
    owned.own(PFN, flags=1)
    allocation, freed = describe_page_owner(kernel_of(owned), PFN)
    assert allocation[0].startswith("(it is free now) order 2, gfp 0x1100cca")
    assert allocation[1] == "alloc_inner+0x10 < alloc_outer+0x10"
    assert freed[-1] == "free_inner+0x10"
    if owned.style.name == "6.12":
        assert freed[0] == "by pid 66, at 4.000000 s"


def test_a_page_that_was_never_recorded(owned) -> None:
    owned.own(PFN, flags=0)
    kernel = kernel_of(owned)
    assert PageOwners.of(kernel).read(PFN) is None
    assert describe_page_owner(kernel, PFN) == ([], [])


def test_a_page_without_a_free_stack(owned) -> None:
    owned.own(PFN, free=0)
    allocation, freed = describe_page_owner(kernel_of(owned), PFN)
    assert allocation[1].startswith("alloc_inner")
    assert freed == []


@pytest.mark.parametrize("handle", [0xFFFFFFFF, 0x7FFFFFFF, 0x00012345, 2])
def test_a_handle_that_leads_nowhere(owned, handle: int) -> None:
    owned.own(PFN, handle=handle)
    allocation, _ = describe_page_owner(kernel_of(owned), PFN)
    assert allocation == [] or allocation[1] == "no stack was kept" or "<" not in allocation[1]


def test_a_stack_without_end_is_cut(owned) -> None:
    at = dict(owned.kept.record)
    owned.own(PFN)
    owned.poke(POOL + 0x100 + at["size"], b"\xff\xff\xff\xff")
    owned.poke(POOL + 0x100 + at["entries"], struct.pack("<100Q", *[owned.symbols["alloc_inner"]] * 100))
    found = PageOwners.of(kernel_of(owned)).read(PFN)
    assert found is not None
    assert len(found.stack) == 64


def test_a_section_that_is_being_unplugged_is_left_alone(owned) -> None:
    owned.own(PFN)
    section = owned.peek64(owned.roots) - owned.image_virtual + 0x1000000
    owned.poke64(section + 16, 0xFFFF888000000000 + EXT + 1)
    assert PageOwners.of(kernel_of(owned)).read(PFN) is None


def test_kernels_without_it_say_what_is_missing(guest) -> None:
    kernel = kernel_of(guest)
    for _ in range(2):
        with pytest.raises(PageOwnerError, match="without CONFIG_PAGE_OWNER"):
            PageOwners.of(kernel)
    assert describe_page_owner(kernel, PFN) == ([], [])


def test_a_kernel_booted_without_the_parameter_says_so(owned) -> None:
    owned.variable("page_ext_size", struct.pack("<Q", 0))
    owned.write_note()
    with pytest.raises(PageOwnerError, match="page_owner=on"):
        PageOwners.of(kernel_of(owned))


def test_unreadable_places_are_an_error_of_the_guest(owned) -> None:
    owned.own(PFN)
    section = owned.peek64(owned.roots) - owned.image_virtual + 0x1000000
    owned.poke64(section + 16, 0x1234567800)
    kernel = kernel_of(owned)
    with pytest.raises(GuestReadError):
        PageOwners.of(kernel).read(PFN)
    assert describe_page_owner(kernel, PFN) == ([], [])
