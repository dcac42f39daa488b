# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects following the reverse map to the process, also through trees that a hostile guest has knotted."""

import struct

import pytest
from synthetic import DIRECT_MAP, SyntheticGuest

from vcapdev.guestmm.kernel import attach
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.owners import describe_entry, describe_owners, find_owners, swap_offset
from vcapdev.guestmm.pagetable import Mapping

AT = 0x700000  # where the objects lie
USER = 0x7F1234000000


def put(guest, offset, *words):
    """Words at an offset of the object area; returns their kernel address."""
    guest.poke(AT + offset, struct.pack(f"<{len(words)}Q", *(w & 0xFFFFFFFFFFFFFFFF for w in words)))
    return DIRECT_MAP + AT + offset


@pytest.fixture
def process(guest):
    """pid 42 "capture" with an area of 16 pages at USER, offset 0x100; its anon_vma and address_space."""
    top = guest._table()
    guest.map(USER + 0x3000, 0x345000, top=top)
    task = put(guest, 0x000, 42)
    guest.poke(AT + 8, b"capture\0")
    mm = put(guest, 0x100, DIRECT_MAP + top, task)
    anon_vma, chain = DIRECT_MAP + AT + 0x300, DIRECT_MAP + AT + 0x400
    vma = put(guest, 0x200, USER, USER + 0x10000, mm, 0x100, 0)
    put(guest, 0x300, 0, 0, chain + 32)  # rb_root of the anon_vma
    put(guest, 0x400, vma, 0, 0, 0, 0, 0, 0)
    space = put(guest, 0x500, 0, vma + 40)
    put(guest, 0x200 + 40, 0, 0, 0)
    return anon_vma, space


def kernel_of(guest):
    return attach(GuestMemory(guest.memory))


def test_an_anonymous_page_leads_to_its_process(guest, process):
    kernel = kernel_of(guest)
    (owner,) = find_owners(kernel, process[0] | 1, 0x103)
    assert (owner.pid, owner.comm, owner.address) == (42, "capture", USER + 0x3000)
    assert owner.backing == "anonymous"
    assert owner.pte.pfn == 0x345
    assert "maps this page (dirty, writable)" in owner.text(0x345)
    assert "maps another page, pfn 0x345" in owner.text(0x346)


def test_a_file_page_leads_to_its_process(guest, process):
    put(guest, 0x200 + 32, DIRECT_MAP + AT + 0x600)  # vm_file
    put(guest, 0x600, 0, DIRECT_MAP + AT + 0x640)  # f_path.dentry
    put(guest, 0x640, 9 << 32, DIRECT_MAP + AT + 0x680)  # d_name
    guest.poke(AT + 0x680, b"video.raw")
    (owner,) = find_owners(kernel_of(guest), process[1], 0x103)
    assert owner.backing == "file video.raw"
    assert owner.pid == 42


def test_a_page_outside_the_area_has_no_owner(guest, process):
    assert find_owners(kernel_of(guest), process[0] | 1, 0x110) == []


@pytest.mark.parametrize("mapping", [0, 3, 2, DIRECT_MAP + AT | 3])
def test_pages_without_an_owner(guest, mapping):
    assert find_owners(kernel_of(guest), mapping, 5) == []


def test_a_tree_that_is_a_knot_ends(guest, process):
    chain = DIRECT_MAP + AT + 0x400 + 32
    put(guest, 0x400 + 32, 0, chain, chain)
    assert len(find_owners(kernel_of(guest), process[0] | 1, 0x103)) == 1


def test_a_process_that_has_gone_is_told(guest, process):
    put(guest, 0x108, 0)
    (owner,) = find_owners(kernel_of(guest), process[0] | 1, 0x103)
    assert "no process any more" in owner.text(1)


def test_pointers_to_nowhere_become_a_note(guest):
    notes = []
    assert describe_owners(kernel_of(guest), 0xFFFF000000000001, 5, 1, notes) == []
    assert len(notes) == 1
    assert "could not be followed" in notes[0]


def test_page_table_entries_are_put_in_words():
    def entry(value):
        return describe_entry(Mapping(0, value, 4096, None), 1)

    assert entry(0) == "PTE empty"
    assert "access rights" in entry(0x100)
    swap = (3 << 59) | (~(0x1234 << 14) >> 5 & 0x7FFFFFFFFFFFFFF & ~0x1FF)
    assert swap_offset(swap) & 0xFFFF == 0x1234
    assert "type 3" in entry(swap)
    assert describe_entry(None, 1) == "its page table cannot be read"


def test_the_program_is_built_once():
    guest = SyntheticGuest()
    kernel = kernel_of(guest)
    from vcapdev.guestmm.target import program_of

    program = program_of(kernel)
    assert program_of(kernel) is program
    assert program.type("struct page").size == 64
    assert program["zero_pfn"].value_() == guest.zero_pfn
    assert program.symbol("jiffies").address == guest.symbols["jiffies"]
    with pytest.raises(LookupError):
        program.type("struct nothing")
    guest.close()


def test_a_name_without_end_is_cut(guest, process):
    guest.poke(AT + 8, b"\xff" * 16)
    (owner,) = find_owners(kernel_of(guest), process[0] | 1, 0x103)
    assert len(owner.comm) == 15
