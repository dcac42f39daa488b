# SPDX-License-Identifier: GPL-2.0-or-later
"""DMA_UNMAP: exactly what was mapped goes, all views are given up before the client is answered."""

from __future__ import annotations

import errno

import pytest
from client import memfd

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command


def mapped():
    with open("/proc/self/maps") as maps:
        return sum("memfd:ram" in line for line in maps)


def starts(served):
    return [segment.start for segment in served.server.memory.segments]


@pytest.fixture
def three(served, ram):
    for start in (0x1000, 0x3000, 0x5000):
        served.client.dma_map(start, 0x1000, ram)
    return served


def test_one(three):
    generation = three.server.memory.generation
    three.client.dma_unmap(0x3000, 0x1000)
    assert starts(three) == [0x1000, 0x5000]
    assert three.server.memory.generation > generation


def test_the_last_segment_takes_the_mapping_with_it(three):
    three.client.dma_unmap(0x1000, 0x1000)
    three.client.dma_unmap(0x3000, 0x1000)
    assert mapped() == 1
    three.client.dma_unmap(0x5000, 0x1000)
    assert mapped() == 0


def test_a_range_of_many_as_qemu_does_below_a_viommu(three):
    three.client.dma_unmap(0x0, 0x4000)
    assert starts(three) == [0x5000]


def test_all(three):
    three.client.dma_unmap(0, 0, flags=wire.DMA_UNMAP_ALL)
    assert starts(three) == []
    assert mapped() == 0
    three.client.dma_unmap(0, 0, flags=wire.DMA_UNMAP_ALL)


def test_subscribers_drop_their_views_in_time(served, new_fd):
    fd = new_fd(memfd(0x1000))
    cache = []
    served.server.memory.subscribe(cache.clear)
    served.client.dma_map(0, 0x1000, fd)
    cache.append(served.server.memory.segments[0].data[4:8])
    served.client.dma_unmap(0, 0x1000)
    assert mapped() == 0


def test_a_view_that_is_kept_stays_harmless(served, new_fd):
    served.client.dma_map(0, 0x1000, new_fd(memfd(0x1000)))
    kept = served.server.memory.segments[0].data
    served.client.dma_unmap(0, 0x1000)
    kept[:] = 9
    assert mapped() == 1
    del kept
    assert mapped() == 0


@pytest.mark.parametrize(
    ("address", "size", "expect"),
    [(0x2000, 0x1000, errno.ENOENT), (0x10000, 0x1000, errno.ENOENT), (0x1000, 0x3000, 0),
     (0x2000, 0x2000, 0), (0, 0, errno.EINVAL), (0x1000, 0, errno.EINVAL), (0x1000, 0x800, errno.EINVAL),
     (0x1001, 0x1000, errno.EINVAL), ((1 << 64) - 4096, 8192, errno.EINVAL)],
)  # fmt: skip
def test_ranges(three, address, size, expect):
    three.client.dma_unmap(address, size, expect=expect)


@pytest.mark.parametrize(
    ("address", "size"), [(0x1000, 0x1000), (0x3000, 0x1000), (0, 0x2000), (0x3000, 0x2000)]
)
def test_cutting_a_map_in_two(served, ram, address, size):
    served.client.dma_map(0x1000, 0x3000, ram)
    served.client.dma_unmap(address, size, expect=errno.EINVAL)
    assert starts(served) == [0x1000]


@pytest.mark.parametrize(
    ("address", "size", "flags", "expect"),
    [(0x1000, 0x1000, 1, errno.ENOTSUP), (0x1000, 0x1000, 2, errno.EINVAL), (0x1000, 0, 2, errno.EINVAL),
     (0, 0, 6, errno.EINVAL), (0x1000, 0x1000, 4, errno.EINVAL), (0x1000, 0x1000, 1 << 31, errno.EINVAL)],
)  # fmt: skip
def test_wrong_flags(three, address, size, flags, expect):
    three.client.dma_unmap(address, size, flags=flags, expect=expect)
    assert len(starts(three)) == 3


@pytest.mark.parametrize("payload", [b"", bytes(23), bytes(25), wire.DMA_UNMAP.pack(23, 0, 0x1000, 0x1000)])
def test_short_and_long(three, payload):
    three.client.call(Command.DMA_UNMAP, payload, expect=errno.EINVAL)


def test_with_descriptor(three, ram):
    payload = wire.DMA_UNMAP.pack(24, 0, 0x1000, 0x1000)
    three.client.call(Command.DMA_UNMAP, payload, fds=[ram], expect=errno.EINVAL)
    assert len(starts(three)) == 3
