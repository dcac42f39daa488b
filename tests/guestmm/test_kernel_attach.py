# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects attaching: on each layout, to the kernel that runs, and with plain words where it cannot."""

import struct

import pytest
from synthetic import PAGE, SyntheticGuest, note_bytes

from vcapdev.errors import ExitStatus
from vcapdev.guestmm.kernel import AttachError, attach, refresh
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.swiotlb import bounce_pfns
from vcapdev.guestmm.vmstat import read_pin_counters


def test_each_layout_is_understood(any_guest):
    kernel = attach(GuestMemory(any_guest.memory))
    style = any_guest.style
    assert kernel.release == any_guest.release
    assert kernel.vmemmap.pages == any_guest.pages
    assert kernel.zero_pfn == any_guest.zero_pfn
    assert kernel.huge_zero_pfn() is None
    assert kernel.layout.head_is_mask == style.mask_tails
    assert (kernel.layout.pins.row, kernel.layout.pins.offset) == (style.pin_row, style.pin_offset)
    assert kernel.types.top_byte == style.top_byte_types
    assert kernel.flags.bit("dirty") == 1 << any_guest.numbers["dirty"]
    assert len(bounce_pfns(kernel)) == 0


def test_a_vmemmap_in_pieces_is_followed():
    guest = SyntheticGuest(scattered=True)
    guest.anon(5000, index=0x1234)
    kernel = attach(GuestMemory(guest.memory))
    assert kernel.vmemmap.row(5000)[4] == 0x1234
    guest.close()


def test_empty_ram_is_told():
    guest = SyntheticGuest()
    guest.ram[:] = 0
    with pytest.raises(AttachError, match="no VMCOREINFO note") as caught:
        attach(GuestMemory(guest.memory))
    assert caught.value.exit_status is ExitStatus.GUEST
    assert "\n" not in str(caught.value)
    guest.close()


def test_a_note_without_its_kernel_is_told(guest):
    guest.poke(guest.uts + 130, b"5.0-other\0")
    with pytest.raises(AttachError, match=r"no running kernel .*utsname says '5.0-other'"):
        attach(GuestMemory(guest.memory))


def test_a_page_table_that_does_not_map_itself_is_no_kernel(guest):
    guest.map(0xFFFFFFFF80000000 + guest.top + 0xBC00000, 0x500000)
    with pytest.raises(AttachError, match="does not map itself"):
        attach(GuestMemory(guest.memory))


def test_missing_kallsyms_are_told():
    guest = SyntheticGuest()
    text = "".join(f"{k}={v}\n" for k, v in guest.values.items() if "kallsyms" not in k)
    guest.poke(guest.note_at, note_bytes(text.encode()))
    with pytest.raises(AttachError, match=r"not understood: vmcoreinfo does not name kallsyms"):
        attach(GuestMemory(guest.memory))
    guest.close()


def test_damaged_btf_is_told(guest):
    guest.poke(guest.symbols["__start_BTF"] - guest.image_virtual + (16 << 20), b"\0\0")
    with pytest.raises(AttachError, match="no BTF: magic"):
        attach(GuestMemory(guest.memory))


def test_a_layout_that_disagrees_with_vmcoreinfo_is_told(guest):
    text = "".join(f"{k}={v}\n" for k, v in guest.values.items()).replace("_refcount)=52", "_refcount)=56")
    guest.poke(guest.note_at, note_bytes(text.encode()))
    with pytest.raises(AttachError, match=r"page._refcount is at 52 by BTF and at 56 by vmcoreinfo"):
        attach(GuestMemory(guest.memory))


def test_the_note_of_a_former_boot_with_another_kernel_is_passed_over(guest):
    text = "".join(f"{k}={v}\n" for k, v in guest.values.items()).replace(guest.release, "5.9-before")
    guest.poke(0x200000, note_bytes(text.encode()))
    assert attach(GuestMemory(guest.memory)).release == guest.release


def test_of_several_kernels_the_one_with_a_running_clock_wins(guest):
    text = "".join(f"{k}={v}\n" for k, v in guest.values.items()) + "NUMBER(former)=1\n"
    guest.poke(0x200000, note_bytes(text.encode()))
    ticks = iter(range(1 << 30))

    def breathe():
        guest.poke(guest.jiffies_at, struct.pack("<Q", next(ticks)))

    assert attach(GuestMemory(guest.memory), breathe).release == guest.release


def test_several_kernels_that_stand_still_are_told(guest):
    text = "".join(f"{k}={v}\n" for k, v in guest.values.items()) + "NUMBER(former)=1\n"
    guest.poke(0x200000, note_bytes(text.encode()))
    with pytest.raises(AttachError, match="2 kernels left a VMCOREINFO note"):
        attach(GuestMemory(guest.memory))


def test_a_note_on_every_page_does_not_hold_up(guest):
    for page in range(2000):
        guest.poke(0x800000 + page * PAGE, note_bytes(b"OSRELEASE=fake%d\n" % page))
    assert attach(GuestMemory(guest.memory)).release == guest.release


def test_pin_counters_include_what_is_not_folded_yet(guest):
    guest.pin_counters(100, 40, unfolded=-3)
    counters = read_pin_counters(attach(GuestMemory(guest.memory)))
    assert (counters.acquired, counters.released, counters.outstanding) == (100, 40, 60)


def test_an_absurd_number_of_cpus_gives_no_counters(guest):
    guest.poke(guest.symbols["nr_cpu_ids"] - guest.image_virtual + (16 << 20), b"\xff\xff\xff\x7f")
    assert read_pin_counters(attach(GuestMemory(guest.memory))) is None


def test_refresh_follows_a_changed_map(guest):
    kernel = attach(GuestMemory(guest.memory))
    guest.memory.generation += 1
    guest.anon(3000, index=77)
    assert refresh(kernel).vmemmap.row(3000)[4] == 77
