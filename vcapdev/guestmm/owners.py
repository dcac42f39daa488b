# SPDX-License-Identifier: GPL-2.0-or-later
"""Who maps a page: the kernel's own reverse map, followed from outside (mm/rmap.c, mm/interval_tree.c).

An anonymous page names its ``anon_vma``; a file page its ``address_space``. Either holds an interval tree of
the areas that may map the page; an area leads to its mm, the mm to the process, and the page tables say what
is there now. The guest is untrusted: every walk is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drgn import Object, Program, cast, container_of

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.layout import MAPPING_ANON, MAPPING_BITS, MAPPING_KSM
from vcapdev.guestmm.memory import PAGE_SHIFT, GuestReadError
from vcapdev.guestmm.pagetable import DIRTY, PROTNONE, WRITABLE, Mapping, PageTable
from vcapdev.guestmm.target import program_of

_MAX_NODES = 256  # areas that are looked at for one page
_MAX_OWNERS = 4
_COMM = 15


@dataclass(frozen=True)
class Owner:
    """One mapping of a page: the process, the user address, its area, and the page table entry there.

    ``vma`` and ``task`` are kernel addresses of the structs; ``task`` is 0 where there is none.
    """

    pid: int
    comm: str
    address: int
    area: tuple[int, int]
    backing: str
    pte: Mapping | None
    vma: int = 0
    task: int = 0

    def text(self, pfn: int) -> str:
        """One line for people; ``pfn`` is the page in question."""
        area = f"{self.backing} {self.area[0]:#x}-{self.area[1]:#x}"
        return f"pid {self.pid} ({self.comm}) at {self.address:#x}: {describe_entry(self.pte, pfn)}; {area}"


def describe_owners(kernel: Kernel, mapping: int, index: int, pfn: int, notes: list[str]) -> list[str]:
    """Lines about everyone who maps the page with this identity; what fails is told in ``notes``."""
    try:
        return [owner.text(pfn) for owner in find_owners(kernel, mapping, index)]
    except Exception as error:  # whatever a hostile guest leads drgn into, the verdict itself stands
        notes.append(f"the owner could not be followed: {error}"[:200])
        return []


def find_owners(kernel: Kernel, mapping: int, index: int) -> list[Owner]:
    """The mappings of the page that ``page.mapping`` and ``page.index`` describe, at most a few.

    :raise drgn.FaultError: when the guest's data lead nowhere.
    :raise LookupError: when the kernel lacks a type that is needed.
    """
    bits = mapping & MAPPING_BITS
    if not mapping or bits in (MAPPING_KSM, 2):
        return []
    program = program_of(kernel)
    areas = _anonymous(program, mapping, index) if bits & MAPPING_ANON else _file(program, mapping, index)
    found = []
    for vma in areas:
        owner = _owner(kernel, vma, index)
        if owner is not None:
            found.append(owner)
        if len(found) >= _MAX_OWNERS:
            break
    return found


def describe_entry(entry: Mapping | None, pfn: int) -> str:
    """What a page table entry says about a page."""
    if entry is None:
        return "its page table cannot be read"
    if entry.physical is not None:
        here = "maps this page" if entry.pfn == pfn else f"maps another page, pfn {entry.pfn:#x}"
        bits = (
            "dirty" if entry.entry & DIRTY else "clean",
            "writable" if entry.entry & WRITABLE else "read-only",
        )
        return f"PTE {here} ({', '.join(bits)})"
    if entry.entry == 0:
        return "PTE empty"
    if entry.entry & PROTNONE:
        return f"PTE without access rights ({entry.entry:#x})"
    return f"PTE swap or migration entry, type {entry.entry >> 59}, offset {swap_offset(entry.entry):#x}"


def swap_offset(entry: int) -> int:
    """Offset in a swap entry (arch/x86/include/asm/pgtable_64.h: stored inverted against L1TF)."""
    return ((~entry << 5) & 0xFFFFFFFFFFFFFFFF) >> 14


def _anonymous(program: Program, mapping: int, index: int) -> Iterator[Object]:
    """Areas of an ``anon_vma`` that cover ``index``."""
    anon_vma = Object(program, "struct anon_vma *", mapping & ~MAPPING_BITS)
    for node in _tree(anon_vma.rb_root.rb_root.rb_node):
        chain = container_of(node, "struct anon_vma_chain", "rb")
        if _covers(chain.vma, index):
            yield chain.vma


def _file(program: Program, mapping: int, index: int) -> Iterator[Object]:
    """Areas of an ``address_space`` that cover ``index``."""
    space = Object(program, "struct address_space *", mapping)
    for node in _tree(space.i_mmap.rb_root.rb_node):
        vma = container_of(node, "struct vm_area_struct", "shared.rb")
        if _covers(vma, index):
            yield vma


def _tree(root: Object) -> Iterator[Object]:
    """The nodes of a red-black tree, at most so many; a tree that is a knot ends all the same."""
    waiting = [root]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_NODES:
        node = waiting.pop()
        address = node.value_()
        if not address or address in seen:
            continue
        seen.add(address)
        yield node
        waiting += [node.rb_left, node.rb_right]


def _covers(vma: Object, index: int) -> bool:
    first = vma.vm_pgoff.value_()
    pages = (vma.vm_end.value_() - vma.vm_start.value_()) >> PAGE_SHIFT
    return bool(first <= index < first + pages)


def _owner(kernel: Kernel, vma: Object, index: int) -> Owner | None:
    start, end = vma.vm_start.value_(), vma.vm_end.value_()
    address = start + ((index - vma.vm_pgoff.value_()) << PAGE_SHIFT)
    mm = vma.vm_mm
    if not mm.value_():
        return None
    pid, comm = _process(mm)
    entry = _entry(kernel, mm, address)
    return Owner(pid, comm, address, (start, end), _backing(vma), entry, vma.value_(), _task(mm))


def _process(mm: Object) -> tuple[int, str]:
    """Process of an mm, through ``mm->owner`` (kernels with CONFIG_MEMCG)."""
    try:
        task = mm.owner
    except AttributeError:
        return 0, "unknown: the kernel was built without CONFIG_MEMCG"
    if not task.value_():
        return 0, "no process any more"
    # Not string_(): a guest's BTF may call it a pointer, to text without end.
    raw = task.prog_.read(task.comm.address_, _COMM)
    comm = raw.split(b"\0")[0].decode("ascii", "replace")
    return int(task.tgid.value_()), "".join(c if c.isprintable() else "?" for c in comm)


def _task(mm: Object) -> int:
    try:
        return int(mm.owner.value_())
    except AttributeError:
        return 0


def _backing(vma: Object) -> str:
    file = vma.vm_file
    if not file.value_():
        return "anonymous"
    name = file.f_path.dentry.d_name
    length = min(int(name.len.value_()), 40)
    text = name.name.prog_.read(name.name.value_(), length).decode("utf-8", "replace")
    return "file " + "".join(c if c.isprintable() else "?" for c in text)


def _entry(kernel: Kernel, mm: Object, address: int) -> Mapping | None:
    """The page table entry at a user address."""
    try:
        top = kernel.table.translate(cast("unsigned long", mm.pgd).value_())
        return PageTable(kernel.memory, top, kernel.table.levels).walk(address)
    except GuestReadError:
        return None
