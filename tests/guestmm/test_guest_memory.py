# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects reading guest RAM: nothing outside the map, no hole touched, and only populated parts scanned."""

import os

import pytest

from vcapdev.guestmm.memory import PAGE_SIZE, GuestMemory, GuestReadError


def test_reads_run_on_into_the_next_segment_only_where_it_adjoins(guest):
    memory = GuestMemory(guest.memory)
    low = guest.memory.segments[0]
    guest.memory.segments[0:1] = [
        type(low)(0, 0x1000, guest.ram[:0x1000], guest.fd, 0),
        type(low)(0x1000, 0x9F000, guest.ram[0x1000:0xA0000], guest.fd, 0x1000),
    ]
    guest.poke(0xFFC, b"abcdefgh")
    assert memory.read(0xFFC, 8) == b"abcdefgh"
    with pytest.raises(GuestReadError, match="0xa0000 is not mapped"):
        memory.read(0x9FFFC, 8)


@pytest.mark.parametrize("size", [-1, 1 << 40])
def test_absurd_lengths_are_refused(guest, size):
    with pytest.raises(GuestReadError, match="no sensible length"):
        GuestMemory(guest.memory).read(0x1000, size)


def test_holes_are_left_out_and_stay_holes(guest):
    before = os.fstat(guest.fd).st_blocks
    extents = list(GuestMemory(guest.memory).populated())
    assert sum(size for _, size in extents) < guest.pages * PAGE_SIZE // 4
    assert any(start <= guest.note_at < start + size for start, size in extents)
    assert os.fstat(guest.fd).st_blocks == before


def test_a_descriptor_that_cannot_seek_data_is_taken_as_full(guest):
    read, write = os.pipe()
    try:
        guest.memory.segments[0].fd = read
        extents = list(GuestMemory(guest.memory).populated())
        assert extents[0] == (0, 0xA0000)
    finally:
        os.close(read)
        os.close(write)
