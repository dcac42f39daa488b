# SPDX-License-Identifier: GPL-2.0-or-later
"""Who maps a page with which right to write (mm/rmap.c, include/linux/mm.h)."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from vcapdev.guestmm.btf import BtfError, Kind
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.layout import MAPPING_ANON
from vcapdev.guestmm.memory import PAGE_SHIFT, GuestReadError
from vcapdev.guestmm.pages import PageSet, head_pfns
from vcapdev.guestmm.pagetable import DIRTY, WRITABLE, PageTable
from vcapdev.guestmm.rmap import Area, ReverseMap
from vcapdev.guestmm.structs import StructError
from vcapdev.guestmm.words import Reader

VM_WRITE, VM_SHARED, VM_MAYWRITE = 0x2, 0x8, 0x20  # the same on all kernels
_SAVED_DIRTY = 1 << 58  # _PAGE_SAVED_DIRTY: an entry without a right to write keeps it there (since 6.6)
_UFFD_WP = 1 << 10  # _PAGE_UFFD_WP: write-protected for userfaultfd
_MAX_USERS = 16


@dataclass(frozen=True)
class User:
    """One mapping of a page at this moment: address space, address, the area's flags, the table entry."""

    mm: int
    address: int
    flags: int
    entry: int
    who: str

    def untouched(self, *, anon: bool) -> bool:
        """Whether nobody has ever been let write here.

        An anonymous page is written through a private or shared mapping: then its entry is, or was, writable
        and dirty. A file's page is written through a shared mapping that may be made writable.
        """
        if not anon:
            return self.flags & (VM_SHARED | VM_MAYWRITE) != VM_SHARED | VM_MAYWRITE
        bits = WRITABLE | DIRTY | _SAVED_DIRTY | _UFFD_WP
        return bool(self.flags & VM_WRITE) and not self.entry & bits

    def text(self) -> str:
        """For people."""
        kind = "shared" if self.flags & VM_SHARED else "private"
        right = "writable" if self.flags & VM_WRITE else "read-only"
        entry = "writable" if self.entry & WRITABLE else "read-only"
        dirty = "dirty" if self.entry & (DIRTY | _SAVED_DIRTY) else "never written to"
        return f"{self.address:#x} of {self.who} (a {kind} {right} mapping; its entry {entry}, {dirty})"


class Rights:
    """Rights to write, asked of one kernel.

    ``strict``: pins for reading a user's own memory give him an untouched page of his own, and media drivers
    have no way round missing rights. Both are so since 6.2 (commits b6a2619c60b4 and 707947247e95), of which
    FAULT_FLAG_VMA_LOCK, two releases younger, is proof.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._reader = kernel, Reader.of(kernel)
        self._reverse: ReverseMap | None = None
        self._flags: int | None = None
        self._writable: int | None = None
        self.strict = False
        with suppress(StructError, BtfError):
            self._writable = kernel.btf.offset("address_space", "i_mmap_writable")
            self._flags = kernel.btf.offset("vm_area_struct", "vm_flags")
            self._reverse = ReverseMap(kernel)
            faults = kernel.btf.find("fault_flag", Kind.ENUM, Kind.ENUM64)
            self.strict = faults is not None and "FAULT_FLAG_VMA_LOCK" in kernel.btf.enumerators(faults.id)

    @classmethod
    def of(cls, kernel: Kernel) -> Rights:
        """The kernel's own, made once."""
        found = kernel.cache.get("rights")
        if not isinstance(found, cls):
            found = kernel.cache["rights"] = cls(kernel)
        return found

    def writable_file(self, mapping: int) -> bool:
        """Whether anybody maps the file shared and writable; True where that cannot be told."""
        if self._writable is None or not mapping:
            return True
        try:
            count = struct.unpack("<i", self._reader.read(mapping + self._writable, 4))[0]
        except GuestReadError:
            return True
        return bool(count > 0)

    def users(self, pfn: int) -> list[User]:
        """The mappings of a page that lead to it at this moment, at most so many.

        :raise GuestReadError: when the guest's trees lead nowhere.
        """
        if self._reverse is None or self._flags is None:
            return []
        mapping, index = self._identity(pfn)
        found: list[User] = []
        for area in self._reverse.areas(mapping):
            user = self._user(self._reverse, area, pfn, index)
            if user is not None:
                found.append(user)
            if len(found) >= _MAX_USERS:
                break
        return found

    def _user(self, reverse: ReverseMap, area: Area, pfn: int, index: int) -> User | None:
        address = area.start + ((index - area.first) << PAGE_SHIFT)
        space = reverse.space(area.mm) if area.start <= address < area.end else None
        if space is None or self._flags is None:
            return None
        found = PageTable(self._kernel.memory, space.top, self._kernel.table.levels).walk(address)
        if found.pfn != pfn:
            return None
        flags = self._reader.u64(area.address + self._flags)
        return User(area.mm, address, flags, found.entry, f"pid {space.pid} ({space.comm})")

    def _identity(self, pfn: int) -> tuple[int, int]:
        """``mapping`` and ``index`` of a page; of a compound page those of this part of it."""
        pfns = np.array([pfn], dtype=np.int64)
        pages = PageSet(self._kernel, pfns)
        rows, facts = pages.read().copy(), pages.facts()
        mapping, index = int(facts.mapping[0]), int(facts.index[0])
        if facts.torn[0] or not facts.present[0] or facts.typed[0]:
            return 0, 0
        layout = self._kernel.layout
        if facts.large[0] and rows[0, layout.head // 8] & np.uint64(1):
            heads = head_pfns(self._kernel.vmemmap, layout.head_is_mask, pfns, rows[:1], layout.head)
            index += pfn - int(heads[0])
        return mapping if mapping & 3 in (0, MAPPING_ANON) else 0, index
