# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest kernel's memory made by hand: just enough of Linux for the checker to attach to and to judge.

It writes, into a memfd laid out as a PC's RAM, a VMCOREINFO note, page tables, kallsyms, BTF,
``mem_section``, the statistics counters and an array of ``struct page`` whose rows a test sets as it likes.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

PAGE = 4096
LARGE = 2 << 20
MIB = 1 << 20
START_KERNEL_MAP = 0xFFFFFFFF80000000
VMEMMAP = 0xFFFFEA0000000000
DIRECT_MAP = 0xFFFF888000000000
KASLR = 0xBC00000
IMAGE_PHYS = 16 * MIB  # where the kernel image lies
IMAGE_SIZE = 2 * MIB
VMEMMAP_PHYS = 20 * MIB
ANON = DIRECT_MAP + 0x700000 | 1  # an anon_vma that no test follows
FREE_MAPCOUNT = -129
CMA = 4  # MIGRATE_CMA

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, CONST, FUNC = 1, 2, 3, 4, 5, 6, 8, 10, 12


class BtfBuilder:
    """Writes BTF. Types are numbered from 1 in the order in which they are added."""

    def __init__(self) -> None:
        self.types: list[bytes] = []
        self.strings = bytearray(b"\0")

    def string(self, text: str) -> int:
        if not text:
            return 0
        place = self.strings.find(b"\0" + text.encode() + b"\0")
        if place >= 0:
            return place + 1
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(
        self, kind: int, name: str, ref: int, vlen: int = 0, extra: bytes = b"", flag: bool = False
    ) -> int:
        info = kind << 24 | vlen | flag << 31
        self.types.append(struct.pack("<III", self.string(name), info, ref) + extra)
        return len(self.types)

    def integer(self, name: str, size: int, encoding: int = 0) -> int:
        return self.add(INT, name, size, extra=struct.pack("<I", encoding << 24 | size * 8))

    def pointer(self, to: int) -> int:
        return self.add(PTR, "", to)

    def array(self, element: int, count: int) -> int:
        return self.add(ARRAY, "", 0, extra=struct.pack("<III", element, 1, count))

    def compound(
        self, name: str, size: int, members: Iterable[tuple[str, int, int]], kind: int = STRUCT
    ) -> int:
        """``members`` are ``(name, type, byte offset)``."""
        rows = [struct.pack("<III", self.string(n), t, o * 8) for n, t, o in members]
        return self.add(kind, name, size, len(rows), b"".join(rows))

    def enum(self, name: str, values: dict[str, int]) -> int:
        rows = [struct.pack("<Ii", self.string(n), v) for n, v in values.items()]
        return self.add(ENUM, name, 4, len(rows), b"".join(rows))

    def build(self) -> bytes:
        types = b"".join(self.types)
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self.strings))
        return head + types + bytes(self.strings)


@dataclass
class Segment:
    start: int
    size: int
    data: np.ndarray
    fd: int
    fd_offset: int
    writable: bool = True


class Map:
    """A ``vcapdev.dma.MemoryMap``."""

    def __init__(self, segments: list[Segment]) -> None:
        self.generation = 1
        self.segments = segments


FLAGS_61 = (
    "locked referenced uptodate dirty lru active workingset waiters error slab owner_priv_1 arch_1 reserved"
)
FLAGS_61 += (
    " private private_2 writeback head mappedtodisk reclaim swapbacked unevictable mlocked uncached hwpoison"
)
FLAGS_61 += " arch_2"
FLAGS_612 = (
    "locked writeback referenced uptodate dirty lru head waiters active workingset owner_priv_1 owner_2"
)
FLAGS_612 += (
    " arch_1 reserved private private_2 reclaim swapbacked unevictable mlocked hwpoison arch_2 arch_3"
)


HUGETLB = {"PGTY_hugetlb": 0xF4}  # include/linux/page-flags.h, 6.12


@dataclass(frozen=True)
class Style:
    """How a kernel lays out struct page: enough variation to stand for the four generations."""

    name: str
    flags: str = FLAGS_61
    pin_row: int = 1
    pin_offset: int = 24
    pin_by: str = "folio"  # "folio", "page" (compound_pincount) or "hpage"
    top_byte_types: bool = False
    mask_tails: bool = False
    kallsyms: bool = True
    swapcache: str = "owner_priv_1"

    @property
    def hugetlb_type(self) -> int:
        """What a hugetlb page has in the place of its map count."""
        return (HUGETLB["PGTY_hugetlb"] << 24) - (1 << 32) if self.top_byte_types else -1


STYLES = {
    "6.1": Style("6.1"),
    "5.10": Style("5.10", pin_row=2, pin_offset=16, pin_by="hpage"),
    "6.12": Style("6.12", FLAGS_612, pin_offset=28, top_byte_types=True),
    "7.2": Style("7.2", FLAGS_612, pin_offset=28, top_byte_types=True, mask_tails=True),
}


class SyntheticGuest:
    """The guest. ``memory`` is what the checker is given.

    :param mib: RAM in MiB, at least 32.
    :param scattered: map vmemmap by 4 KiB pages in a shuffled order instead of one 2 MiB page.
    """

    def __init__(
        self, style: str = "6.1", *, mib: int = 32, scattered: bool = False, release: str = ""
    ) -> None:
        self.style = STYLES[style]
        self.release = release or f"{style}.0-test"
        self.pages = mib * MIB // PAGE
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, mib * MIB)
        self.mapping = mmap.mmap(self.fd, mib * MIB)
        self.ram = np.frombuffer(self.mapping, dtype=np.uint8)
        low, hole = 0xA0000, 0xC0000
        self.memory = Map(
            [
                Segment(0, low, self.ram[:low], self.fd, 0),
                Segment(hole, mib * MIB - hole, self.ram[hole:], self.fd, hole),
            ]
        )
        self.numbers = {name: i for i, name in enumerate(self.style.flags.split())}
        self.numbers["swapcache"] = self.numbers[self.style.swapcache]
        self.numbers["anon_exclusive"] = self.numbers.get("mappedtodisk", self.numbers.get("owner_2", 0))
        self.movable = range(0)  # page frames of ZONE_MOVABLE
        self._next_table = 0x100000
        self._next_data = IMAGE_PHYS + 0x1000
        self.symbols: dict[str, int] = {}
        self.top = self._table()
        self.vmemmap_at: list[int] = []
        self._map_everything(mib, scattered)
        self.zero_pfn = 0x300
        self._variables()
        self._btf()
        self.note_at = 0x400000
        self.write_note()
        self._no_pages()
        self.page(self.zero_pfn, "reserved", refcount=1, mapcount=-1)

    def close(self) -> None:
        """Give the descriptor back; the mapping goes with its last user."""
        os.close(self.fd)

    # Bytes.

    def poke(self, physical: int, data: bytes) -> None:
        self.ram[physical : physical + len(data)] = np.frombuffer(data, dtype=np.uint8)

    def poke64(self, physical: int, value: int) -> None:
        self.poke(physical, struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF))

    def peek64(self, physical: int) -> int:
        return struct.unpack("<Q", self.ram[physical : physical + 8].tobytes())[0]

    def _table(self) -> int:
        self._next_table += PAGE
        return self._next_table - PAGE

    def map(self, virtual: int, physical: int, *, large: bool = False, top: int | None = None) -> None:
        """Enter a mapping; ``top`` is another address space's table."""
        table = self.top if top is None else top
        for shift in (39, 30, 21):
            place = table + 8 * (virtual >> shift & 511)
            if large and shift == 21:
                self.poke64(place, physical | 0x1E3)
                return
            entry = self.peek64(place)
            if not entry & 1:
                entry = self._table() | 0x67
                self.poke64(place, entry)
            table = entry & ~0xFFF & (1 << 52) - 1
        self.poke64(table + 8 * (virtual >> 12 & 511), physical | 0x163)

    def _map_everything(self, mib: int, scattered: bool) -> None:
        for offset in range(0, mib * MIB, LARGE):
            self.map(DIRECT_MAP + offset, offset, large=True)
        self.image_virtual = START_KERNEL_MAP + IMAGE_PHYS + KASLR
        self.phys_base = -KASLR
        for offset in range(0, IMAGE_SIZE, LARGE):
            self.map(self.image_virtual + offset, IMAGE_PHYS + offset, large=True)
        self.map(START_KERNEL_MAP + self.top + KASLR, self.top)  # swapper_pg_dir, which maps itself
        size = self.pages * 64
        chunks = -(-size // PAGE)
        if scattered:
            order = np.random.default_rng(7).permutation(chunks)
            self.vmemmap_at = [VMEMMAP_PHYS + int(i) * PAGE for i in order]
            for i, place in enumerate(self.vmemmap_at):
                self.map(VMEMMAP + i * PAGE, place)
        else:
            self.vmemmap_at = [VMEMMAP_PHYS + i * PAGE for i in range(chunks)]
            for offset in range(0, size, LARGE):
                self.map(VMEMMAP + offset, VMEMMAP_PHYS + offset, large=True)

    def variable(self, name: str, data: bytes) -> int:
        """Put data into the kernel image under a symbol; returns the physical address."""
        place = self._next_data
        self._next_data += -(-len(data) // 64) * 64
        assert self._next_data <= IMAGE_PHYS + IMAGE_SIZE, "the image is full"
        self.poke(place, data)
        self.symbols[name] = self.virtual(place)
        return place

    def virtual(self, physical: int) -> int:
        """Address of a byte of the kernel image."""
        return self.image_virtual + physical - IMAGE_PHYS

    def _variables(self) -> None:
        self.uts = self.variable("init_uts_ns", b"Linux".ljust(65, b"\0") + b"(none)".ljust(65, b"\0"))
        self.poke(self.uts + 130, self.release.encode().ljust(65, b"\0"))
        self._next_data += 192
        self.variable("zero_pfn", struct.pack("<Q", self.zero_pfn))
        self.huge_zero_at = self.variable("huge_zero_pfn", b"\xff" * 8)
        self.variable("max_pfn", struct.pack("<Q", self.pages))
        self.jiffies_at = self.variable("jiffies", struct.pack("<Q", 0xFFFF1234))
        self.usage = self.variable("section_usage0", bytes(16 + 64))
        self.section = self.variable(
            "section0", struct.pack("<QQQQ", VMEMMAP | 0xF, self.virtual(self.usage), 0, 0)
        )
        self.total_cma = self.variable("totalcma_pages", bytes(8))
        self.roots = self.variable("section_roots", struct.pack("<Q", self.virtual(self.section)))
        self.vm_node_stat = self.variable("vm_node_stat", bytes(8 * 64))
        self.node_stats = self.variable("node_stats_cpu0", bytes(64))
        self.node = self.variable("node0", struct.pack("<Q", self.virtual(self.node_stats)) + bytes(64 * 5))
        self.variable("node_data", struct.pack("<QQ", self.virtual(self.node), 0))
        self.variable("__per_cpu_offset", struct.pack("<Q", 0))
        self.variable("nr_cpu_ids", struct.pack("<I", 1))

    def _btf(self) -> None:
        self.btf = builder = BtfBuilder()
        ulong = builder.integer("long unsigned int", 8)
        uint = builder.integer("unsigned int", 4)
        sint = builder.integer("int", 4, 1)
        atomic = builder.compound("atomic_t", 4, [("counter", sint, 0)])
        void = builder.pointer(0)
        style, row = self.style, 64 * self.style.pin_row + self.style.pin_offset
        head = "compound_info" if style.mask_tails else "compound_head"
        members = [("flags", ulong, 0), (head, ulong, 8), ("mapping", void, 24), ("index", ulong, 32)]
        members += [("private", ulong, 40), ("_mapcount", atomic, 48), ("page_type", uint, 48)]
        members += [("_refcount", atomic, 52), ("memcg_data", ulong, 56)]
        if style.pin_by == "hpage":
            members += [("hpage_pinned_refcount", atomic, style.pin_offset), ("compound_order", uint, 17)]
        builder.compound("page", 64, members)
        if style.pin_by == "folio":
            builder.compound(
                "folio", 256, [("flags", ulong, 0), ("_flags_1", ulong, 64), ("_pincount", atomic, row)]
            )
        flags = {f"PG_{name}": i for i, name in enumerate(style.flags.split())}
        count = len(flags)
        flags["PG_anon_exclusive"] = self.numbers["anon_exclusive"]
        flags["PG_swapcache"] = self.numbers["swapcache"]
        builder.enum("pageflags", {**flags, "__NR_PAGEFLAGS": count})
        builder.enum(
            "node_stat_item", {"NR_WRITTEN": 34, "NR_FOLL_PIN_ACQUIRED": 35, "NR_FOLL_PIN_RELEASED": 36}
        )
        if style.top_byte_types:
            builder.enum("pagetype", {"PGTY_buddy": 0xF0, "PGTY_table": 0xF2, **HUGETLB, "PGTY_slab": 0xF5})
        builder.compound("per_cpu_nodestat", 64, [("vm_node_stat_diff", builder.array(sint, 16), 0)])
        zone = builder.compound("zone", 64, [("zone_start_pfn", ulong, 0), ("spanned_pages", ulong, 8)])
        members = [("per_cpu_nodestats", void, 0), ("node_zones", builder.array(zone, 5), 8)]
        builder.compound("pglist_data", 8 + 5 * 64, members)
        placement_types(builder, style, ulong, void)
        owner_types(builder, ulong, sint, void)

    def write_note(self) -> None:
        """Place BTF, kallsyms and the VMCOREINFO note; again after symbols or release have changed."""
        blob = self.btf.build()
        start = self.variable("__start_BTF", blob)
        self.symbols["__stop_BTF"] = self.symbols["__start_BTF"] + len(blob)
        assert start
        lines = {"OSRELEASE": self.release, "BUILD-ID": "00" * 20, "PAGESIZE": "4096", "SIZE(page)": "64"}
        lines |= {
            "OFFSET(uts_namespace.name)": "0",
            "OFFSET(page.flags)": "0",
            "OFFSET(page._refcount)": "52",
        }
        lines |= {"OFFSET(page._mapcount)": "48", "OFFSET(mem_section.section_mem_map)": "0"}
        lines |= {"LENGTH(node_data)": "2", "NUMBER(pgtable_l5_enabled)": "0"}
        lines |= {"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": "-129", "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)": "-257"}
        lines |= {"NUMBER(phys_base)": str(self.phys_base), "KERNELOFFSET": f"{KASLR:x}"}
        lines["SYMBOL(init_uts_ns)"] = f"{self.symbols['init_uts_ns']:x}"
        lines["SYMBOL(swapper_pg_dir)"] = f"{START_KERNEL_MAP + self.top + KASLR:x}"
        lines["SYMBOL(mem_section)"] = f"{self.virtual(self.roots):x}"
        if self.style.kallsyms:
            lines |= self._kallsyms()
        self.values = lines
        text = "".join(f"{key}={value}\n" for key, value in lines.items()).encode()
        self.poke(self.note_at, note_bytes(text))

    def _kallsyms(self) -> dict[str, str]:
        """The symbol table, uncompressed: every token is one character."""
        names = sorted(self.symbols, key=self.symbols.__getitem__)
        base = self.image_virtual
        packed = b"".join(packed_length(len(name) + 1) + b"D" + name.encode() for name in names)
        offsets = b"".join(struct.pack("<i", base - 1 - self.symbols[name]) for name in names)
        tokens = b"".join(bytes([i or 1]) + b"\0" for i in range(256))
        places = {
            "offsets": self.variable("kallsyms_offsets", offsets),
            "relative_base": self.variable("kallsyms_relative_base", struct.pack("<Q", base)),
            "num_syms": self.variable("kallsyms_num_syms", struct.pack("<I", len(names))),
            "names": self.variable("kallsyms_names", packed),
            "token_table": self.variable("kallsyms_token_table", tokens),
            "token_index": self.variable("kallsyms_token_index", struct.pack("<256H", *range(0, 512, 2))),
        }
        return {f"SYMBOL(kallsyms_{key})": f"{self.virtual(place):x}" for key, place in places.items()}

    # Pages.

    def row_at(self, pfn: int) -> int:
        """Physical address of a struct page."""
        return self.vmemmap_at[pfn // 64] + pfn % 64 * 64

    def flag_bits(self, names: str) -> int:
        return sum(1 << self.numbers[name] for name in names.split())

    def page(
        self,
        pfn: int,
        flags: str = "",
        *,
        refcount: int = 1,
        mapcount: int = -1,
        mapping: int = 0,
        index: int = 0,
        link: int = DIRECT_MAP,
        private: int = 0,
    ) -> None:
        """Set one struct page."""
        bits = self.flag_bits(flags) | 0x0100000000000000  # the CPU that used it last is in the high bits
        bits |= (3 if pfn in self.movable else 0) << 60  # and above it zone (3 bits) and node (1 bit)
        words = struct.pack("<QQQQQQiiQ", bits, link, 0, mapping, index, private, mapcount, refcount, 0)
        self.poke(self.row_at(pfn), words)

    def _no_pages(self) -> None:
        """All struct pages as those of pages that nobody has."""
        self.page(0, refcount=0)
        first = self.vmemmap_at[0]
        chunk = self.ram[first : first + 64].tobytes() * 64
        for place in self.vmemmap_at:
            self.poke(place, chunk)

    def field(self, pfn: int, offset: int, value: int, size: int = 4) -> None:
        """Set one member of a struct page."""
        self.poke(self.row_at(pfn) + offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def anon(
        self, pfn: int, *, pins: int = 1, extra: int = 0, flags: str = "", mapcount: int = 0, **more: int
    ) -> None:
        """An anonymous page as a USERPTR buffer has it (L0)."""
        count = 1024 * pins + (mapcount + 1) + extra
        more.setdefault("mapping", ANON)
        more.setdefault("index", 0x7F0000000 + pfn)
        names = f"uptodate lru swapbacked anon_exclusive {flags}".strip()
        self.page(pfn, names, refcount=count, mapcount=mapcount, **more)

    def free(self, pfn: int, *, buddy: bool = True) -> None:
        """A free page, first of its block or not."""
        mapcount = -1
        if buddy:
            mapcount = (
                struct.unpack("<i", struct.pack("<I", 0xF0000000))[0] if self.style.top_byte_types else -129
            )
        self.page(pfn, refcount=0, mapcount=mapcount)

    def compound(self, first: int, order: int, *, pins: int, flags: str = "", anon: bool = True) -> None:
        """A compound page (THP) of ``1 << order`` pages, pinned so many times."""
        mapping, index = (ANON, 0x7F0000000 + first) if anon else (0, 0)
        names = f"uptodate lru swapbacked head {flags}".strip()
        self.page(first, names, refcount=1 + pins, mapcount=-1, mapping=mapping, index=index)
        for pfn in range(first + 1, first + (1 << order)):
            link = VMEMMAP + first * 64 + 1
            if self.style.mask_tails:
                link = (0xFFFFFFFFFFFFFFFF << (order + 6)) & 0xFFFFFFFFFFFFFFFF | 1
            self.page(pfn, refcount=0, mapcount=-1, link=link)
        if self.style.pin_by == "hpage":
            self.field(first + 1, 17, order, 1)
        else:
            self.field(first + 1, 0, order, 1)
        self.field(first + self.style.pin_row, self.style.pin_offset, pins)

    def hugetlb(self, first: int, *, pins: int, anon: bool = True, references: int = 1) -> None:
        """A page of hugetlbfs: on no LRU list, and with a page type of its own since 6.9."""
        self.compound(first, 9, pins=pins)
        mapping, index = (ANON, 0x7F0000000) if anon else (0, 0)
        kind = self.style.hugetlb_type
        self.page(
            first, "uptodate head", refcount=references + pins, mapcount=kind, mapping=mapping, index=index
        )

    def pin_counters(self, acquired: int, released: int, *, unfolded: int = 0) -> None:
        """Set nr_foll_pin_acquired and _released; ``unfolded`` of the former lie in the CPU's own share."""
        self.poke64(self.vm_node_stat + 8 * 35, acquired - unfolded)
        self.poke64(self.vm_node_stat + 8 * 36, released)
        self.poke(self.node_stats + 35, struct.pack("<b", unfolded))

    def make_movable(self, first: int, pages: int) -> None:
        """Make this memory ZONE_MOVABLE; before the checker attaches."""
        self.movable = range(first, first + pages)
        self.poke(self.node + 8 + 3 * 64, struct.pack("<QQ", first, pages))
        for pfn in self.movable:
            self.page(pfn, refcount=0)

    def make_cma(self, first: int, pages: int) -> None:
        """Make these pageblocks CMA memory; before the checker attaches."""
        flags = sum(CMA << 4 * block for block in range(first // 512, (first + pages) // 512))
        self.poke64(self.usage + 16, flags)
        self.poke64(self.total_cma, pages)

    def pages_written(self, count: int) -> None:
        """Set NR_WRITTEN."""
        self.poke64(self.vm_node_stat + 8 * 34, count)


def packed_length(size: int) -> bytes:
    """The length of a name in kallsyms: two bytes beyond 127."""
    return bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])


def note_bytes(text: bytes) -> bytes:
    """An ELF note as the kernel writes it at the start of a page."""
    return struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text


def placement_types(builder: BtfBuilder, style: Style, ulong: int, void: int) -> None:
    """Zones, migrate types, memory sections."""
    zones = ("DMA", "DMA32", "NORMAL", "MOVABLE", "DEVICE")
    builder.enum("zone_type", {**{f"ZONE_{n}": i for i, n in enumerate(zones)}, "__MAX_NR_ZONES": 5})
    builder.enum("migratetype", {"MIGRATE_UNMOVABLE": 0, "MIGRATE_MOVABLE": 1, "MIGRATE_CMA": CMA})
    builder.enum("pageblock_bits", {"PB_migrate": 0, "PB_migrate_end": 2, "PB_migrate_skip": 3})
    if style.top_byte_types:
        builder.enum("fault_flag", {"FAULT_FLAG_WRITE": 1, "FAULT_FLAG_VMA_LOCK": 1 << 12})
    reasons = {"MR_COMPACTION": 0, "MR_CONTIG_RANGE": 6}
    builder.enum("migrate_reason", reasons if style.name == "5.10" else {**reasons, "MR_LONGTERM_PIN": 7})
    builder.compound(
        "mem_section", 32, [("section_mem_map", ulong, 0), ("usage", void, 8), ("page_ext", void, 16)]
    )
    flags = builder.array(ulong, 0)
    builder.compound("mem_section_usage", 16, [("subsection_map", ulong, 8), ("pageblock_flags", flags, 16)])


def owner_types(builder: BtfBuilder, ulong: int, sint: int, void: int) -> None:
    """Types of the reverse map, with members at places of our own."""
    node = len(builder.types) + 1  # its own number: it points to itself through the pointer that follows
    builder.compound(
        "rb_node", 24, [("__rb_parent_color", ulong, 0), ("rb_right", node + 1, 8), ("rb_left", node + 1, 16)]
    )
    builder.pointer(node)
    root = builder.compound("rb_root", 8, [("rb_node", node + 1, 0)])
    cached = builder.compound("rb_root_cached", 16, [("rb_root", root, 0), ("rb_leftmost", node + 1, 8)])
    builder.compound("anon_vma", 64, [("rb_root", cached, 16)])
    char = builder.integer("char", 1, 1)
    uint = builder.integer("unsigned int", 4)
    link = builder.compound("list_head", 16, [("next", void, 0), ("prev", void, 8)])
    members = [("tgid", sint, 0), ("comm", builder.array(char, 16), 8), ("tasks", link, 24)]
    task = builder.compound("task_struct", 64, [*members, ("files", void, 40), ("mm", void, 48)])
    mm = builder.compound("mm_struct", 64, [("pgd", void, 0), ("owner", builder.pointer(task), 8)])
    qstr = builder.compound("qstr", 16, [("len", uint, 4), ("name", builder.pointer(char), 8)])
    dentry = builder.compound("dentry", 32, [("d_name", qstr, 0)])
    path = builder.compound("path", 16, [("dentry", builder.pointer(dentry), 8)])
    file = builder.compound("file", 32, [("f_path", path, 0), ("f_op", void, 16), ("private_data", void, 24)])
    shared = builder.compound("", 24, [("rb", node, 0)])
    members = [("vm_start", ulong, 0), ("vm_end", ulong, 8), ("vm_mm", builder.pointer(mm), 16)]
    members += [("vm_pgoff", ulong, 24), ("vm_file", builder.pointer(file), 32), ("shared", shared, 40)]
    vma = builder.compound("vm_area_struct", 72, [*members, ("vm_flags", ulong, 64)])
    builder.compound("anon_vma_chain", 64, [("vma", builder.pointer(vma), 0), ("rb", node, 32)])
    builder.compound("address_space", 64, [("i_mmap", cached, 8), ("i_mmap_writable", sint, 24)])
