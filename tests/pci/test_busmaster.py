# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects guest memory: every byte passes the gate, inside mapped ranges, seen by observers."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from support.rootcomplex import POISON, Memory, Recorder, Segment

from vcapdev.dma import Abort, Batch
from vcapdev.pci.busmaster import BusAbort, BusMaster

LOW, NEXT, ROM, HIGH = 0x1000, 0x3000, 0x8000, 0x1_0000_0000


class Bus:
    """Two segments that touch, a read-only one, and one beyond 4 GiB; a source of counted bytes."""

    def __init__(self) -> None:
        self.low, self.next = Segment(LOW, 0x2000), Segment(NEXT, 0x1000)
        self.rom, self.high = Segment(ROM, 0x1000, writable=False), Segment(HIGH, 0x1000)
        self.memory = Memory(self.low, self.next, self.rom, self.high)
        self.master = True
        self.bus = BusMaster(self.memory, lambda: self.master)
        self.recorder = Recorder()
        self.bus.observers.append(self.recorder)
        self.data = (np.arange(0x4000) % 251).astype(np.uint8)

    def batch(self, *pieces: tuple[int, int, int]) -> Batch:
        """Pieces of (address, length, source); origins count from 100."""
        addr, length, source = zip(*pieces, strict=True)
        return Batch(
            np.array(addr, np.uint64),
            np.array(length, np.uint32),
            np.array(source, np.uint32),
            np.arange(100, 100 + len(pieces), dtype=np.int64),
            1,
        )

    def everything(self) -> bytes:
        return b"".join(segment.data.tobytes() for segment in self.memory.segments)


def test_pieces_arrive_in_order() -> None:
    """The last of overlapping pieces wins, in any mix of segments."""
    bus = Bus()
    pieces = [(LOW + 8, 100, 0), (NEXT, 50, 200), (LOW + 50, 100, 500), (HIGH + 1, 3, 7)]
    assert bus.bus.write(bus.batch(*pieces), bus.data)
    assert bus.low.data[8:50].tobytes() == bus.data[:42].tobytes()
    assert bus.low.data[50:150].tobytes() == bus.data[500:600].tobytes()
    assert bus.next.data[:50].tobytes() == bus.data[200:250].tobytes()
    assert bus.high.data[1:4].tobytes() == bus.data[7:10].tobytes()
    assert bus.recorder.calls == ["before", "after"]


def test_a_piece_may_cross_from_one_segment_to_the_next() -> None:
    """Maps of one RAM may touch: a transfer does not notice."""
    bus = Bus()
    bus.bus.write(bus.batch((NEXT - 10, 30, 0)), bus.data)
    assert bus.low.data[-10:].tobytes() + bus.next.data[:20].tobytes() == bus.data[:30].tobytes()
    assert bus.bus.read(NEXT - 10, 30) == bus.data[:30].tobytes()


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        ((0, 4, 0), Abort.UNMAPPED),
        ((LOW - 1, 4, 0), Abort.UNMAPPED),
        ((NEXT + 0xFFF, 2, 0), Abort.UNMAPPED),
        ((ROM + 4, 4, 0), Abort.READ_ONLY),
        ((HIGH + 0xFFF, 2, 0), Abort.UNMAPPED),
        (((1 << 64) - 2, 4, 0), Abort.UNMAPPED),
    ],
)
def test_refused_pieces(piece: tuple[int, int, int], why: Abort) -> None:
    """Nothing of it is moved, nor of what follows; what precedes it is, and observers see only that."""
    bus = Bus()
    batch = bus.batch((LOW, 16, 0), piece, (LOW + 16, 16, 0))
    for _ in range(2):  # also from the cache
        with pytest.raises(BusAbort) as refusal:
            bus.bus.write(batch, bus.data)
        assert (refusal.value.index, refusal.value.origin, refusal.value.why) == (1, 101, why)
    assert bus.low.data[:16].tobytes() == bus.data[:16].tobytes()
    bus.low.data[:16] = POISON
    assert bus.everything() == bytes([POISON]) * 0x5000
    assert bus.recorder.aborts == [(piece[0], piece[1], True, why)] * 2
    assert [len(each.addr) for each in bus.recorder.batches] == [1, 1]


def test_bus_mastering_off() -> None:
    """Neither reads nor writes, and observers hear why."""
    bus = Bus()
    bus.master = False
    with pytest.raises(BusAbort, match="bus mastering is off"):
        bus.bus.write(bus.batch((LOW, 16, 0)), bus.data)
    with pytest.raises(BusAbort, match="bus mastering is off"):
        bus.bus.read(LOW, 4)
    with pytest.raises(BusAbort, match="bus mastering is off"):
        bus.bus.fetch(LOW, 8, len)
    assert bus.everything() == bytes([POISON]) * 0x5000
    assert [why for *_, why in bus.recorder.aborts] == [Abort.MASTER_DISABLED] * 3
    assert bus.recorder.reads == []


def test_reads() -> None:
    """A read is whole or refused; a fetch asks for what it needs and no more."""
    bus = Bus()
    told: list[Abort] = []
    bus.bus.on_abort = told.append
    assert bus.bus.read(ROM, 4) == bytes([POISON]) * 4
    with pytest.raises(BusAbort, match="no memory answers"):
        bus.bus.read(NEXT + 0xFFE, 4)
    assert bus.bus.fetch(NEXT + 0xFF8, 20, lambda ahead: 4 if len(ahead) == 8 else 20) == bytes([POISON]) * 4
    assert bus.recorder.reads == [(ROM, 4), (NEXT + 0xFF8, 4)]
    assert told == [Abort.UNMAPPED]


def test_translations_follow_the_map() -> None:
    """A batch that was moved before finds the memory that is there now, or is refused."""
    bus = Bus()
    batch = bus.batch((LOW, 16, 0))
    bus.bus.write(batch, bus.data)
    bus.memory.remove(bus.low)
    bus.low.data[:16] = POISON
    with pytest.raises(BusAbort):
        bus.bus.write(batch, bus.data)
    assert (bus.low.data == POISON).all()
    other = bus.memory.add(Segment(LOW - 0x1000, 0x2000))
    bus.bus.write(batch, bus.data)
    assert other.data[0x1000:0x1010].tobytes() == bus.data[:16].tobytes()


def test_an_unmap_while_observers_look() -> None:
    """They may pause the guest and serve its messages: the old memory is not touched."""
    bus = Bus()
    bus.recorder.during = lambda batch: bus.memory.remove(bus.low)
    with pytest.raises(BusAbort, match="no memory answers"):
        bus.bus.write(bus.batch((LOW, 16, 0)), bus.data)
    assert (bus.low.data == POISON).all()


def test_nothing_is_held_after_forget() -> None:
    """The transport unmaps what it was told to unmap: no view of it may be left here."""
    bus = Bus()
    batch = bus.batch((LOW, 16, 0))
    bus.bus.write(batch, bus.data)
    bus.memory.remove(bus.low)
    bus.bus.forget()
    bus.low.data = np.zeros(1, np.uint8)
    bus.low.map.close()  # raises BufferError while there is a view
    assert bus.low.map.closed


def test_the_source_is_checked() -> None:
    """A defect of a device does not read beyond its buffer."""
    bus = Bus()
    with pytest.raises(ValueError, match="outside the data"):
        bus.bus.write(bus.batch((LOW, 16, 0x3FF8)), bus.data)
    assert bus.everything() == bytes([POISON]) * 0x5000


ADDRESS = st.one_of(
    st.integers(0xF00, 0x4100), st.integers(ROM - 64, ROM + 0x1040), st.integers(HIGH - 64, HIGH + 0x1040)
)


@given(st.lists(st.tuples(ADDRESS, st.integers(0, 0x1200), st.integers(0, 0x2000)), min_size=1, max_size=6))
def test_against_a_byte_by_byte_model(pieces: list[tuple[int, int, int]]) -> None:
    """Any batch: the same bytes and the same refusal as the slowest possible bus."""
    bus = Bus()
    model = {
        segment.start + at: POISON
        for segment in bus.memory.segments
        if segment.writable
        for at in range(segment.size)
    }
    refused = None
    for index, (addr, length, source) in enumerate(pieces):
        if any(addr + at not in model for at in range(length)):
            refused = index
            break
        model.update((addr + at, int(bus.data[source + at])) for at in range(length))
    if refused is None:
        assert bus.bus.write(bus.batch(*pieces), bus.data)
    else:
        with pytest.raises(BusAbort) as refusal:
            bus.bus.write(bus.batch(*pieces), bus.data)
        assert refusal.value.index == refused
    for segment in (bus.low, bus.next, bus.high):
        want = bytes(model[segment.start + at] for at in range(segment.size))
        assert segment.data.tobytes() == want
