# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects reading the kernel's symbol table, long names and damaged tables included."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import SyntheticGuest

from vcapdev.guestmm.kallsyms import Kallsyms, KallsymsError, _addresses, _expand, read_kallsyms
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.guestmm.vmcoreinfo import find_notes


def read(guest, breathe=lambda: None):
    memory = GuestMemory(guest.memory)
    return read_kallsyms(next(find_notes(memory)), PageTable(memory, guest.top), breathe)


def physical(guest, name):
    return guest.symbols[name] - guest.image_virtual + (16 << 20)


def test_all_symbols_are_found_both_ways(guest):
    breaths = []
    symbols = read(guest, lambda: breaths.append(1))
    for name in ("zero_pfn", "vm_node_stat", "__start_BTF", "jiffies"):
        assert symbols.address(name) == guest.symbols[name]
        assert symbols.at(guest.symbols[name])[:2] == (name, guest.symbols[name])
        assert symbols.at(guest.symbols[name] + 3)[0] == name
    assert symbols.address("no_such_symbol") is None
    assert symbols.at(0x1000) is None
    assert "jiffies" in symbols
    assert breaths


def test_names_beyond_127_tokens_have_two_length_bytes():
    guest = SyntheticGuest()
    guest.symbols["x" * 200] = guest.symbols["jiffies"] + 1
    guest.write_note()
    symbols = read(guest)
    assert symbols.address("x" * 200) == guest.symbols["jiffies"] + 1
    assert symbols.address("vm_node_stat") == guest.symbols["vm_node_stat"]
    guest.close()


def test_aliases_share_an_address():
    symbols = Kallsyms(["first", "second", "after"], np.array([16, 16, 32], dtype=np.uint64))
    assert symbols.at(20) == ("first", 16, 16)
    assert symbols.address("second") == 16
    assert symbols.at(40) == ("after", 32, 0)


def test_offsets_count_down_with_absolute_per_cpu_symbols_and_up_without():
    base = 0xFFFFFFFF81000000
    down = _addresses(np.array([5, -1, -0x11], dtype=np.int32), base)
    assert down.tolist() == [5, base, base + 0x10]
    up = _addresses(np.array([0, 0x10, 0x20], dtype=np.int32), base)
    assert up.tolist() == [base, base + 0x10, base + 0x20]


def test_tables_that_vmcoreinfo_does_not_name_are_an_error(guest):
    note = next(find_notes(GuestMemory(guest.memory)))
    del note.values["SYMBOL(kallsyms_names)"]
    with pytest.raises(KallsymsError, match="does not name kallsyms_names"):
        read_kallsyms(note, PageTable(GuestMemory(guest.memory), guest.top), lambda: None)


@pytest.mark.parametrize("count", [0, 5_000_000, 0xFFFFFFFF])
def test_an_absurd_number_of_symbols_is_refused(guest, count):
    guest.poke(physical(guest, "kallsyms_num_syms"), struct.pack("<I", count))
    with pytest.raises(KallsymsError, match="claims"):
        read(guest)


def test_a_token_that_is_a_bomb_is_refused(guest):
    """A few bytes of a name would stand for megabytes."""
    guest.poke(physical(guest, "kallsyms_token_table"), b"x" * 400)
    with pytest.raises(KallsymsError, match="token"):
        read(guest)


def test_all_names_together_are_bounded():
    tokens = [b"x" * 500] * 256
    data = b"\x02ab" * 200_000
    with pytest.raises(KallsymsError, match="all so far"):
        _expand(data, 200_000, tokens, lambda: None)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.integers(0, 500))
def test_damaged_names_end_in_an_error_or_in_symbols(junk, offset):
    guest = SyntheticGuest()
    try:
        guest.poke(physical(guest, "kallsyms_names") + offset, junk)
        with suppress(KallsymsError):
            assert len(read(guest)) > 0
    finally:
        guest.close()
