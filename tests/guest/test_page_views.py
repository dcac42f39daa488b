# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker's view of pages agrees with the guest kernel's own (/proc/kpageflags, kpagecount, pagemap).

Also with address-space randomisation, which only a guest booted from its compressed kernel has.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from guest_ram import memory_of
from numpy.typing import NDArray

import vcapdev
from vcapdev.errors import ExitStatus
from vcapdev.guestmm.kernel import Kernel, attach
from vcapdev.guestmm.owners import find_owners, swap_offset
from vcapdev.guestmm.pages import PageFacts, PageSet
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.guestmm.pageview import page_kinds
from vcapdev.guestmm.structs import Structs
from vcapdev.guestmm.words import Reader
from vcapdev.image.programs import build_programs
from vcapdev.progress import Silent
from vcapdev.run.command import finish
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session
from vcapdev.testing import Guest

pytestmark = [pytest.mark.guest, vcapdev.guest(swap="disk")]

RECIPES = ("bullseye-5.10", "bookworm-6.1", "trixie-6.12", "trixie-7.3")
EVERY_KERNEL = pytest.mark.parametrize(
    "kernel", [pytest.param(name, marks=vcapdev.guest(kernel=name)) for name in RECIPES], indirect=True
)

# Documentation/admin-guide/mm/pagemap.rst
SLAB, BUDDY, ANON, SWAPBACKED, HEAD, TAIL, TABLE, RESERVED = 7, 10, 12, 14, 15, 16, 26, 32
DEFAULT_VMEMMAP = -(0x160000000000)  # 0xffffea0000000000, Documentation/x86/x86_64/mm.rst


@pytest.fixture
def kernel(guest: Guest) -> Iterator[Kernel]:
    with memory_of(guest.vm) as memory:
        yield attach(memory)


def look(kernel: Kernel, *pfns: int) -> PageFacts:
    pages = PageSet(kernel, np.array(pfns, dtype=np.int64))
    pages.read()
    return pages.facts()


@EVERY_KERNEL
def test_pages_of_a_program(guest: Guest, kernel: Kernel) -> None:
    """Kind, map count and owner of a few pages that are known to the byte."""
    lines: list[list[str]] = []
    process = guest.spawn([program(guest, "vcap-pages")], on_stdout=lambda line: lines.append(line.split()))
    try:
        guest.wait(lambda: bool(lines) and lines[-1][0] == "ready", 60, "the pages")
        told = {name: tuple(map(int, rest)) for name, *rest in lines}
        pid = told.pop("ready")[0]
        swapped = told.pop("swapped")
        names = list(told)
        facts = look(kernel, *(told[name][1] for name in names))
        kinds = dict(zip(names, page_kinds(kernel, facts), strict=True))
        maps = dict(zip(names, (facts.mapcount + 1).tolist(), strict=True))
        assert kinds == {
            "zero": "zero page",
            "anon": "anonymous page",
            "locked": "anonymous page",
            "forked": "anonymous page",
            "shared": "shmem page",
        }
        del maps["zero"]  # it is not counted
        assert maps == {name: told[name][3] for name in maps}
        assert (maps["anon"], maps["forked"], maps["shared"]) == (1, 2, 2)
        assert not facts.pinned.any()
        place = names.index("anon")
        owners = find_owners(kernel, int(facts.mapping[place]), int(facts.index[place]))
        assert (pid, "vcap-pages", told["anon"][0]) in [(o.pid, o.comm, o.address) for o in owners]
        mine = next(owner for owner in owners if owner.pid == pid)
        assert mine.pte is not None
        assert mine.pte.pfn == told["anon"][1]
        assert swap_entry(kernel, mine.vma, swapped[0]) == swapped[1:3]
    finally:
        process.kill()
        process.wait(30)


def swap_entry(kernel: Kernel, vma: int, address: int) -> tuple[int, int]:
    """Type and offset of the swap entry at an address of the process that has this area."""
    read = Reader.of(kernel)
    of = Structs.of(kernel).offsets
    mm = read.u64(vma + of("vm_area_struct", "vm_mm")["vm_mm"])
    top = kernel.table.translate(read.u64(mm + of("mm_struct", "pgd")["pgd"]))
    entry = PageTable(kernel.memory, top, kernel.table.levels).walk(address).entry
    assert not entry & 1
    return entry >> 59, swap_offset(entry)


def program(guest: Guest, name: str) -> str:
    """Build a program of src/ beside this file, and put it into the guest: its path there."""
    path = build_programs([name], Silent(), sources=Path(__file__).parent / "src")[name]
    guest.push(path, f"/tmp/{name}", mode=0o755)
    return f"/tmp/{name}"


def seen_between(
    guest: Guest, kernel: Kernel, count: int
) -> tuple[PageFacts, NDArray[np.uint64], NDArray[np.uint64]]:
    """Our view of the first pages, and what the kernel said of them before and after."""
    process = guest.spawn([program(guest, "vcap-flags"), str(count)])
    guest.wait(lambda: "once" in process.stdout or process.status is not None, 60, "the first reading")
    facts = look(kernel, *range(count))
    process.kill(signal.SIGUSR1)
    assert process.wait(60).status == 0, process.stderr
    before, after = np.frombuffer(guest.pull("/tmp/flags"), dtype=np.uint64).reshape(2, count)
    return facts, before, after


@EVERY_KERNEL
def test_all_pages_of_the_guest(guest: Guest, kernel: Kernel) -> None:
    """What the kernel calls free, slab, page table, reserved or anonymous is that for the checker, too.

    Pages that change between two readings of the kernel's file are left out.
    """
    count = kernel.vmemmap.pages
    facts, before, after = seen_between(guest, kernel, count)
    kinds = np.array(page_kinds(kernel, facts))
    anon = np.char.startswith(kinds, "anonymous")
    asked = sum(1 << bit for bit in (SLAB, BUDDY, ANON, HEAD, TAIL, TABLE, RESERVED))
    steady = (before & np.uint64(asked)) == (after & np.uint64(asked))
    assert np.count_nonzero(steady) > count * 0.9
    slab = (after >> np.uint64(SLAB) & np.uint64(1)) != 0
    for bits, ours, least in (
        (1 << SLAB, kinds == "slab page", 500),
        (1 << TABLE, kinds == "page table", 5),
        (1 << RESERVED, (kinds == "reserved page") | (kinds == "zero page"), 100),
        (1 << ANON, anon, 100),
        (1 << HEAD | 1 << TAIL, facts.large, 100),
    ):
        theirs = (after & np.uint64(bits)) != 0
        if bits == 1 << ANON:  # 6.12 takes a slab's word for a mapping, fs/proc/page.c
            theirs &= ~slab
        wrong = np.flatnonzero((ours != theirs) & steady)
        assert np.count_nonzero(theirs) >= least
        assert len(wrong) <= 8, (bits, wrong[:10], kinds[wrong[:10]])  # a few may have gone and come between
    assert np.count_nonzero(facts.torn & steady) <= 8
    buddy = (after >> np.uint64(BUDDY) & np.uint64(1)) != 0
    assert np.count_nonzero(buddy) > count // 4
    wrong = np.flatnonzero(buddy & steady & (kinds != "free page"))
    assert len(wrong) <= 8, (wrong[:10], kinds[wrong[:10]])
    held = (after & np.uint64(1 << SLAB | 1 << ANON | 1 << TABLE | 1 << SWAPBACKED)) != 0
    assert np.count_nonzero(held & steady & (kinds == "free page")) <= 8


def test_a_kernel_at_a_random_place_is_found_and_judged(prepared: Prepared) -> None:
    """A run that starts the compressed kernel as it is: its decompressor chooses where all of it lies."""
    options = RunOptions(width=320, height=240, frames=10, swap="none", pressure="none", clock="fast", pool=6)
    compressed = replace(prepared, kernel=prepared.guest.kernel)
    with Placed(options, compressed, Screen(io.StringIO())) as session:
        status = finish(session)
    assert status is ExitStatus.CLEAN, session.report.sentence
    assert session.report.dma.checker == "attached"
    assert session.report.dma.pages_checked > 0
    assert session.kernel_offset >= 0
    # Either may by chance be where it is without randomisation, but not both.
    assert (session.kernel_offset, session.vmemmap) != (0, DEFAULT_VMEMMAP & (1 << 64) - 1)


class Placed(Session):
    """A run that notes where the kernel lies."""

    kernel_offset = vmemmap = -1

    def _settle(self, agent: object) -> None:
        with memory_of(self.vm) as memory:
            kernel = attach(memory)
            self.kernel_offset, self.vmemmap = kernel.note.kernel_offset, kernel.vmemmap.base
        super()._settle(agent)  # type: ignore[arg-type]
