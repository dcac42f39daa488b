# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's reverse map by bare reads: which areas of which address spaces may map a page (mm/rmap.c).

An anonymous page leads to its ``anon_vma``, a page of a file to its ``address_space``; both hold an interval
tree of areas. What :mod:`vcapdev.guestmm.owners` tells people of one page, this tells of many at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.layout import MAPPING_ANON, MAPPING_BITS
from vcapdev.guestmm.memory import GuestReadError
from vcapdev.guestmm.structs import Structs
from vcapdev.guestmm.words import Reader

_MAX_NODES = 256  # areas that are looked at for one page
_COMM = 16
_VM_WRITE = 2  # include/linux/mm.h


@dataclass(frozen=True)
class Area:
    """A ``vm_area_struct``: its address, the range it maps, its first page's index, and its ``mm_struct``.

    ``writable``: whether its user may write to it now; False where that is not known.
    """

    address: int
    start: int
    end: int
    first: int
    mm: int
    writable: bool = False


@dataclass(frozen=True)
class AddressSpace:
    """A process's memory: its ``mm_struct``, the physical address of its top page table, and whose it is."""

    mm: int
    top: int
    pid: int
    comm: str


class ReverseMap:
    """Follows the trees of one kernel.

    :raise StructError: when the kernel's types do not tell how.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._reader, self._translate = Reader.of(kernel), kernel.table.translate
        structs = Structs.of(kernel)
        self._node = structs.offsets("rb_node", "rb_left", "rb_right")
        self._anon = structs.offsets("anon_vma", "rb_root.rb_root.rb_node")["rb_root.rb_root.rb_node"]
        self._chain = structs.offsets("anon_vma_chain", "vma", "rb")
        self._file = structs.offsets("address_space", "i_mmap.rb_root.rb_node")["i_mmap.rb_root.rb_node"]
        self._area = structs.offsets("vm_area_struct", "vm_start", "vm_end", "vm_pgoff", "vm_mm", "shared.rb")
        self._flags = kernel.btf.offset("vm_area_struct", "vm_flags")
        self._mm = structs.offsets("mm_struct", "pgd")["pgd"]
        self._task = structs.offsets("task_struct", "tgid", "comm")
        self._owner = kernel.btf.offset("mm_struct", "owner")  # with CONFIG_MEMCG
        self._spaces: dict[int, tuple[int, int, int, AddressSpace]] = {}  # by mm_struct; pgd, task and pid

    def areas(self, mapping: int) -> list[Area]:
        """All areas that may map pages with this ``page.mapping``, at most so many; each once.

        :raise GuestReadError: when a tree leads nowhere.
        """
        bits, base = mapping & MAPPING_BITS, mapping & ~MAPPING_BITS
        if not base or bits not in (0, MAPPING_ANON):
            return []
        if bits:
            nodes, back, chained = self._nodes(base + self._anon), self._chain["rb"], True
        else:
            nodes, back, chained = self._nodes(base + self._file), self._area["shared.rb"], False
        found: dict[int, Area] = {}
        for node in nodes:
            address = self._reader.u64(node - back + self._chain["vma"]) if chained else node - back
            if address not in found:
                found[address] = self.area(address)
        return list(found.values())

    def area(self, address: int) -> Area:
        """The area at this address."""
        read, at = self._reader.u64, self._area
        start, end = read(address + at["vm_start"]), read(address + at["vm_end"])
        writable = self._flags is not None and bool(read(address + self._flags) & _VM_WRITE)
        return Area(
            address, start, end, read(address + at["vm_pgoff"]), read(address + at["vm_mm"]), writable
        )

    def space(self, mm: int) -> AddressSpace | None:
        """The address space of an ``mm_struct``, None when it has no page table."""
        directory = self._reader.u64(mm + self._mm) if mm else 0
        if not directory:
            return None
        task = self._reader.u64(mm + self._owner) if self._owner is not None else 0
        pid = self._reader.u32(task + self._task["tgid"]) if task else 0
        known = self._spaces.get(mm)
        if known is not None and known[:3] == (directory, task, pid):
            return known[3]
        comm = self._reader.text(task + self._task["comm"], _COMM) if task else ""
        space = AddressSpace(mm, self._reader.physical(directory), pid, comm)
        if len(self._spaces) >= _MAX_NODES:
            self._spaces.clear()
        self._spaces[mm] = directory, task, pid, space
        return space

    def _nodes(self, root: int) -> Iterator[int]:
        """The nodes of a red-black tree; a tree that is a knot ends all the same."""
        waiting, seen = [self._reader.u64(root)], set[int]()
        while waiting and len(seen) < _MAX_NODES:
            node = waiting.pop()
            if not node or node in seen:
                continue
            seen.add(node)
            yield node
            waiting += [self._reader.u64(node + self._node[side]) for side in ("rb_left", "rb_right")]


def areas_of(reverse: ReverseMap, mapping: int) -> list[Area]:
    """As :meth:`ReverseMap.areas`, none where they cannot be read."""
    try:
        return reverse.areas(mapping)
    except GuestReadError:
        return []
