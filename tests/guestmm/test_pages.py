# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects decoding struct pages in bulk on every layout: heads, tails, pins, types, holes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import STYLES, VMEMMAP, SyntheticGuest

from vcapdev.guestmm import vmemmap
from vcapdev.guestmm.kernel import AttachError, attach
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.pages import PageSet
from vcapdev.guestmm.pageview import page_kinds, state_labels, view_page


def look(guest, *pfns):
    kernel = attach(GuestMemory(guest.memory))
    pages = PageSet(kernel, np.array(pfns, dtype=np.int64))
    pages.read()
    return kernel, pages, pages.facts()


def test_order_0_pins_are_the_bias(any_guest):
    for i, pins in enumerate((0, 1, 2, 60)):
        any_guest.anon(2000 + i, pins=pins, extra=3)
    _, _, facts = look(any_guest, 2000, 2001, 2002, 2003)
    assert facts.pins.tolist() == [0, 1, 2, 60]
    assert facts.pinned.tolist() == [False, True, True, True]
    assert facts.anon.all()
    assert not facts.large.any()


def test_compound_pins_are_counted_apart(any_guest):
    any_guest.compound(1024, 4, pins=3)
    any_guest.compound(1040, 4, pins=0)
    _, _, facts = look(any_guest, 1024, 1025, 1039, 1040, 1045)
    assert facts.pins.tolist() == [3, 3, 3, 0, 0]
    assert facts.large.all()
    assert facts.anon.all()
    assert facts.refcount.tolist() == [4, 4, 4, 1, 1]
    assert not facts.torn.any()


def test_a_head_with_a_thousand_references_is_not_pinned(any_guest):
    any_guest.compound(1024, 4, pins=0)
    any_guest.field(1024, 52, 5000)
    _, _, facts = look(any_guest, 1030)
    assert not facts.pinned.any()


def test_order_1_uses_the_bias_where_the_kernel_does():
    guest = SyntheticGuest("5.10")
    guest.compound(1024, 1, pins=0)
    guest.field(1024, 52, 1025)
    _, _, facts = look(guest, 1025)
    assert facts.pins.tolist() == [1]
    guest.close()


def test_a_page_that_becomes_part_of_a_compound_page_is_noticed(any_guest):
    any_guest.anon(1030)
    _, pages, facts = look(any_guest, 1030)
    assert not facts.large.any()
    any_guest.compound(1024, 4, pins=2)
    pages.read()
    assert pages.facts().pins.tolist() == [2]
    any_guest.field(1024 + any_guest.style.pin_row, any_guest.style.pin_offset, 5)
    pages.read()
    assert pages.facts().pins.tolist() == [5]


def test_a_tail_that_names_nonsense_is_torn():
    guest = SyntheticGuest()
    for i, link in enumerate((3, VMEMMAP + 17, VMEMMAP + (1 << 40) + 1, 0xFFFFFFFFFFFFFFFF)):
        guest.page(1030 + i, refcount=0, link=link | 1)
    _, _, facts = look(guest, 1030, 1031, 1032, 1033)
    assert facts.torn.all()
    guest.close()


def test_tails_that_name_one_another_are_torn():
    guest = SyntheticGuest()
    guest.page(1030, refcount=0, link=VMEMMAP + 1031 * 64 + 1)
    guest.page(1031, refcount=0, link=VMEMMAP + 1030 * 64 + 1)
    _, _, facts = look(guest, 1030, 1031)
    assert facts.torn.all()
    guest.close()


def test_pages_outside_the_array_are_not_present(any_guest):
    _, _, facts = look(any_guest, 100, any_guest.pages, 1 << 40)
    assert facts.present.tolist() == [True, False, False]


def test_peek_and_read_agree(any_guest):
    any_guest.anon(2000)
    _, pages, _ = look(any_guest, 2000, 2001)
    assert pages.peek() == pages.peeked()
    any_guest.field(2000, 8, 0x1234568, 8)  # an LRU link: of no interest
    assert pages.peek() == pages.peeked()
    any_guest.field(2000, 52, 1)
    assert pages.peek() != pages.peeked()


def test_what_pages_are_is_told(any_guest):
    any_guest.anon(2000)
    any_guest.free(2001)
    any_guest.page(2002, "lru uptodate", mapping=0xFFFF888000123000, refcount=2, mapcount=0)
    any_guest.page(2003, "lru swapbacked", mapping=0xFFFF888000123000, refcount=2, mapcount=0)
    any_guest.page(2004, "reserved")
    any_guest.page(2005)
    any_guest.anon(2006, mapping=0xFFFF888000123003)
    kernel, _, facts = look(any_guest, *range(2000, 2007), any_guest.zero_pfn)
    assert page_kinds(kernel, facts) == [
        "anonymous page",
        "free page",
        "file page",
        "shmem page",
        "reserved page",
        "kernel page without owner marks",
        "KSM page",
        "zero page",
    ]
    view = view_page(kernel, facts, 0)
    assert view.struct_page == VMEMMAP + 2000 * 64
    assert "swapbacked" in view.flags
    assert "refcount 1025, pins 1" in str(view)
    assert state_labels(kernel, facts)[:2] == ["pinned-anon", "free"]


def test_a_page_that_is_being_read_from_swap_is_neither_shared_memory_nor_the_drivers(any_guest):
    """It has no mapping before it is there: __read_swap_cache_async() of mm/swap_state.c."""
    any_guest.page(2000, "locked swapbacked swapcache", refcount=2)
    any_guest.page(2001, "lru swapbacked swapcache", refcount=2)
    kernel, _, facts = look(any_guest, 2000, 2001)
    assert page_kinds(kernel, facts) == ["page in the swap cache"] * 2
    assert state_labels(kernel, facts) == ["unpinned-swapcache"] * 2


def test_slab_and_page_tables_are_told_where_they_are_types():
    guest = SyntheticGuest("6.12")
    guest.page(2000, mapcount=0xF5000000 - (1 << 32))
    guest.page(2001, mapcount=0xF2000000 - (1 << 32))
    kernel, _, facts = look(guest, 2000, 2001)
    assert page_kinds(kernel, facts) == ["slab page", "page table"]
    assert view_page(kernel, facts, 1).page_type == "table"
    guest.close()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(STYLES)), st.binary(min_size=256, max_size=256))
def test_any_bytes_decode(style, junk):
    guest = SyntheticGuest(style)
    try:
        guest.poke(guest.row_at(1024), junk)
        kernel, _, facts = look(guest, 1024, 1025, 1026, 1027)
        assert len(state_labels(kernel, facts)) == len(page_kinds(kernel, facts)) == 4
        assert str(view_page(kernel, facts, 0))
    finally:
        guest.close()


@pytest.mark.parametrize("scattered", [False, True])
def test_struct_pages_that_moved_are_noticed(scattered):
    guest = SyntheticGuest(scattered=scattered)
    kernel = attach(GuestMemory(guest.memory))
    assert kernel.vmemmap.still_there(640)
    assert kernel.vmemmap.still_there(1 << 50)
    place = 0x180000
    guest._next_table = 0x190000
    leaf = kernel.table.walk(kernel.vmemmap.address(640))
    if leaf.size == 4096:
        guest.map(kernel.vmemmap.address(640) & ~0xFFF, place)
    else:
        guest.map(kernel.vmemmap.address(0), 0x800000, large=True)
    assert not kernel.vmemmap.still_there(640)
    guest.close()


def test_a_vmemmap_in_too_many_pieces_is_given_up(monkeypatch):
    """The device stands while it is followed: a hostile guest must not decide for how long."""
    guest = SyntheticGuest(scattered=True)
    monkeypatch.setattr(vmemmap, "_MAX_STEPS", 100)
    with pytest.raises(AttachError, match="too many pieces"):
        attach(GuestMemory(guest.memory))
    guest.close()


def test_the_same_facts_while_nothing_relevant_differs(any_guest):
    any_guest.anon(1030)
    _, pages, _ = look(any_guest, 1030)
    first = pages.sight()
    assert pages.sight() is first
    any_guest.anon(1030, pins=2)
    second = pages.sight()
    assert (first.pins.tolist(), second.pins.tolist()) == ([1], [2])
    any_guest.anon(1030)
    pages.read()
    assert pages.sight().pins.tolist() == [1]


def test_facts_of_a_page_that_becomes_a_tail_do_not_stay(any_guest):
    any_guest.anon(1030)
    _, pages, _ = look(any_guest, 1030)
    assert pages.sight().pins.tolist() == [1]
    any_guest.compound(1024, 4, pins=2)
    assert pages.sight().pins.tolist() == [2]
    any_guest.compound(1024, 4, pins=5)
    assert pages.sight().pins.tolist() == [5]
