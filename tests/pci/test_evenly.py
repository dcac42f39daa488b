# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the fast way of copying: pieces of a kind at once end where each by itself would."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from support.rootcomplex import PAGE, Memory, Segment

from vcapdev.dma import Batch
from vcapdev.pci.busmaster import BusMaster
from vcapdev.pci.evenly import kinds

Pieces = list[tuple[int, int, int]]  # place in memory, length, offset in the data
ROOM = 1 << 21
START = 0x10_0000


def lines(offset: int, pitch: int, size: int, count: int, seed: int = 0, source: int = 0) -> Pieces:
    """Lines of a picture in shuffled pages, cut where pages end: as a driver's program has them."""
    pages = np.random.default_rng(seed).permutation(ROOM // PAGE)
    found = []
    for line in range(count):
        at, end = offset + line * pitch, offset + line * pitch + size
        while at < end:
            length = min(end - at, PAGE - at % PAGE)
            found.append((int(pages[at // PAGE]) * PAGE + at % PAGE, length, source))
            at, source = at + length, source + length
    return found


def batch(pieces: Pieces) -> Batch:
    place, length, source = (np.array(column) for column in zip(*pieces, strict=True))
    origin = np.arange(len(pieces))
    return Batch(
        (place + START).astype(np.uint64), length.astype(np.uint32), source.astype(np.uint32), origin, 1
    )


DATA = np.random.default_rng(1).integers(0, 256, ROOM, np.uint8)


def found(pieces: Pieces) -> int:
    """How many kinds there are; 0 where these are not worthwhile."""
    _, length, source = (np.array(column, np.uint64) for column in zip(*pieces, strict=True))
    return len(kinds(DATA, source, length))


def check(pieces: Pieces) -> None:
    """A bus master does as a loop does, at the first move and at the second, and when the map has changed."""
    segment = Segment(START, ROOM)
    memory = Memory(segment)
    bus, moved = BusMaster(memory, lambda: True), batch(pieces)
    expected = segment.data.copy()
    for place, length, source in pieces:
        expected[place : place + length] = DATA[source : source + length]
    blank = segment.data.copy()
    for again in range(3):
        segment.data[:] = blank
        if again == 2:
            memory.add(Segment(START + 2 * ROOM, PAGE))
        assert bus.write(moved, DATA)
        assert np.array_equal(segment.data, expected), f"move {again}"


@pytest.mark.parametrize(
    ("pieces", "count"),
    [
        (lines(0x10 + 3072, 6144, 3072, 288), 4),  # a field of RGB32, 768x576, as the benchmark's
        (lines(0, 3072, 1536, 288), 5),  # of YUYV: three lines whole, one cut, and again
        (lines(0, 4096, 1000, 100), 1),
        (lines(0, 1024, 512, 96) + lines(0x80000, 512, 256, 96, source=49152), 2),  # planes
        (lines(0, 1024, 512, 96) + lines(0x80000, 512, 512, 96, source=96 * 512 + 7), 2),  # the same length
        ([(n * 64, 64, ROOM - 64 - n * 64) for n in range(48)], 0),  # backwards
        ([(n * 64, n + 1, n * 64) for n in range(48)], 0),  # each its own length
        ([(n * 64, 32, n * n) for n in range(48)], 0),  # nowhere evenly spaced
        ([(n * 64, 0, n * 64) for n in range(48)], 0),  # nothing to copy
        ([(n * 64, 64, 0) for n in range(48)], 0),  # the same bytes again and again
        (lines(0, 4096, 1000, 5), 0),  # too few
    ],
)
def test_kinds_of_pieces(pieces: Pieces, count: int) -> None:
    assert found(pieces) == count
    check(pieces)


def test_overlapping_pieces_are_moved_in_order() -> None:
    """Sorted into kinds, the first of them would win here."""
    pieces = [piece for n in range(24) for piece in ((n * 100, 64, n * 96), (n * 100 + 32, 32, n * 96 + 64))]
    assert found(pieces) == 2
    check([*pieces[::2], *pieces[1::2]])
    check([*pieces[1::2], *pieces[::2]])
    check(pieces)


def test_a_kind_may_end_with_the_memory() -> None:
    check([(ROOM - (48 - n) * 16, 16, n * 16) for n in range(48)])


@given(
    st.integers(0, 5000),
    st.integers(1, 4000),
    st.integers(0, 3000),
    st.integers(1, 80),
    st.integers(0, 1 << 16),
)
def test_any_regular_picture(offset: int, size: int, gap: int, count: int, source: int) -> None:
    check(lines(offset, size + gap, size, count, seed=size, source=source))
