# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages decoded for people: what one page is, and a word for the state of each of many."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT
from vcapdev.guestmm.pages import PageFacts

OWNED_KINDS = ("anonymous", "file", "shmem")  # words in the kinds of pages whose mapping leads to areas


@dataclass(frozen=True)
class PageView:
    """One struct page, decoded. ``kind`` says in a few words what the page is."""

    pfn: int
    physical: int
    struct_page: int
    kind: str
    flags: tuple[str, ...]
    refcount: int
    mapcount: int
    pins: int
    mapping: int
    index: int
    compound: bool
    page_type: str

    @property
    def owned(self) -> bool:
        """Whether ``mapping`` leads to the areas that map the page."""
        return any(word in self.kind for word in OWNED_KINDS)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        counts = f"refcount {self.refcount}, pins {self.pins}"
        mapped = self.page_type or ("not mapped" if self.mapcount == -1 else f"mapcount {self.mapcount}")
        flags = " ".join(self.flags) or "no flags"
        return f"{self.kind}; {counts}, {mapped}; mapping {self.mapping:#x} index {self.index:#x}; {flags}"


def view_page(kernel: Kernel, facts: PageFacts, i: int) -> PageView:
    """Row ``i`` of ``facts`` for people."""
    pfn, mapping = int(facts.pfn[i]), int(facts.mapping[i])
    mapcount = int(facts.mapcount[i])
    flags = kernel.flags.decode(
        int(facts.flags[i]),
        anon=bool(mapping & 1),
        swap_backed=bool(int(facts.flags[i]) & kernel.flags.bit("swapbacked")),
    )
    return PageView(
        pfn=pfn,
        physical=pfn << PAGE_SHIFT,
        struct_page=kernel.vmemmap.address(pfn),
        kind=page_kinds(kernel, facts)[i],
        flags=tuple(flags),
        refcount=int(facts.refcount[i]),
        mapcount=mapcount,
        pins=int(facts.pins[i]),
        mapping=mapping,
        index=int(facts.index[i]),
        compound=bool(facts.large[i]),
        page_type=kernel.types.name(mapcount & 0xFFFFFFFF),
    )


def page_kinds(kernel: Kernel, facts: PageFacts) -> list[str]:
    """What each page is, whatever its pins: "anonymous page", "free page", "slab page" ..."""
    flags = kernel.flags
    shmem = facts.has(flags.bit("swapbacked")) & ~facts.anon
    choices: list[tuple[NDArray[np.bool_], str]] = [
        (~facts.present, "memory without a struct page"),
        (facts.torn, "unreadable compound page"),
        (facts.pfn == kernel.zero_pfn, "zero page"),
        (_typed_as(kernel, facts, "slab") | facts.has(flags.bit("slab")), "slab page"),
        (_typed_as(kernel, facts, "table"), "page table"),
        ((facts.refcount == 0) & (~facts.typed | _typed_as(kernel, facts, "buddy")), "free page"),
        (facts.typed, "typed kernel page"),
        (facts.has(flags.bit("reserved")), "reserved page"),
        (facts.ksm, "KSM page"),
        (facts.anon & facts.large, "anonymous huge page"),
        (facts.anon, "anonymous page"),
        ((facts.mapping & np.uint64(3)) == 2, "movable kernel page"),
        (_swapping(kernel, facts), "page in the swap cache"),
        (shmem, "shmem page"),
        (facts.mapping != 0, "file page"),
        (facts.has(flags.bit("lru")), "page of a truncated file"),
    ]
    index = np.select([c for c, _ in choices], list(range(len(choices))), default=len(choices))
    names = [name for _, name in choices] + ["kernel page without owner marks"]
    return [names[i] for i in index.tolist()]


def state_labels(kernel: Kernel, facts: PageFacts) -> list[str]:
    """A short word for the state of each page as a DMA target (the legend of the page-state picture)."""
    bit = kernel.flags.bit
    unmapped = (facts.mapcount == -1) & ~facts.large
    swapcache = facts.has(bit("swapcache")) & facts.has(bit("swapbacked"))
    choices: list[tuple[NDArray[np.bool_], str]] = [
        (~facts.present, "no-struct-page"),
        (facts.torn, "unreadable"),
        (facts.pfn == kernel.zero_pfn, "zero"),
        (facts.has(bit("slab")) | _typed_as(kernel, facts, "slab"), "slab"),
        (facts.refcount == 0, "free"),
        (facts.typed, "kernel"),
        (facts.pinned & facts.has(bit("writeback")), "pinned-writeback"),
        (facts.pinned & swapcache & unmapped, "pinned-unmapped-swapcache"),
        (facts.pinned & swapcache, "pinned-swapcache"),
        (facts.pinned & facts.anon & unmapped, "pinned-orphan"),
        (facts.pinned & facts.large, "pinned-huge"),
        (facts.pinned & facts.anon, "pinned-anon"),
        (facts.pinned & (facts.mapping != 0), "pinned-file"),
        (facts.pinned, "pinned-driver"),
        ((facts.mapping == 0) & ~facts.has(bit("lru")) & ~_swapping(kernel, facts), "kernel-buffer"),
        (facts.ksm, "ksm"),
        (swapcache, "unpinned-swapcache"),
    ]
    index = np.select([c for c, _ in choices], list(range(len(choices))), default=len(choices))
    names = [name for _, name in choices] + ["unpinned"]
    return [names[i] for i in index.tolist()]


def _swapping(kernel: Kernel, facts: PageFacts) -> NDArray[np.bool_]:
    """Of no mapping yet: what is read from swap gets its own when it is there (mm/swap_state.c)."""
    swapcache = facts.has(kernel.flags.bit("swapbacked")) & facts.has(kernel.flags.bit("swapcache"))
    return np.equal(facts.mapping, 0) & swapcache


def _typed_as(kernel: Kernel, facts: PageFacts, name: str) -> NDArray[np.bool_]:
    value = kernel.types.values.get(name)
    if value is None:
        return np.zeros(len(facts.pfn), dtype=bool)
    word = facts.mapcount.view(np.uint32)
    return np.equal(word & np.uint32(0xFF000000) if kernel.types.top_byte else word, np.uint32(value))
