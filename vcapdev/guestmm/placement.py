# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that must not be pinned for long: ZONE_MOVABLE and CMA, which have to be emptied at any time.

Both are properties of whole pageblocks, fixed at boot or when memory is plugged in: a table with an entry for
each says all. The zone is in the high bits of ``page.flags``, the migrate type in a bitmap of each memory
section (include/linux/mmzone.h, include/linux/pageblock-flags.h).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.btf import BtfError, Kind
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SIZE, GuestReadError
from vcapdev.guestmm.vmstat import nodes_of

Bools = NDArray[np.bool_]
Pfns = NDArray[np.int64]

_BLOCK_SHIFT = 9  # pageblock_order on x86-64: that of a 2 MiB page
_SECTION_SHIFT = 27 - 12  # SECTION_SIZE_BITS on x86-64, where vmcoreinfo does not tell
_MOST_NODES = 1 << 10  # MAX_NUMNODES
_MAX_SECTIONS = 1 << 13


@dataclass(frozen=True)
class Placement:
    """Which pageblocks are movable or CMA memory. Falsy where there are none, which is the usual case.

    ``strict``: the kernel moves pages away before it pins them for long, or refuses (5.14, commit
    d1e153fea2a8); before, it tried to, of CMA memory only, and pinned them all the same where that failed.
    ``why_not`` tells what could not be found out.
    """

    movable: Bools
    cma: Bools
    strict: bool
    why_not: str = ""

    def __bool__(self) -> bool:
        return bool(self.cma.any()) or (self.strict and bool(self.movable.any()))

    def forbids(self, pfns: Pfns) -> Bools:
        """Pages that a long-term pin may not hold."""
        blocks = self.cma | self.movable if self.strict else self.cma
        place = np.clip(pfns >> _BLOCK_SHIFT, 0, len(blocks) - 1)
        found: Bools = blocks[place] & (pfns >= 0) & (pfns >> _BLOCK_SHIFT < len(blocks))
        return found

    def name(self, pfn: int) -> str:
        """What kind of memory a page is in, for people."""
        block = pfn >> _BLOCK_SHIFT
        if not 0 <= block < len(self.cma):
            return "no pageblock"
        return "MIGRATE_CMA" if self.cma[block] else "ZONE_MOVABLE" if self.movable[block] else "neither"


def read_placement(kernel: Kernel) -> Placement:
    """Look at all pageblocks; what cannot be read counts as memory that may be pinned, with the reason."""
    blocks = -(-kernel.vmemmap.pages // (1 << _BLOCK_SHIFT))
    none = np.zeros(blocks, dtype=bool)
    reasons = []
    movable = cma = none
    try:
        movable = _movable(kernel, blocks)
    except (GuestReadError, BtfError) as error:
        reasons.append(str(error))
    try:
        cma = _cma(kernel, blocks)
    except (GuestReadError, BtfError) as error:
        reasons.append(str(error))
    return Placement(movable, cma, "MR_LONGTERM_PIN" in _values(kernel, "migrate_reason"), "; ".join(reasons))


def _values(kernel: Kernel, name: str) -> dict[str, int]:
    try:
        found = kernel.btf.find(name, Kind.ENUM, Kind.ENUM64)
        return {} if found is None else kernel.btf.enumerators(found.id)
    except BtfError:
        return {}


def _movable(kernel: Kernel, blocks: int) -> Bools:
    """Blocks whose pages carry the number of ZONE_MOVABLE."""
    zones = _values(kernel, "zone_type")
    number, count = zones.get("ZONE_MOVABLE"), zones.get("__MAX_NR_ZONES", 0)
    if number is None or not 1 < count <= 8 or not 0 <= number < count:
        raise GuestReadError("the guest's BTF has no enum zone_type")
    nodes = kernel.note.length("node_data") or 1
    if not 0 < nodes <= _MOST_NODES:
        raise GuestReadError(f"the kernel claims room for {nodes} nodes")
    width = (count - 1).bit_length()  # ZONES_SHIFT, include/linux/page-flags-layout.h
    shift = 64 - max(nodes - 1, 0).bit_length() - width  # node above zone; no section with vmemmap
    gather = kernel.vmemmap.gather(np.arange(blocks, dtype=np.int64) << _BLOCK_SHIFT)
    flags = gather.read()[:, kernel.layout.flags // 8]
    zone = (flags >> np.uint64(shift)) & np.uint64((1 << width) - 1)
    found: Bools = (zone == number) & gather.present
    if found.any() and not _agrees(kernel, number, found):
        raise GuestReadError("page flags and zones disagree on what is movable memory")
    return found


def _agrees(kernel: Kernel, number: int, found: Bools) -> bool:
    """Whether the zone's own account holds: these blocks are inside a node's ZONE_MOVABLE."""
    spans = _spans(kernel, number)
    starts = np.flatnonzero(found).astype(np.int64) << _BLOCK_SHIFT
    inside = np.zeros(len(starts), dtype=bool)
    for first, pages in spans:
        inside |= (starts >= first - (1 << _BLOCK_SHIFT)) & (starts < first + pages)
    return bool(inside.all())


def _spans(kernel: Kernel, number: int) -> list[tuple[int, int]]:
    """First page and spanned pages of a zone, of every node."""
    btf, table = kernel.btf, kernel.table
    zone = btf.find("zone", Kind.STRUCT)
    offsets = [btf.offset("pglist_data", "node_zones")]
    offsets += [btf.offset("zone", "zone_start_pfn"), btf.offset("zone", "spanned_pages")]
    if zone is None or any(offset is None for offset in offsets):
        raise GuestReadError("the guest's BTF has no struct zone")
    zones, start, spanned = (offset or 0 for offset in offsets)
    found = []
    for node in nodes_of(kernel):
        at = node + zones + number * btf.sizeof(zone.id)
        found.append((table.u64(at + start), table.u64(at + spanned)))
    return found


def _cma(kernel: Kernel, blocks: int) -> Bools:
    """Blocks of migrate type CMA; none where the kernel says that it has no such memory."""
    none = np.zeros(blocks, dtype=bool)
    kind = _values(kernel, "migratetype").get("MIGRATE_CMA")
    total = kernel.symbol_u64("totalcma_pages")
    if kind is None or not total:
        return none
    bits = _values(kernel, "pageblock_bits")
    last = bits.get("PB_migrate_end", bits.get("PB_migrate_2", 2))
    mask = (1 << min(max(last, 0), 3) + 1) - 1
    width = 8 if "PB_migrate_isolate" in bits else 4  # NR_PAGEBLOCK_BITS; 8 since 6.17, commit e904bce2d9d4
    found = none.copy()
    for section, flags in _sections(kernel, blocks, width):
        types = np.array([flags >> width * i & mask for i in range(_per_section(kernel))])
        first = section * len(types)
        found[first : first + len(types)] = (types == kind)[: blocks - first]
    if int(np.count_nonzero(found)) << _BLOCK_SHIFT != total:
        raise GuestReadError("pageblock bitmaps and totalcma_pages disagree on what is CMA memory")
    return found


def _per_section(kernel: Kernel) -> int:
    """Pageblocks in a memory section."""
    bits = kernel.note.number("SECTION_SIZE_BITS")
    shift = bits - 12 if bits is not None and 21 < bits < 40 else _SECTION_SHIFT
    return 1 << (shift - _BLOCK_SHIFT)


def _sections(kernel: Kernel, blocks: int, width: int) -> list[tuple[int, int]]:
    """Number and pageblock bitmap of each memory section that is present (mm/sparse.c)."""
    btf, table = kernel.btf, kernel.table
    roots, section = kernel.note.symbol("mem_section"), btf.find("mem_section", Kind.STRUCT)
    usage, flags = btf.offset("mem_section", "usage"), btf.offset("mem_section_usage", "pageblock_flags")
    if roots is None or section is None or usage is None or flags is None:
        raise GuestReadError("the guest's BTF has no mem_section_usage.pageblock_flags")
    size, per = btf.sizeof(section.id), _per_section(kernel)
    if not 0 < size <= PAGE_SIZE:
        raise GuestReadError(f"a struct mem_section of {size} bytes is not understood")
    per_root = PAGE_SIZE // size  # SECTIONS_PER_ROOT with CONFIG_SPARSEMEM_EXTREME
    found = []
    for number in range(min(-(-blocks // per), _MAX_SECTIONS)):
        root = table.u64(roots + 8 * (number // per_root))
        use = table.u64(root + number % per_root * size + usage) if root else 0
        if use:
            found.append((number, int.from_bytes(table.read(use + flags, per * width // 8), "little")))
    return found
