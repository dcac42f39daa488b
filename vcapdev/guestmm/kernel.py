# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaching to the kernel that runs in the guest, from nothing but its RAM.

The order of things: VMCOREINFO notes, each validated through its own page tables; symbols; BTF; the layout of
``struct page``; the vmemmap table. No debug package and no help from the guest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from vcapdev.errors import InconclusiveError
from vcapdev.guestmm.btf import DWARF_OPTION, Btf, BtfError
from vcapdev.guestmm.flags import FlagsError, PageFlags, PageTypes
from vcapdev.guestmm.kallsyms import Kallsyms, KallsymsError, read_kallsyms
from vcapdev.guestmm.kernelimage import KernelImage
from vcapdev.guestmm.layout import LayoutError, PageLayout
from vcapdev.guestmm.learnt import remembered
from vcapdev.guestmm.memory import PAGE_SHIFT, GuestMemory, GuestReadError
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo, VmcoreinfoError, find_notes
from vcapdev.guestmm.vmemmap import MAX_PAGES, Vmemmap

START_KERNEL_MAP = 0xFFFFFFFF80000000  # __START_KERNEL_map, arch/x86/include/asm/page_64_types.h
_UTS_FIELD = 65  # __NEW_UTS_LEN + 1
_UTS_LEAST = 32  # bytes that may lie before the name in struct uts_namespace
_ALIVE_SECONDS = 0.5  # jiffies advance every 4 ms (CONFIG_HZ=250), 10 ms at the least

_MAX_NOTES = 256  # a hostile guest may leave one on each page
_MAX_CANDIDATES = 8

if TYPE_CHECKING:
    from vcapdev.guestmm.debugfile import DebugFile  # it needs drgn, which most attachments do without

Breathe = Callable[[], None]


class AttachError(InconclusiveError):
    """No kernel was found in guest RAM, or it is one that is not understood."""


@dataclass(frozen=True)
class Kernel:
    """The running kernel, as far as it was read at attach time."""

    memory: GuestMemory
    note: Vmcoreinfo
    table: PageTable
    symbols: Kallsyms
    btf: Btf
    layout: PageLayout
    flags: PageFlags
    types: PageTypes
    vmemmap: Vmemmap
    zero_pfn: int
    cache: dict[str, object] = field(default_factory=dict, repr=False)  # derived by other modules, once

    @property
    def release(self) -> str:
        """As ``uname -r`` prints it."""
        return self.note.release

    @property
    def identity(self) -> tuple[int, bytes]:
        """Differs between kernels that were booted one after the other, unless at the very same place."""
        return self.table.top, self.note.text

    def symbol_u64(self, name: str) -> int | None:
        """The 64-bit value of a kernel variable; None when it has no symbol or cannot be read."""
        address = self.symbols.address(name)
        try:
            return None if address is None else self.table.u64(address)
        except GuestReadError:
            return None

    def huge_zero_pfn(self) -> int | None:
        """First page of the huge zero page, None while there is none."""
        value = self.symbol_u64("huge_zero_pfn")
        return value if value is not None and value < self.vmemmap.pages else None


def attach(
    memory: GuestMemory,
    breathe: Breathe = lambda: None,
    known: bytes = b"",
    debug_file: DebugFile | None = None,
) -> Kernel:
    """Find the running kernel.

    ``breathe`` is called between steps: attaching takes about a second, and a device has to answer meanwhile.
    ``known`` is the text of its note, from who has seen it run: in a guest that stands still it cannot be
    told from a former kernel otherwise. ``debug_file`` stands in for what the kernel was built without: BTF,
    kallsyms.

    :raise AttachError: one line that says what was found and what was missing.
    """
    notes = list(islice(find_notes(memory, breathe), _MAX_NOTES))
    if not notes:
        raise AttachError("no VMCOREINFO note in guest RAM: no Linux kernel with CONFIG_CRASH_CORE booted")
    reasons: list[str] = []
    candidates: dict[tuple[int, bytes], tuple[Vmcoreinfo, PageTable]] = {}
    for note in notes:
        breathe()
        if len(candidates) >= _MAX_CANDIDATES:
            break
        try:
            table = table_of(memory, note)
            candidates.setdefault((table.top, note.text), (note, table))
        except (GuestReadError, VmcoreinfoError) as error:
            reasons.append(f"{note.release}: {error}")
    if not candidates:
        raise AttachError(f"the VMCOREINFO in guest RAM belongs to no running kernel ({reasons[-1]})")
    running = [found for (_, text), found in candidates.items() if text == known]
    note, table = _alive(running or list(candidates.values()), breathe)
    return _understand(memory, note, table, breathe, debug_file)


def table_of(memory: GuestMemory, note: Vmcoreinfo) -> PageTable:
    """The kernel's page table, when note, page table and utsname agree with one another.

    :raise VmcoreinfoError: they do not. :raise GuestReadError: the page table leads nowhere.
    """
    directory, phys_base = note.symbol("swapper_pg_dir"), note.number("phys_base")
    names = note.symbol("init_uts_ns")
    if directory is None or phys_base is None or names is None:
        raise VmcoreinfoError("vmcoreinfo lacks swapper_pg_dir, phys_base or init_uts_ns (not x86-64?)")
    top = directory - START_KERNEL_MAP + phys_base
    table = PageTable(memory, top, 5 if note.number("pgtable_l5_enabled") else 4)
    if table.translate(directory) != top:
        raise VmcoreinfoError("its page table does not map itself")
    offset = note.offset("uts_namespace.name")
    raw = table.read(names, _UTS_LEAST + 3 * _UTS_FIELD)
    if offset is None:  # not listed by 5.10; it begins with the name of the system
        offset = max(raw.find(b"Linux\0", 0, _UTS_LEAST), 0)
    release = table.read(names + offset + 2 * _UTS_FIELD, _UTS_FIELD).split(b"\0")[0]
    if release != note.release.encode():
        raise VmcoreinfoError(f"utsname says {release.decode('ascii', 'replace')!r}")
    return table


def _alive(found: list[tuple[Vmcoreinfo, PageTable]], breathe: Breathe) -> tuple[Vmcoreinfo, PageTable]:
    """Of several candidates (a former boot's note survives) the one whose jiffies advance."""
    if len(found) == 1:
        return found[0]
    watched = []
    for note, table in found:
        try:
            address = read_kallsyms(note, table, breathe).address("jiffies")
            if address is not None:
                watched.append((note, table, address, table.u64(address)))
        except (KallsymsError, GuestReadError):
            continue
    deadline = time.monotonic() + _ALIVE_SECONDS
    while time.monotonic() < deadline:
        breathe()
        for note, table, address, before in watched:
            try:
                if table.u64(address) != before:
                    return note, table
            except GuestReadError:
                continue
    raise AttachError(f"{len(found)} kernels left a VMCOREINFO note in guest RAM and none seems to run")


def _understand(
    memory: GuestMemory, note: Vmcoreinfo, table: PageTable, breathe: Breathe, debug_file: DebugFile | None
) -> Kernel:
    try:
        symbols = _read_symbols(note, table, breathe, debug_file)
        btf = _read_btf(note, symbols, table, breathe, debug_file)
        layout = PageLayout.probe(btf, note)
        vmemmap = Vmemmap(memory, table, vmemmap_base(note, table), layout.size, max_pfn(symbols, table))
        return Kernel(
            memory=memory,
            note=note,
            table=table,
            symbols=symbols,
            btf=btf,
            layout=layout,
            flags=PageFlags.from_btf(btf),
            types=PageTypes.probe(btf, note),
            vmemmap=vmemmap,
            zero_pfn=_zero_pfn(symbols, table),
        )
    except (GuestReadError, BtfError, KallsymsError, LayoutError, FlagsError, VmcoreinfoError) as error:
        raise AttachError(f"kernel {note.release} in the guest is not understood: {error}") from error


def _read_symbols(
    note: Vmcoreinfo, table: PageTable, breathe: Breathe, debug_file: DebugFile | None
) -> Kallsyms:
    try:
        return read_kallsyms(note, table, breathe)
    except KallsymsError as error:
        if debug_file is None:
            raise
        why_not = debug_file.why_not(note)
        if why_not:
            raise KallsymsError(f"{error}; {why_not}") from error
        return debug_file.kallsyms(note)


def _read_btf(
    note: Vmcoreinfo, symbols: Kallsyms, table: PageTable, breathe: Breathe, debug_file: DebugFile | None
) -> Btf:
    start, stop = symbols.address("__start_BTF"), symbols.address("__stop_BTF")
    if start is not None and stop is not None and start < stop:
        data: bytes | None = table.read(start, stop - start)
    else:  # no symbols of data (CONFIG_KALLSYMS_ALL)
        text = note.symbol("_stext")
        data = None if text is None else KernelImage.read(table, text).btf()
    if data is None:
        data = _instead_of_btf(note, debug_file)
    breathe()
    return Btf(data, breathe, remembered("btf", [data], lambda: Btf(data, breathe).starts))


def _instead_of_btf(note: Vmcoreinfo, debug_file: DebugFile | None) -> bytes:
    if debug_file is None:
        raise BtfError(
            "it has no BTF (it needs CONFIG_DEBUG_INFO_BTF=y, or --vmlinux FILE of a build with "
            f"{DWARF_OPTION})"
        )
    why_not = debug_file.why_not(note)
    if why_not:
        raise BtfError(f"it has no BTF, and {why_not}")
    return debug_file.btf


def vmemmap_base(note: Vmcoreinfo, table: PageTable) -> int:
    """Virtual address of the struct page of pfn 0, from the first memory section (mm/sparse.c).

    ``section_mem_map`` holds the address with flags in its low bits; section 0 starts at pfn 0.

    :raise VmcoreinfoError: when the note does not lead there (no sparse memory).
    """
    roots, offset = note.symbol("mem_section"), note.offset("mem_section.section_mem_map")
    if roots is None or offset is None:
        raise VmcoreinfoError("vmcoreinfo lacks mem_section (it needs CONFIG_SPARSEMEM_VMEMMAP=y)")
    base = table.u64(table.u64(roots) + offset) & ~0x3F
    if base < 1 << 63:
        raise VmcoreinfoError(f"mem_section leads to {base:#x}, which is no vmemmap")
    return base


def max_pfn(symbols: Kallsyms, table: PageTable) -> int:
    """One past the last page frame that the kernel calls RAM (mm/memblock.c)."""
    address = symbols.address("max_pfn")
    return MAX_PAGES if address is None else min(table.u64(address), MAX_PAGES)


def _zero_pfn(symbols: Kallsyms, table: PageTable) -> int:
    """Page frame of the zero page: ``zero_pfn``, else the page of ``empty_zero_page``."""
    variable = symbols.address("zero_pfn")
    if variable is not None:
        return table.u64(variable)
    page = symbols.address("empty_zero_page")
    if page is None:
        raise KallsymsError("neither zero_pfn nor empty_zero_page is a symbol")
    return table.translate(page) >> PAGE_SHIFT


def refresh(kernel: Kernel) -> Kernel:
    """The same kernel over a memory map that has changed since: the vmemmap table is built again.

    :raise GuestReadError: when the kernel's page tables can no longer be followed.
    """
    old = kernel.vmemmap
    vmemmap = Vmemmap(
        kernel.memory, kernel.table, old.base, old.page_size, max_pfn(kernel.symbols, kernel.table)
    )
    return replace(kernel, vmemmap=vmemmap)
