# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects following page tables: every page size, entries that are not there, tables that lead astray."""

import pytest
from synthetic import DIRECT_MAP, LARGE, VMEMMAP

from vcapdev.guestmm.memory import GuestMemory, GuestReadError
from vcapdev.guestmm.pagetable import PageTable


@pytest.fixture
def table(guest):
    return PageTable(GuestMemory(guest.memory), guest.top)


def test_small_and_large_pages_translate(guest, table):
    guest.map(0x7F0000001000, 0x345000)
    small = table.walk(0x7F0000001234)
    assert (small.physical, small.size, small.pfn) == (0x345234, 4096, 0x345)
    large = table.walk(DIRECT_MAP + 0x345678)
    assert (large.physical, large.size) == (0x345678, LARGE)
    assert table.translate(VMEMMAP) == guest.vmemmap_at[0]


def test_a_gigabyte_page_translates(guest, table):
    place = table.top
    entry = guest.peek64(place + 8 * (DIRECT_MAP >> 39 & 511)) & ~0xFFF & (1 << 52) - 1
    guest.poke64(entry + 8 * 5, 0x1E3)
    found = table.walk(DIRECT_MAP + (5 << 30) + 0x12345)
    assert (found.physical, found.size) == (0x12345, 1 << 30)


def test_entries_that_are_not_present_are_told(guest, table):
    guest.map(0x7F0000001000, 0x345000)
    leaf = table.walk(0x7F0000002000)
    assert leaf.physical is None
    assert leaf.pfn is None
    assert leaf.entry == 0
    with pytest.raises(GuestReadError, match="is not mapped in the guest"):
        table.translate(0x7F0000002000)


def test_reads_cross_page_borders(guest, table):
    guest.map(0x7F0000001000, 0x345000)
    guest.map(0x7F0000002000, 0x200000)
    guest.poke(0x345FFC, b"abcd")
    guest.poke(0x200000, b"efgh")
    assert table.read(0x7F0000001FFC, 8) == b"abcdefgh"


def test_a_table_outside_ram_is_an_error(guest, table):
    guest.poke64(table.top + 8 * 3, 0x7FFFFFF000 | 0x67)
    with pytest.raises(GuestReadError, match="is not mapped"):
        table.walk(3 << 39)


def test_a_table_that_points_to_itself_ends(guest, table):
    guest.poke64(table.top + 8 * 7, table.top | 0x67)
    virtual = 7 << 39 | 7 << 30 | 7 << 21 | 7 << 12
    assert table.walk(virtual).physical == table.top


def test_five_levels(guest):
    top = guest._table()
    guest.poke64(top + 8 * (VMEMMAP >> 48 & 511), guest.top | 0x67)
    five = PageTable(GuestMemory(guest.memory), top, 5)
    assert five.translate(VMEMMAP) == guest.vmemmap_at[0]


@pytest.mark.parametrize("size", [-5, 1 << 50])
def test_absurd_lengths_are_refused(table, size):
    with pytest.raises(GuestReadError, match="no sensible length"):
        table.read(VMEMMAP, size)
