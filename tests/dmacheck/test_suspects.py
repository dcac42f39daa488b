# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects rules V8 (writes that cross into a wrong page) and V15 (pages without a right to write)."""

import struct
from types import SimpleNamespace

import numpy as np
import pytest
from fakecard import FakeCard, cards
from synthetic import DIRECT_MAP, PAGE, SyntheticGuest

from vcapdev.dma import Batch, Program
from vcapdev.guestmm.leaves import Leaves
from vcapdev.guestmm.rights import Rights

card = cards()
AT = 0x700000  # where the objects lie
USER = 0x7F1234000000
ANON_VMA, SPACE = DIRECT_MAP + AT + 0x300 | 1, DIRECT_MAP + AT + 0x500
A, B, C = 2000, 2001, 2010
READ, WRITE, SHARED, MAYWRITE = 1, 2, 8, 0x20
OWN = READ | WRITE | MAYWRITE


class Process:
    """pid 42 with an area of 16 pages at USER that begins at index 0x100, of an anon_vma and of a file."""

    def __init__(self, guest, flags=OWN, writable=0):
        self.guest, self.top = guest, guest._table()
        self._put(0x000, 42)
        guest.poke(AT + 8, b"capture\0")
        mm = self._put(0x100, DIRECT_MAP + self.top, DIRECT_MAP + AT)
        chain = DIRECT_MAP + AT + 0x400
        vma = self._put(0x200, USER, USER + 0x10000, mm, 0x100, 0, 0, 0, 0, flags)
        self._put(0x300, 0, 0, chain + 32)
        self._put(0x400, vma, 0, 0, 0, 0, 0, 0)
        self._put(0x500, 0, vma + 40, 0, writable & 0xFFFFFFFF)

    def _put(self, offset, *words):
        self.guest.poke(AT + offset, struct.pack(f"<{len(words)}Q", *words))
        return DIRECT_MAP + AT + offset

    def flags(self, flags):
        self.guest.poke64(AT + 0x240, flags)

    def map(self, page, pfn, *, anon=True, entry=0x67, pins=1):
        """Map a pinned page at this page of the area."""
        self.guest.map(USER + page * PAGE, pfn * PAGE, top=self.top)
        self.entry(page, pfn * PAGE | entry)
        if anon:
            self.guest.anon(pfn, pins=pins, mapping=ANON_VMA, index=0x100 + page)
        else:
            count = 1024 * pins + 2
            self.guest.page(
                pfn, "lru uptodate", mapping=SPACE, index=0x100 + page, mapcount=0, refcount=count
            )

    def entry(self, page, value):
        """Set the page table entry of a page of the area."""
        table = self.top
        for shift in (39, 30, 21):
            table = self.guest.peek64(table + 8 * (USER >> shift & 511)) & ~0xFFF & (1 << 52) - 1
        self.guest.poke64(table + 8 * ((USER >> 12 & 511) + page), value)


def pieces(card, *spans, number=1):
    """A program of these pieces, ``(address, length)`` each, and its batch."""
    ranges = np.array(spans, dtype=np.uint64)
    card.checker.program(Program(number, 0x5000, ranges, b"code"))
    count = np.arange(len(spans))
    size = ranges[:, 1].astype(np.uint32)
    return Batch(ranges[:, 0].copy(), size, count.astype(np.uint32) * PAGE, count.astype(np.int64), number)


def crossing(card, number=1):
    """A line that begins in A and ends in B, which is the next page frame."""
    return pieces(card, (A * PAGE, 4000), (A * PAGE + 4000, 1000), number=number)


# V8.


def test_v8_a_write_that_runs_into_a_page_that_does_not_follow(card):
    process = Process(card.guest)
    process.map(0, A)
    process.map(5, B)
    card.write(crossing(card))
    assert card.rules == ["crosses-pages"]
    verdict = card.found[0]
    assert (verdict.pfn, verdict.address) == (B, B * PAGE)
    assert verdict.origin.line == 1
    assert f"{USER:#x} of pid 42" in verdict.evidence.notes[0]
    assert f"{USER + 5 * PAGE:#x} of pid 42" in verdict.evidence.notes[1]


def test_v8_is_told_once_and_counted(card):
    process = Process(card.guest)
    process.map(0, A)
    process.map(5, B)
    batch = crossing(card)
    for _ in range(3):
        card.write(batch)
    assert card.rules == ["crosses-pages"]
    assert (card.found[0].count, card.pauses) == (3, 1)


def test_v8_pages_that_follow_one_another_were_merged(card):
    process = Process(card.guest)
    process.map(3, A)
    process.map(4, B)
    card.write(crossing(card))
    assert card.rules == []
    assert card.oddities == {}


def test_v8_two_mappings_side_by_side(card):
    """By mapping and index they do not belong together, by their addresses they do: legitimately merged."""
    process = Process(card.guest, flags=OWN | SHARED, writable=1)
    process.map(3, A)
    process.map(4, B)
    process.map(4, B, anon=False)
    batch = crossing(card)
    card.write(batch)
    card.write(batch)
    assert card.rules == []
    assert card.oddities == {}
    assert card.pauses == 0


def test_v8_pages_that_nobody_maps_any_more_cannot_be_told(card):
    process = Process(card.guest)
    process.map(0, A)
    process.map(5, B)
    process.entry(5, 0)
    card.write(crossing(card))
    assert card.rules == []


def test_v8_a_huge_page_is_contiguous(card):
    card.guest.compound(1024, 9, pins=8)
    card.write(pieces(card, (1024 * PAGE + 100, 3 * PAGE)))
    assert card.rules == []


def test_v8_a_neighbour_that_is_not_pinned_is_another_rules(card):
    process = Process(card.guest)
    process.map(0, A)
    process.map(5, B, pins=0)
    card.write(crossing(card))
    assert card.rules == ["not-pinned"]


def test_v8_a_kernel_buffer_may_be_contiguous(card):
    for pfn in (A, B):
        card.guest.page(pfn)
    card.write(crossing(card))
    assert card.rules == []


def test_v8_trees_that_lead_nowhere_are_no_crash(card):
    card.guest.anon(A, mapping=0xFFFF000000000001)
    card.guest.anon(B, mapping=0xFFFF000000002001)
    card.write(crossing(card))
    assert card.rules == []


# V15, pages of files.


def file_card(card, flags, writable):
    process = Process(card.guest, flags=flags, writable=writable)
    process.map(2, C, anon=False, entry=0x25)
    return process


@pytest.mark.parametrize("flags", [OWN, READ | MAYWRITE, READ | SHARED])
@pytest.mark.parametrize("writable", [0, -1])
def test_v15_a_page_of_a_file_that_is_mapped_for_reading_or_privately(card, flags, writable):
    file_card(card, flags, writable)
    card.write(card.program(C))
    assert card.rules == ["no-write-right"]
    assert card.found[0].pfn == C
    assert "entry read-only" in card.found[0].evidence.notes[0]


def test_v15_l7_a_shared_mapping_that_may_be_written(card):
    file_card(card, OWN | SHARED, 1)
    card.write(card.program(C))
    assert card.rules == []
    assert card.pauses == 0


def test_v15_l7_shared_and_unmapped_meanwhile(card):
    process = file_card(card, OWN | SHARED, 0)
    process.entry(2, 0)
    batch = card.program(C)
    card.write(batch)
    card.write(batch)
    assert card.rules == []
    assert card.oddities == {}
    assert card.pauses == 0


def test_v15_a_mapping_that_is_gone_once_the_vcpus_stand(card):
    process = file_card(card, OWN, 0)
    card.on_pause = lambda: process.entry(2, 0)
    batch = card.program(C)
    card.write(batch)
    card.write(batch)
    assert card.rules == []
    assert card.oddities == {"passing": 1}
    assert card.pauses == 1


def test_v15_l7_a_shared_file_that_is_mapped_read_only_for_a_while(card):
    """mprotect: it may be made writable again."""
    file_card(card, READ | SHARED | MAYWRITE, 0)
    card.write(card.program(C))
    assert card.rules == []


def test_v15_a_page_of_a_file_without_a_pin_is_another_rules(card):
    process = file_card(card, OWN, 0)
    process.map(2, C, anon=False, entry=0x25, pins=0)
    card.write(card.program(C))
    assert card.rules == ["not-pinned"]


# V15, a user's own pages.


def own_card(style, entry, flags=OWN, **page):
    """A card in a guest whose media framework tells where the buffer lies in its owner's memory."""
    guest = SyntheticGuest(style)
    card = FakeCard(guest)
    process = Process(guest, flags=flags)
    process.map(2, C, entry=entry)
    if page:
        guest.anon(C, mapping=ANON_VMA, index=0x102, **page)
    ground = card.checker._ground
    leaves = Leaves(ground.kernel, process.top, np.array([USER + 2 * PAGE]))
    ground.contract.user_of = lambda program: SimpleNamespace(leaves=leaves, expected=np.array([C]))
    card.write(card.program(C))
    return card


STRICT, LAX = ["6.12", "7.2"], ["5.10", "6.1"]


@pytest.mark.parametrize("style", STRICT)
def test_v15_a_page_that_was_unshared_for_reading(style):
    card = own_card(style, 0x25)
    assert card.rules == ["no-write-right"]
    assert "never written to" in card.found[0].evidence.notes[0]


@pytest.mark.parametrize("style", LAX)
def test_v15_where_a_driver_may_force_its_way(style):
    assert own_card(style, 0x25).rules == []


@pytest.mark.parametrize("style", STRICT)
@pytest.mark.parametrize("entry", [0x67, 0x65, 0x27, 0x25 | 1 << 58, 0x25 | 1 << 10])
def test_v15_mprotect_uffd_and_whatever_was_written_once(style, entry):
    assert own_card(style, entry).rules == []


@pytest.mark.parametrize("style", STRICT)
def test_v15_an_area_that_is_read_only_by_now(style):
    assert own_card(style, 0x25, flags=READ | MAYWRITE).rules == []


@pytest.mark.parametrize("style", STRICT)
def test_v15_l3_behind_a_migration_entry(style):
    assert own_card(style, 0x24).rules == []


@pytest.mark.parametrize("style", STRICT)
def test_v15_a_page_given_up_with_madv_free(style):
    guest = SyntheticGuest(style)
    card = FakeCard(guest)
    process = Process(guest)
    process.map(2, C, entry=0x25)
    guest.page(C, "uptodate lru", mapping=ANON_VMA, index=0x102, mapcount=0, refcount=1025)
    ground = card.checker._ground
    leaves = Leaves(ground.kernel, process.top, np.array([USER + 2 * PAGE]))
    ground.contract.user_of = lambda program: SimpleNamespace(leaves=leaves, expected=np.array([C]))
    card.write(card.program(C))
    assert card.rules == []


def test_what_cannot_be_told_counts_as_a_right(card):
    rights = Rights.of(card.checker._ground.kernel)
    assert rights.writable_file(0xFFFF000000000000)
    assert rights.users(card.guest.pages + 5) == []
    assert rights.users(card.guest.zero_pfn) == []
