# SPDX-License-Identifier: GPL-2.0-or-later
"""Below a vIOMMU each page is a map of its own, with a descriptor: thousands cost no more than one each."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import pytest
from client import memfd

from vcapdev.pci.busmaster import BusMaster
from vcapdev.vfiouser import DmaMap
from vcapdev.vfiouser.dmamap import Segment
from vcapdev.vfiouser.rammap import RamMap, RamPiece

PAGE = 4096
BUFFERS, PAGES, COHERENT = 32, 432, 256  # the most buffers of a queue, of one RGB32 frame each
MIB = 1 << 20
BASE = 0xF000_0000


class Followed:
    """Watches a map; keeps by itself what the map must hold."""

    def __init__(self, memory: DmaMap) -> None:
        self.live: dict[int, Segment] = {}
        self.calls = 0
        memory.watch(self)

    def mapped(self, segment: Segment) -> None:
        self.calls += 1
        self.live[segment.start] = segment

    def unmapped(self, segments: Sequence[Segment]) -> None:
        self.calls += 1
        for segment in segments:
            assert self.live.pop(segment.start) is segment


@pytest.fixture
def whole_lists(monkeypatch):
    """How often anybody asked for the list of all segments."""
    asked: list[int] = []
    real = DmaMap.segments.fget

    def segments(self):
        asked.append(1)
        return real(self)

    monkeypatch.setattr(DmaMap, "segments", property(segments))
    return asked


def test_a_whole_queue_of_the_largest_buffers_fits_and_each_change_is_told_once(served, ram, whole_lists):
    memory, followed = served.server.memory, Followed(served.server.memory)
    bus = BusMaster(memory, lambda: True)
    memory.watch(bus)
    assert not bus.reaches(BASE, 1)
    before, descriptors = len(whole_lists), len(os.listdir("/proc/self/fd"))
    count = BUFFERS * PAGES + COHERENT
    for page in range(count):
        served.client.dma_map(BASE + page * PAGE, PAGE, ram, offset=page * 37 % 256 * PAGE)
    assert memory.count == count == followed.calls
    assert bus.reaches(BASE, count * PAGE), "the bus master follows page by page"
    assert not bus.reaches(BASE, count * PAGE + 1)
    assert len(whole_lists) == before, "nobody looks at all maps after each one"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
    for page in range(0, count, 2):
        served.client.dma_unmap(BASE + page * PAGE, PAGE)
    assert not bus.reaches(BASE, 1)
    assert bus.reaches(BASE + PAGE, PAGE)
    assert not bus.reaches(BASE + PAGE, PAGE + 1)
    served.client.dma_unmap(BASE, count * PAGE)
    assert len(whole_lists) == before
    assert followed.live == {}
    assert memory.count == 0


def test_the_bus_master_sees_what_the_map_says_however_it_changed(served, ram):
    """Maps that come and go in any order, among them ROMs, which are no segments."""
    memory = served.server.memory
    bus = BusMaster(memory, lambda: True)
    memory.watch(bus)
    live: dict[int, int] = {}
    for step in range(600):
        page = step * 7919 % 251
        if page in live:
            served.client.dma_unmap(page * PAGE, PAGE)
            del live[page]
        elif step % 11 == 0:
            served.client.dma_map(page * PAGE, PAGE, None, flags=1)
            live[page] = -1
        else:
            live[page] = step % 256
            served.client.dma_map(page * PAGE, PAGE, ram, offset=live[page] * PAGE)
            os.pwrite(ram, bytes([step % 256]), live[page] * PAGE)
        if step % 3 == 0:
            for each in (page - 1, page, page + 1):
                here = live.get(each, -1)
                expected = os.pread(ram, 1, here * PAGE) if here >= 0 else b""
                assert bus.peek(each * PAGE, 1) == expected if each >= 0 else True
    assert {s.start // PAGE for s in memory.segments} == {page for page, at in live.items() if at >= 0}


LAYOUT = [RamPiece(0, MIB // 2, 0), RamPiece(1 << 32, MIB // 2, MIB // 2)]


def test_ram_stays_when_the_guest_switches_its_iommu_on(served, ram):
    memory, changes = served.server.memory, []
    held = RamMap(memory, LAYOUT, lambda: changes.append(1))
    memory.watch(held)
    assert list(held.segments) == []
    served.client.dma_map(0, MIB // 2, ram)
    generation = held.generation
    served.client.dma_unmap(0, MIB // 2)
    served.client.dma_map(BASE, PAGE, ram, offset=MIB // 2 + 5 * PAGE)
    assert [(s.start, s.size, s.fd_offset) for s in held.segments] == [tuple(piece) for piece in LAYOUT]
    os.pwrite(ram, b"high", MIB // 2 + 16)
    assert held.segments[1].data[16:20].tobytes() == b"high"
    assert (held.generation, len(changes)) == (generation, 1), "what a driver maps changes nothing"
    (segment,) = memory.segments
    assert held.physical(segment.fd, segment.fd_offset, segment.size) == (1 << 32) + 5 * PAGE
    del segment
    held.drop()
    assert list(held.segments) == []
    assert len(changes) == 2


def test_what_is_no_ram_has_no_physical_address(served, ram, new_fd):
    memory = served.server.memory
    held = RamMap(memory, LAYOUT)
    memory.watch(held)
    served.client.dma_map(0, MIB // 2, ram)
    served.client.dma_map(0xE000_0000, PAGE, new_fd(memfd(MIB)))
    (ours, other) = memory.segments
    assert held.physical(ours.fd, 0, PAGE) == 0
    assert held.physical(ours.fd, MIB // 2 - PAGE, 2 * PAGE) is None, "two pieces of RAM, not one"
    assert held.physical(other.fd, 0, PAGE) is None
    del ours, other
    held.drop()


def test_a_ram_file_that_is_too_small_is_complained_of_once(served, new_fd):
    said: list[str] = []
    held = RamMap(served.server.memory, LAYOUT, log=said.append)
    served.server.memory.watch(held)
    small = new_fd(memfd(MIB // 2))
    served.client.dma_map(0, PAGE, small)
    served.client.dma_map(PAGE, PAGE, small, offset=PAGE)
    assert list(held.segments) == []
    (line,) = said
    assert "0x80000" in line
    assert "0x100000" in line


def test_only_segments_of_the_map_can_be_held(served, ram):
    memory = served.server.memory
    served.client.dma_map(0, PAGE, ram)
    (segment,) = memory.segments
    file = memory.hold(segment)
    served.client.dma_unmap(0, PAGE)
    assert file.size == MIB
    with pytest.raises(KeyError):
        memory.hold(segment)
    file.release()
    file.release()
    served.client.dma_unmap(0, PAGE, expect=errno.ENOENT)
