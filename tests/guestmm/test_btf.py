# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the BTF reader: layouts by member, and blobs that a hostile guest has made up."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import ARRAY, CONST, TYPEDEF, UNION, BtfBuilder, SyntheticGuest

from vcapdev.guestmm.btf import Btf, BtfError, Kind
from vcapdev.guestmm.kernel import attach
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.target import build_program


def sample():
    b = BtfBuilder()
    b.integer("int", 4, 1)  # 1
    b.compound("inner", 8, [("x", 1, 0), ("y", 1, 4)])  # 2
    b.compound("", 8, [("hidden", 1, 4)], UNION)  # 3
    b.compound("outer", 24, [("a", 2, 0), ("", 3, 8), ("b", 5, 16)])  # 4
    b.add(TYPEDEF, "inner_t", 6)  # 5
    b.add(CONST, "", 2)  # 6
    b.pointer(4)  # 7
    b.array(7, 5)  # 8
    b.enum("colour", {"RED": 0, "BLUE": -2})  # 9
    b.add(TYPEDEF, "loop", 11)  # 10
    b.add(TYPEDEF, "loop2", 10)  # 11
    return b


def test_members_are_found_through_anonymous_unions_and_typedefs():
    btf = Btf(sample().build())
    assert btf.offset("outer", "a.y") == 4
    assert btf.offset("outer", "hidden") == 12
    assert btf.offset("outer", "b.y") == 20
    assert btf.place("outer", "nothing") is None
    assert btf.place("no_such_type", "x") is None
    assert btf.offset("outer", "a.y.z") is None


def test_sizes_enumerations_and_arrays():
    btf = Btf(sample().build())
    assert btf.sizeof(8) == 40
    assert btf.sizeof(5) == 8
    assert btf.enumerators(9)["RED"] == 0
    assert btf.array(8) == (7, 5)
    assert btf.type(0).kind is Kind.VOID
    assert len(btf) == 12


def test_signed_enumerations_follow_the_kind_flag():
    b = BtfBuilder()
    b.add(6, "signed", 4, 1, struct.pack("<Ii", b.string("LOW"), -2), flag=True)
    b.add(19, "wide", 8, 1, struct.pack("<III", b.string("HIGH"), 1, 2))
    btf = Btf(b.build())
    assert btf.enumerators(1) == {"LOW": -2}
    assert btf.enumerators(2) == {"HIGH": (2 << 32) | 1}


def test_a_chain_of_typedefs_without_end_is_an_error():
    btf = Btf(sample().build())
    with pytest.raises(BtfError, match="without end"):
        btf.resolve(10)


def test_a_struct_that_holds_itself_ends():
    b = BtfBuilder()
    b.compound("knot", 8, [("", 1, 0), ("", 1, 0), ("", 1, 4)])
    with pytest.raises(BtfError, match="nested without end"):
        Btf(b.build()).place("knot", "x")


def nested(levels, wide):
    """Structs nested without names: each holds ``wide`` times the next; the last holds an "x"."""
    b = BtfBuilder()
    for level in range(1, levels + 1):
        b.compound(f"level{level}", 8, [("", level + 1, 0)] * wide)
    b.compound("last", 8, [("x", 0, 0)])
    return Btf(b.build())


def test_members_are_looked_for_so_deep_and_so_wide():
    assert nested(20, 1).offset("level1", "x") == 0
    with pytest.raises(BtfError, match="nested without end"):
        nested(60, 1).offset("level1", "x")
    with pytest.raises(BtfError, match="nested without end"):
        nested(28, 2).offset("level1", "y")


def test_members_of_anonymous_members_are_the_structs_own():
    btf = Btf(sample().build())
    found = btf.find("outer", Kind.STRUCT)
    members = [(member.name, member.bit_offset) for member in btf.all_members(found.id)]
    assert members == [("a", 0), ("b", 128), ("hidden", 96)]


def test_drgn_is_not_given_a_struct_without_end():
    """It would look for a member in it until the stack ends, and the device process with it."""
    guest = SyntheticGuest()
    number = len(guest.btf.types) + 1
    guest.btf.compound("knot", 8, [("", number, 0), ("", number, 0)])
    guest.write_note()
    program = build_program(attach(GuestMemory(guest.memory)))
    with pytest.raises(LookupError, match="nested without end"):
        program.type("struct knot")
    guest.close()


def test_a_name_without_end_is_an_error():
    b = BtfBuilder()
    b.compound("x" * 5000, 8, [("a", 1, 0)])
    btf = Btf(b.build())
    with pytest.raises(BtfError, match="without end"):
        btf.type(1)


def test_strings_that_repeat_themselves_are_an_error():
    b = BtfBuilder()
    b.strings += b"page\0" * 100_000
    with pytest.raises(BtfError, match="repeat themselves"):
        Btf(b.build()).find("page")


def test_an_array_of_itself_is_an_error():
    b = BtfBuilder()
    b.add(ARRAY, "", 0, extra=struct.pack("<III", 1, 1, 2))
    with pytest.raises(BtfError, match="without end"):
        Btf(b.build()).sizeof(1)


@pytest.mark.parametrize(
    "data", [b"", b"x" * 10, b"\0" * 64, struct.pack("<HBBIIIII", 0xEB9F, 2, 0, 24, 0, 0, 0, 0)]
)
def test_what_is_no_btf_is_refused(data):
    with pytest.raises(BtfError):
        Btf(data)


def test_cut_off_blobs_are_refused():
    blob = sample().build()
    for size in range(24, len(blob) - 1, 7):
        with pytest.raises(BtfError):
            Btf(blob[:size])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_blobs_raise_only_btf_errors(data):
    blob = bytearray(sample().build())
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(st.integers(24, len(blob) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BtfError):
        btf = Btf(bytes(blob))
        for name in ("outer", "inner", "colour", "loop", "page"):
            found = btf.find(name)
            btf.place(name, "a.y")
            if found is not None:
                btf.resolve(found.id)
                btf.sizeof(found.id)


def test_breathes_now_and_then():
    b = BtfBuilder()
    b.types += [struct.pack("<III", 0, 2 << 24, 0)] * 40000
    breaths = []
    Btf(b.build(), lambda: breaths.append(1))
    assert len(breaths) >= 2


def test_the_synthetic_guest_has_readable_btf():
    guest = SyntheticGuest()
    assert Btf(guest.btf.build()).offset("page", "_refcount") == 52
    guest.close()
