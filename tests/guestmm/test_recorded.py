# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the decoding of pages with memory of real kernels, recorded by tests/guest/record_pages.py.

Everything from the page tables on is the guests' own: where the vmemmap lies, what a huge page's tails say,
where pins are counted. What the kernel said of the same pages (/proc/kpageflags) is the truth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from vcapdev.guestmm.btf import Btf
from vcapdev.guestmm.flags import PageFlags, PageTypes
from vcapdev.guestmm.kallsyms import Kallsyms
from vcapdev.guestmm.kernel import START_KERNEL_MAP, Kernel
from vcapdev.guestmm.layout import PageLayout, PinPlace
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.pages import PageFacts, PageSet
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.guestmm.pageview import page_kinds
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo
from vcapdev.guestmm.vmemmap import Vmemmap
from vcapdev.image.recipe import recipe_names

HERE = Path(__file__).parent / "recorded"
PAGE = 4096
LARGEST = 300_000  # bytes of a recording
SLAB, BUDDY, ANON, HEAD, TAIL, TABLE, RESERVED = 7, 10, 12, 15, 16, 26, 32  # admin-guide/mm/pagemap.rst


class Segment(NamedTuple):
    start: int
    size: int
    data: NDArray[np.uint8]
    fd: int = -1
    fd_offset: int = 0
    writable: bool = False


class Recorded:
    """A recording as a kernel, with the truth about its pages."""

    generation = 1

    def __init__(self, name: str) -> None:
        with np.load(HERE / f"{name}.npz") as data:
            self.about: dict[str, Any] = json.loads(str(data["about"]))
            ram = np.zeros(self.about["ram"], dtype=np.uint8)
            for place, content in zip(data["places"].tolist(), data["content"], strict=True):
                ram[place : place + PAGE] = content
            self.pfns, self.pinned = data["pfns"], data["pinned"]
            self.flags, self.before = data["after"], data["before"]
        self.segments = [Segment(0, len(ram), ram)]
        self.kernel = self._kernel()
        self.facts = self.look(self.pfns)
        self.kinds = np.array(page_kinds(self.kernel, self.facts))

    def _kernel(self) -> Kernel:
        about, memory = self.about, GuestMemory(cast(Any, self))
        table = PageTable(memory, about["top"], about["levels"])
        layout = dict(about["layout"])
        layout["pins"] = PinPlace(**layout["pins"]) if layout["pins"] else None
        layout["order"] = tuple(layout["order"]) if layout["order"] else None
        vmemmap = Vmemmap(memory, table, about["base"], layout["size"], about["pages"])
        return Kernel(
            memory=memory,
            note=Vmcoreinfo.parse(about["note"].encode()),
            table=table,
            symbols=cast(Kallsyms, None),
            btf=cast(Btf, None),
            layout=PageLayout(**layout),
            flags=PageFlags(**about["flags"]),
            types=PageTypes(**about["types"]),
            vmemmap=vmemmap,
            zero_pfn=about["zero_pfn"],
        )

    def look(self, pfns: NDArray[np.int64]) -> PageFacts:
        pages = PageSet(self.kernel, np.asarray(pfns, dtype=np.int64))
        pages.read()
        return pages.facts()

    def said(self, *bits: int) -> NDArray[np.bool_]:
        """Pages of which the kernel said any of these, before and after."""
        mask = np.uint64(sum(1 << bit for bit in bits))
        return ((self.flags & mask) != 0) & ((self.before & mask) != 0)

    def never(self, *bits: int) -> NDArray[np.bool_]:
        """Pages of which it said none of these at either time."""
        return ((self.flags | self.before) & np.uint64(sum(1 << bit for bit in bits))) == 0


@pytest.fixture(scope="module", params=sorted(recipe_names()))
def real(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_the_recording_is_of_the_kernel_that_it_names(real: Recorded) -> None:
    kernel = real.kernel
    assert kernel.release == real.about["release"]
    phys_base = kernel.note.number("phys_base")
    directory = kernel.note.symbol("swapper_pg_dir")
    assert phys_base is not None
    assert directory is not None
    assert real.about["top"] == directory - START_KERNEL_MAP + phys_base
    assert (HERE / f"{real.about['kernel']}.npz").stat().st_size < LARGEST


@pytest.mark.parametrize(
    ("kinds", "bits", "least"),
    [
        ({"slab page"}, (SLAB,), 100),
        ({"page table"}, (TABLE,), 5),
        ({"reserved page", "zero page"}, (RESERVED,), 64),
        ({"anonymous page", "anonymous huge page"}, (ANON,), 100),
    ],
    ids=["slab", "table", "reserved", "anonymous"],
)
def test_kinds_are_what_the_kernel_says(
    real: Recorded, kinds: set[str], bits: tuple[int, ...], least: int
) -> None:
    ours = np.isin(real.kinds, list(kinds))
    theirs, never = real.said(*bits), real.never(*bits)
    if bits == (ANON,):  # 6.12 takes a slab's word for a mapping, fs/proc/page.c
        theirs &= real.never(SLAB)
    assert np.count_nonzero(theirs) >= least
    wrong = np.flatnonzero((theirs & ~ours) | (never & ours))
    assert len(wrong) == 0, [(hex(real.pfns[i]), real.kinds[i], hex(real.flags[i])) for i in wrong[:5]]


def test_free_pages_are_free_and_no_others(real: Recorded) -> None:
    free = real.said(BUDDY)
    assert np.count_nonzero(free) >= 1  # only the first page of a free block is marked
    assert set(real.kinds[free]) == {"free page"}
    held = real.said(SLAB, ANON, TABLE)
    assert "free page" not in set(real.kinds[held])


def test_heads_and_tails_of_huge_pages_say_the_same(real: Recorded) -> None:
    theirs = real.said(HEAD, TAIL)
    assert np.count_nonzero(real.said(TAIL)) >= 64
    assert not real.facts.torn[theirs].any()
    assert real.facts.large[theirs].all()
    assert not real.facts.large[real.never(HEAD, TAIL)].any()
    anon = theirs & real.said(ANON) & real.never(SLAB)
    assert np.count_nonzero(anon) >= 64
    assert set(real.kinds[anon]) == {"anonymous huge page"}


def test_pages_that_the_media_framework_has_pinned_are_pinned(real: Recorded) -> None:
    assert len(real.pinned) >= 64
    facts = real.look(real.pinned)
    assert facts.pinned.all()
    assert facts.anon.all()
    mine = np.isin(real.pfns, real.pinned)
    others = ~mine & ~real.facts.large & real.said(ANON)
    assert not real.facts.pinned[others].any(), "nobody else pins pages of ordinary size"
