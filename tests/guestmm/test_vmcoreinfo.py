# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects finding and parsing the VMCOREINFO note, which an untrusted guest has written."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from synthetic import SyntheticGuest, note_bytes

from vcapdev.guestmm import vmcoreinfo
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo, find_notes

TEXT = b"""OSRELEASE=6.1.0-test
SYMBOL(swapper_pg_dir)=ffffffff8e610000
OFFSET(page._refcount)=52
SIZE(page)=64
LENGTH(node_data)=1024
NUMBER(phys_base)=-25165824
NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129
KERNELOFFSET=bc00000
NUMBER(odd)=nonsense
no line of ours
"""


def test_every_kind_of_line_is_understood():
    note = Vmcoreinfo.parse(TEXT, 0x1000)
    assert note.release == "6.1.0-test"
    assert note.symbol("swapper_pg_dir") == 0xFFFFFFFF8E610000
    assert note.offset("page._refcount") == 52
    assert note.size("page") == 64
    assert note.length("node_data") == 1024
    assert note.number("phys_base") == -25165824
    assert note.kernel_offset == 0xBC00000
    assert note.number("odd") is None
    assert note.number("absent") is None
    assert note.build_id == ""


def test_notes_are_found_at_page_starts_in_order(guest):
    guest.poke(0x500000, note_bytes(b"OSRELEASE=second\n"))
    guest.poke(0x501010, note_bytes(b"OSRELEASE=not at a page start\n"))
    notes = list(find_notes(GuestMemory(guest.memory)))
    assert [(note.address, note.release) for note in notes] == [
        (guest.note_at, guest.release),
        (0x500000, "second"),
    ]


def test_impossible_headers_are_passed_over(guest):
    for page, head in enumerate([(11, 0), (11, 1 << 30), (12, 20)]):
        guest.poke(0x600000 + page * 4096, struct.pack("<III", *head, 0) + b"VMCOREINFO\0\0OSRELEASE=bad\n")
    guest.poke(0x700000 - 8, b"")
    assert [n.release for n in find_notes(GuestMemory(guest.memory))] == [guest.release]


def test_a_note_cut_off_by_the_end_of_ram_is_harmless():
    guest = SyntheticGuest()
    guest.poke(len(guest.ram) - 4096, note_bytes(b"OSRELEASE=last\n"))
    end = struct.pack("<III", 11, 60000, 0) + b"VMCOREINFO\0\0OSRELEASE=last\n"
    guest.poke(len(guest.ram) - 4096, end)
    assert [n.release for n in find_notes(GuestMemory(guest.memory))][-1] == "last"
    guest.close()


@given(st.binary(max_size=2000))
def test_no_text_raises(text):
    note = Vmcoreinfo.parse(text)
    for key in ("page", "swapper_pg_dir"):
        assert note.symbol(key) is None or isinstance(note.symbol(key), int)
        assert note.size(key) is None or isinstance(note.size(key), int)


def test_a_guest_full_of_notes_lets_the_device_breathe(guest):
    for page in range(0x500, 0xA00):
        guest.poke(page * 4096, note_bytes(b"OSRELEASE=decoy\n"))
    breaths = []
    assert len(list(find_notes(GuestMemory(guest.memory), lambda: breaths.append(1)))) == 0x501
    assert len(breaths) >= 5


def test_notes_are_found_behind_a_stride_of_the_scan(guest, monkeypatch):
    monkeypatch.setattr(vmcoreinfo, "_STRIDE", 3)
    guest.poke(0x500000, note_bytes(b"OSRELEASE=second\n"))
    found = [note.address for note in find_notes(GuestMemory(guest.memory))]
    assert found == [guest.note_at, 0x500000]
