# SPDX-License-Identifier: GPL-2.0-or-later
"""Who allocated a page and who freed it last, on kernels built with CONFIG_PAGE_OWNER and booted with
``page_owner=on`` (mm/page_owner.c, mm/page_ext.c, lib/stackdepot.c). Debian's are not: neither the four of
images/ nor the rt and cloud flavours of 6.1 (include/config/auto.conf of 6.1.176-1).

::

    pfn ─▶ mem_section.page_ext ─▶ page_ext ─▶ page_owner ─▶ handle ─▶ pool of stack records ─▶ addresses

Everything is found by member and symbol. What differs between releases, and what is therefore asked for:

* ``struct page_owner``: 5.10 keeps order, gfp mask and two handles; 6.1 also times, pid and comm; 6.12 also
  who freed the page. What is not there is not told.
* ``section->page_ext`` may carry PAGE_EXT_INVALID in its lowest bit (memory hotplug; 6.1 and later).
* ``union handle_parts``: ``slabindex`` and ``stack_slabs`` in 5.10 and 6.1, ``pool_index`` and
  ``stack_pools`` since 6.3, no ``valid`` bit since 6.8, ``pool_index_plus_1`` since 6.9 (3ee34eabac2a). Where
  the number of pools is chosen at boot (``stack_max_pools``), ``stack_pools`` is a pointer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from vcapdev.guestmm.btf import BtfError, Kind, Member
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import GuestReadError

_MAX_FRAMES = 64  # CONFIG_STACKDEPOT_MAX_FRAMES; page_owner itself saves 16
_MAX_POOLS = 1 << 21
_ALIGN = 4  # DEPOT_STACK_ALIGN, the same since 4.6
_COMM = 16  # TASK_COMM_LEN
_INVALID = 1  # PAGE_EXT_INVALID
_SECTION_SHIFT = 27  # SECTION_SIZE_BITS of x86-64, arch/x86/include/asm/sparsemem.h
_PAGE = 4096


class PageOwnerError(ValueError):
    """The kernel has no page owner, or keeps it in a way that is not understood."""


@dataclass(frozen=True)
class PageOwner:
    """What page_owner knows of a page. Stacks are lines such as ``__alloc_pages+0x1d4``, innermost first.

    ``order``, ``gfp`` and the process are of the last allocation; times are nanoseconds since boot, 0 where
    the kernel does not keep them.
    """

    allocated: bool
    order: int
    gfp: int
    pid: int | None
    comm: str
    time: int
    stack: list[str]
    free_time: int = 0
    free_pid: int | None = None
    free_stack: list[str] = field(default_factory=list)

    def lines(self) -> tuple[list[str], list[str]]:
        """For people: about the last allocation, and about the last time that the page was freed."""
        who = "" if self.pid is None else f" by pid {self.pid}" + (f" ({self.comm})" if self.comm else "")
        head = f"order {self.order}, gfp {self.gfp:#x}{who}{_when(self.time)}"
        free_who = "" if self.free_pid is None else f"by pid {self.free_pid}"
        freed = ", ".join(part for part in (free_who, _when(self.free_time).strip()) if part)
        if not self.allocated:
            head = f"(it is free now) {head}"
        allocation = [head, " < ".join(self.stack) or "no stack was kept"]
        return allocation, [
            *([freed] if freed else []),
            " < ".join(self.free_stack),
        ] if self.free_stack else []


def _when(time: int) -> str:
    return f" at {time / 1e9:.6f} s" if time else ""


class PageOwners:
    """Reads page owners of one kernel.

    :raise PageOwnerError: when it keeps none, with what is missing.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._btf = kernel.btf
        operations, size = kernel.symbols.address("page_owner_ops"), kernel.symbols.address("page_ext_size")
        if operations is None or size is None:
            raise PageOwnerError("the kernel was built without CONFIG_PAGE_OWNER")
        self._owner = self._members("page_owner")
        self._record = self._members("stack_record")
        self._handle = {each.name: each for each in self._all("handle_parts")}
        try:
            self._size = kernel.table.u64(size)
            self._offset = kernel.table.u64(operations + self._members("page_ext_operations")["offset"])
        except GuestReadError as error:
            raise PageOwnerError(f"page_owner_ops cannot be read: {error}") from error
        if not 0 < self._size <= _PAGE or self._offset >= self._size:
            raise PageOwnerError("page_owner is off; boot with page_owner=on")
        self._flags = self._bits("page_ext_flags", "PAGE_EXT_OWNER", "PAGE_EXT_OWNER_ALLOCATED")

    @classmethod
    def of(cls, kernel: Kernel) -> PageOwners:
        """The kernel's own, made once; why there is none is remembered, too."""
        found = kernel.cache.get("page_owner")
        if found is None:
            try:
                found = cls(kernel)
            except (PageOwnerError, BtfError) as error:
                found = PageOwnerError(str(error))
            kernel.cache["page_owner"] = found
        if not isinstance(found, cls):
            raise PageOwnerError(str(found))
        return found

    def read(self, pfn: int) -> PageOwner | None:
        """The owner of a page; None where nothing was ever recorded.

        :raise GuestReadError: when guest data lead nowhere.
        """
        entry = self._entry(pfn)
        if entry is None:
            return None
        known, allocated = (bool(self._kernel.table.u64(entry) >> bit & 1) for bit in self._flags)
        if not known:
            return None
        owner = entry + self._offset
        number = self._number
        return PageOwner(
            allocated=allocated,
            order=number(owner, "order", "<H") or 0,
            gfp=number(owner, "gfp_mask", "<I") or 0,
            pid=number(owner, "pid", "<i"),
            comm=self._comm(owner),
            time=number(owner, "ts_nsec", "<Q") or 0,
            stack=self.stack(number(owner, "handle", "<I") or 0),
            free_time=number(owner, "free_ts_nsec", "<Q") or 0,
            free_pid=number(owner, "free_pid", "<i"),
            free_stack=self.stack(number(owner, "free_handle", "<I") or 0),
        )

    def stack(self, handle: int) -> list[str]:
        """The stack behind a handle of the stack depot; empty for none.

        :raise GuestReadError: when guest data lead nowhere.
        """
        pool = self._pool(handle)
        if not handle or pool is None:
            return []
        record = pool + (self._part(handle, "offset") << _ALIGN)
        size = self._kernel.table.read(record + self._record["size"], 4)
        count = min(int.from_bytes(size, "little"), _MAX_FRAMES)
        data = self._kernel.table.read(record + self._record["entries"], 8 * count)
        return [self._symbol(address) for address in struct.unpack(f"<{count}Q", data) if address]

    # Finding the places.

    def _entry(self, pfn: int) -> int | None:
        """Address of a page's ``page_ext`` (mm/page_ext.c, lookup_page_ext)."""
        section = self._section(pfn)
        place = self._btf.offset("mem_section", "page_ext")
        if section is None or place is None:
            return None
        base = self._kernel.table.u64(section + place)
        if not base or base & _INVALID:
            return None
        return (base + self._size * pfn) & 0xFFFFFFFFFFFFFFFF

    def _section(self, pfn: int) -> int | None:
        """Address of a page's ``mem_section`` (include/linux/mmzone.h, CONFIG_SPARSEMEM_EXTREME)."""
        note = self._kernel.note
        roots, size = note.symbol("mem_section"), self._size_of("mem_section")
        bits = note.number("SECTION_SIZE_BITS") or _SECTION_SHIFT
        number, each = pfn >> (bits - 12), _PAGE // size
        if roots is None or not each:
            return None
        root = self._kernel.table.u64(roots + 8 * (number // each))  # the note has the array's address
        return root + size * (number % each) if root else None

    def _pool(self, handle: int) -> int | None:
        symbols = self._kernel.symbols
        pools = symbols.address("stack_pools") or symbols.address("stack_slabs")
        if pools is None or ("valid" in self._handle and not self._part(handle, "valid")):
            return None
        if symbols.address("stack_max_pools") is not None:
            pools = self._kernel.table.u64(pools)
        names = [name for name in ("slabindex", "pool_index", "pool_index_plus_1") if name in self._handle]
        if not names:
            return None
        index = self._part(handle, names[0]) - names[0].endswith("_plus_1")
        if not 0 <= index < _MAX_POOLS:
            return None
        return self._kernel.table.u64(pools + 8 * index) or None

    def _part(self, handle: int, name: str) -> int:
        """A bit field of a handle; 0 for one that this kernel's handles lack."""
        member = self._handle.get(name)
        return 0 if member is None else handle >> member.bit_offset & ((1 << member.bit_size) - 1)

    # Reading.

    def _number(self, owner: int, name: str, form: str) -> int | None:
        place = self._owner.get(name)
        if place is None:
            return None
        return int(struct.unpack(form, self._kernel.table.read(owner + place, struct.calcsize(form)))[0])

    def _comm(self, owner: int) -> str:
        place = self._owner.get("comm")
        if place is None:
            return ""
        raw = self._kernel.table.read(owner + place, _COMM).split(b"\0")[0].decode("ascii", "replace")
        return "".join(c if c.isprintable() else "?" for c in raw)

    def _symbol(self, address: int) -> str:
        found = self._kernel.symbols.at(address)
        return f"{address:#x}" if found is None else f"{found[0]}+{address - found[1]:#x}"

    # Layout.

    def _all(self, name: str) -> list[Member]:
        found = self._btf.find(name, Kind.STRUCT, Kind.UNION)
        if found is None:
            raise PageOwnerError(f"the kernel's BTF lacks {name}")
        return list(self._btf.all_members(found.id))

    def _members(self, name: str) -> dict[str, int]:
        return {member.name: member.bit_offset // 8 for member in self._all(name)}

    def _bits(self, enumeration: str, *names: str) -> list[int]:
        found = self._btf.find(enumeration, Kind.ENUM)
        values = {} if found is None else self._btf.enumerators(found.id)
        if not all(0 <= values.get(name, -1) < 64 for name in names):
            raise PageOwnerError(f"the kernel's BTF lacks {names[0]}")
        return [values[name] for name in names]

    def _size_of(self, name: str) -> int:
        found = self._btf.find(name, Kind.STRUCT)
        return _PAGE if found is None else max(1, found.ref)


def describe_page_owner(kernel: Kernel, pfn: int) -> tuple[list[str], list[str]]:
    """Lines about the last allocation and the last free of a page; none where the kernel keeps no owners."""
    try:
        owner = PageOwners.of(kernel).read(pfn)
    except (PageOwnerError, GuestReadError, BtfError):
        return [], []
    return ([], []) if owner is None else owner.lines()
