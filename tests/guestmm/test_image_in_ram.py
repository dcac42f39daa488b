# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects attaching to kernels whose vmcoreinfo does not name kallsyms."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legacy import legacy_guest, tables, tell
from synthetic import BtfBuilder, SyntheticGuest, note_bytes

from vcapdev.guestmm.kallsyms import KallsymsError, read_kallsyms
from vcapdev.guestmm.kernel import AttachError, attach
from vcapdev.guestmm.kernelimage import KernelImage
from vcapdev.guestmm.memory import GuestMemory, GuestReadError
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.guestmm.vmcoreinfo import find_notes


def hide(guest):
    """Wipe the tables that the synthetic guest wrote for its own note: only the hidden ones remain."""
    for name, size in (("kallsyms_token_table", 512), ("kallsyms_token_index", 512)):
        at = guest.symbols[name] - guest.image_virtual + (16 << 20)
        guest.poke(at, b"\xaa" * size)


def image_of(guest):
    return KernelImage.read(PageTable(GuestMemory(guest.memory), guest.top), guest.image_virtual)


def test_a_kernel_that_names_nothing_is_found_by_the_look_of_its_tables():
    guest = legacy_guest()
    hide(guest)
    kernel = attach(GuestMemory(guest.memory))
    assert kernel.note.build_id == ""
    assert kernel.symbols.address("some_function_699") == guest.symbols["some_function_699"]
    assert kernel.symbols.address("jiffies") == guest.symbols["jiffies"]
    assert kernel.zero_pfn == guest.zero_pfn
    assert kernel.layout.pins.row == 2
    guest.close()


def test_btf_is_found_by_its_look_where_data_have_no_symbols():
    guest = legacy_guest(leave_out=("__start_BTF", "__stop_BTF"))
    hide(guest)
    kernel = attach(GuestMemory(guest.memory))
    assert kernel.symbols.address("__start_BTF") is None
    assert kernel.btf.offset("page", "_refcount") == 52
    guest.close()


def test_the_largest_btf_in_the_image_is_the_kernels():
    guest = legacy_guest()
    small = BtfBuilder()
    small.integer("int", 4)
    guest.variable("a_modules_own", small.build())
    assert image_of(guest).btf() == guest.btf.build()
    guest.close()


@pytest.mark.parametrize("symbols", [300, 511, 512, 513, 768])
def test_the_number_of_names_is_found_whatever_it_is(symbols):
    guest = legacy_guest(symbols=symbols)
    hide(guest)
    found = read_kallsyms(
        next(find_notes(GuestMemory(guest.memory))),
        PageTable(GuestMemory(guest.memory), guest.top),
        lambda: None,
    )
    assert f"some_function_{symbols - 1}" in found
    guest.close()


def test_tables_that_are_not_there_name_the_option_that_is_needed():
    guest = legacy_guest()
    hide(guest)
    at = guest.symbols["hidden_tables"] - guest.image_virtual + (16 << 20)
    guest.poke(at, bytes(len(tables(guest))))
    with pytest.raises(AttachError, match=r"needs CONFIG_KALLSYMS=y and CONFIG_KALLSYMS_ALL=y") as caught:
        attach(GuestMemory(guest.memory))
    assert "\n" not in str(caught.value)
    guest.close()


def test_offsets_from_their_own_places_are_understood():
    """7.x: there is no relative base, each offset counts from where it lies."""
    guest = SyntheticGuest("7.2")
    at = guest.symbols["kallsyms_offsets"] - guest.image_virtual + (16 << 20)
    names = sorted((n for n in guest.symbols if guest.symbols[n] < guest.symbols["kallsyms_offsets"]),
                   key=guest.symbols.__getitem__)  # fmt: skip
    first = guest.symbols["kallsyms_offsets"]
    rows = [struct.pack("<i", guest.symbols[n] - first - 4 * i) for i, n in enumerate(names)]
    guest.poke(at, b"".join(rows))
    lines = {k: v for k, v in guest.values.items() if "relative_base" not in k}
    guest.poke(guest.note_at, bytes(8192))
    guest.poke(guest.note_at, note_bytes("".join(f"{k}={v}\n" for k, v in lines.items()).encode()))
    kernel = attach(GuestMemory(guest.memory))
    assert kernel.symbols.address("jiffies") == guest.symbols["jiffies"]
    assert kernel.layout.head_is_mask
    guest.close()


def test_offsets_that_lead_elsewhere_than_vmcoreinfo_are_refused(guest):
    base = guest.symbols["kallsyms_relative_base"] - guest.image_virtual + (16 << 20)
    guest.poke(base, struct.pack("<Q", guest.image_virtual + 64))
    memory = GuestMemory(guest.memory)
    with pytest.raises(KallsymsError, match="offsets of kallsyms are not understood"):
        read_kallsyms(next(find_notes(memory)), PageTable(memory, guest.top), lambda: None)


def test_an_image_that_is_not_mapped_is_told(guest):
    with pytest.raises(GuestReadError, match="not mapped"):
        KernelImage.read(PageTable(GuestMemory(guest.memory), guest.top), 0xFFFFFFFFC0000000)


def test_a_utsname_behind_other_members_is_found():
    guest = legacy_guest()
    hide(guest)
    uts = bytes(guest.ram[guest.uts : guest.uts + 260].tobytes())
    guest.poke(guest.uts, struct.pack("<I", 3) + uts[:-4])
    assert attach(GuestMemory(guest.memory)).release == guest.release
    tell(guest, OSRELEASE="5.0-other")
    with pytest.raises(AttachError, match="utsname says"):
        attach(GuestMemory(guest.memory))
    guest.close()


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=64), st.integers(0, 30_000))
def test_damaged_tables_end_in_an_error_or_in_symbols(junk, offset):
    guest = legacy_guest(symbols=300)
    hide(guest)
    at = guest.symbols["hidden_tables"] - guest.image_virtual + (16 << 20)
    guest.poke(at + offset % (len(tables(guest)) - 64), junk)
    try:
        with suppress(AttachError):
            assert len(attach(GuestMemory(guest.memory)).symbols) > 0
    finally:
        guest.close()


@settings(max_examples=60)
@given(st.binary(max_size=400), st.integers(0, 40))
def test_any_image_is_searched_to_its_end(junk, zeros):
    digits = b"".join(b"%d\0" % i for i in range(10))
    image = KernelImage(0, bytes(zeros) + junk + bytes(zeros) + digits + junk + digits)
    assert image.kallsyms() is None
    assert image.btf() is None


def test_digits_without_tables_are_passed_by():
    tokens = b"".join(bytes([i or 1]) + b"\0" for i in range(256))
    index = struct.pack("<256H", *range(0, 512, 2))
    assert KernelImage(0, tokens + index).kallsyms() is None
    rising = np.arange(1, 64, dtype="<u4").tobytes()
    assert KernelImage(0, rising + bytes(4) + tokens + index).kallsyms() is None
