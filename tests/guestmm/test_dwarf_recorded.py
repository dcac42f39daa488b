# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects reading a kernel by the DWARF of its vmlinux alone, with a real one's: no BTF, no symbol table.

tests/guest/record_dwarf.py recorded a 6.1.176 that was built without BTF. Attaching finds everything by
itself in that memory, as in a guest's. What the kernel said of its pages (/proc/kpageflags) is the truth.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from vcapdev.guestmm.debugfile import DebugFile
from vcapdev.guestmm.kernel import AttachError, Kernel, attach
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.pages import PageFacts, PageSet
from vcapdev.guestmm.pageview import page_kinds

PAGE = 4096
RECORDED = sorted((Path(__file__).parent / "recorded_dwarf").glob("*.npz"))
SLAB, BUDDY, ANON, TABLE, RESERVED = 7, 10, 12, 26, 32  # admin-guide/mm/pagemap.rst


class Segment:
    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.start, self.size, self.data = 0, len(data), data
        self.fd, self.fd_offset, self.writable = -1, 0, False


class Recorded:
    """A recording as a guest's memory, with what was taken from the vmlinux."""

    generation = 1

    def __init__(self, path: Path) -> None:
        with np.load(path) as data:
            self.about: dict[str, Any] = json.loads(str(data["about"]))
            ram = np.zeros(self.about["ram"], dtype=np.uint8)
            for place, content in zip(data["places"].tolist(), data["content"], strict=True):
                ram[place : place + PAGE] = content
            self.pfns, self.pinned = data["pfns"], data["pinned"]
            self.before, self.after = data["before"], data["after"]
            types = data["types"].tobytes()
        self.segments = [Segment(ram)]
        self.file = DebugFile(Path("vmlinux"), types, self.about["symbols"], self.about["build_id"])
        self.memory = GuestMemory(cast(Any, self))

    def said(self, bit: int) -> NDArray[np.bool_]:
        """Pages of which the kernel said so, before and after."""
        return np.asarray((self.before & self.after) >> np.uint64(bit) & np.uint64(1), dtype=bool)

    def never(self, bit: int) -> NDArray[np.bool_]:
        """Pages of which it did not at either time."""
        return ~np.asarray((self.before | self.after) >> np.uint64(bit) & np.uint64(1), dtype=bool)


@pytest.fixture(scope="module", params=RECORDED, ids=lambda path: path.stem)
def real(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


@pytest.fixture(scope="module")
def kernel(real: Recorded) -> Kernel:
    return attach(real.memory, debug_file=real.file)


def look(kernel: Kernel, pfns: NDArray[np.int64]) -> PageFacts:
    pages = PageSet(kernel, pfns)
    pages.read()
    return pages.facts()


def test_the_kernel_is_found(real: Recorded, kernel: Kernel) -> None:
    assert kernel.release == real.about["release"]
    assert kernel.note.build_id == real.about["build_id"]
    assert 0 < kernel.vmemmap.pages <= real.about["ram"] // PAGE
    assert page_kinds(kernel, look(kernel, np.array([kernel.zero_pfn]))) == ["zero page"]


@pytest.mark.parametrize(
    ("kinds", "bit", "least"),
    [
        ({"slab page"}, SLAB, 50),
        ({"page table"}, TABLE, 5),
        ({"reserved page", "zero page"}, RESERVED, 50),
        ({"anonymous page"}, ANON, 50),
    ],
    ids=["slab", "table", "reserved", "anonymous"],
)
def test_kinds_are_what_the_kernel_says(
    real: Recorded, kernel: Kernel, kinds: set[str], bit: int, least: int
) -> None:
    found = page_kinds(kernel, look(kernel, real.pfns))
    ours = np.isin(np.array(found), list(kinds))
    assert np.count_nonzero(real.said(bit)) >= least
    wrong = np.flatnonzero((real.said(bit) & ~ours) | (real.never(bit) & ours))
    assert [(hex(real.pfns[row]), found[row], hex(real.after[row])) for row in wrong[:5]] == []


def test_free_pages_are_free_and_no_others(real: Recorded, kernel: Kernel) -> None:
    found = np.array(page_kinds(kernel, look(kernel, real.pfns)))
    assert np.count_nonzero(real.said(BUDDY)) >= 1  # only the first page of a free block is marked
    assert set(found[real.said(BUDDY)]) == {"free page"}
    assert "free page" not in set(found[real.said(SLAB) | real.said(ANON) | real.said(TABLE)])


def test_the_pages_of_the_capture_are_pinned_and_no_others(real: Recorded, kernel: Kernel) -> None:
    assert len(real.pinned) >= 64
    facts = look(kernel, real.pinned)
    assert facts.pinned.all()
    assert facts.anon.all()
    others = ~np.isin(real.pfns, real.pinned) & real.said(ANON)
    assert not look(kernel, real.pfns[others]).pinned.any()


def test_nothing_but_the_right_file_will_do(real: Recorded) -> None:
    with pytest.raises(AttachError, match=r"6\.1\.176 in the guest is not understood: kallsyms"):
        attach(real.memory)
    other = replace(real.file, build_id="00" * 20)
    with pytest.raises(AttachError, match="vmlinux is of another build: 000000000000, the kernel's is"):
        attach(real.memory, debug_file=other)
