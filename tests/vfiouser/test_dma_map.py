# SPDX-License-Identifier: GPL-2.0-or-later
"""DMA_MAP: guest RAM is shared with us, byte for byte, and whatever could fault under us is refused."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import tempfile
from pathlib import Path

import pytest
from client import memfd

from vcapdev.dma import MemoryMap
from vcapdev.vfiouser import Limits, wire
from vcapdev.vfiouser.wire import Command

MIB = 1 << 20


def segments(served):
    return [(s.start, s.size, s.writable, s.fd_offset) for s in served.server.memory.segments]


def test_bytes_are_shared_both_ways(served, ram):
    served.client.dma_map(0x100000, MIB - 4096, ram, offset=4096)
    memory: MemoryMap = served.server.memory
    (segment,) = memory.segments
    os.pwrite(ram, b"from the guest", 4096 + 16)
    assert segment.data[16:30].tobytes() == b"from the guest"
    segment.data[100:104] = list(b"card")
    assert os.pread(ram, 4, 4096 + 100) == b"card"
    assert (segment.start, segment.size, segment.writable, segment.fd_offset) == (
        0x100000,
        MIB - 4096,
        True,
        4096,
    )
    assert os.fstat(segment.fd).st_ino == os.fstat(ram).st_ino


def test_segments_are_in_order_and_generation_grows(served, ram):
    memory, seen = served.server.memory, [served.server.memory.generation]
    for start in (0x30000, 0x10000, 0x20000):
        served.client.dma_map(start, 0x1000, ram)
        seen.append(memory.generation)
    assert [s.start for s in memory.segments] == [0x10000, 0x20000, 0x30000]
    assert seen == sorted(set(seen))


def test_one_mapping_for_each_file(served, ram, new_fd):
    before = len(os.listdir("/proc/self/fd"))
    for page in range(200):
        served.client.dma_map(page * 0x2000, 0x1000, ram, offset=page * 0x1000)
    same_file = new_fd(os.open(f"/proc/self/fd/{ram}", os.O_RDWR))
    served.client.dma_map(0x1000, 0x1000, same_file)
    assert len(served.server.memory.segments) == 201
    with open("/proc/self/maps") as maps:
        assert sum("memfd:ram" in line for line in maps) == 1
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # ours, mmap's own, the test's


def test_a_file_that_grew_is_mapped_anew(served, new_fd):
    fd = new_fd(memfd(0x2000))
    served.client.dma_map(0, 0x2000, fd)
    os.ftruncate(fd, 0x4000)
    served.client.dma_map(0x10000, 0x2000, fd, offset=0x2000)
    served.client.dma_unmap(0, 0x2000)
    (segment,) = served.server.memory.segments
    segment.data[:] = 7
    assert os.pread(fd, 1, 0x3FFF) == b"\7"


def test_read_only(served, ram):
    served.client.dma_map(0, MIB, ram, flags=wire.DMA_MAP_READ)
    (segment,) = served.server.memory.segments
    assert not segment.writable
    with pytest.raises(ValueError, match="read-only"):
        segment.data[0] = 1


def test_read_only_descriptor(served, ram, new_fd):
    fd = new_fd(os.open(f"/proc/self/fd/{ram}", os.O_RDONLY))
    served.client.dma_map(0, MIB, fd, expect=errno.EACCES)
    served.client.dma_map(0, MIB, fd, flags=wire.DMA_MAP_READ)
    served.client.dma_map(MIB, MIB, ram)
    assert [s.writable for s in served.server.memory.segments] == [False, True]


def test_write_only_descriptor(served, ram, new_fd):
    fd = new_fd(os.open(f"/proc/self/fd/{ram}", os.O_WRONLY))
    served.client.dma_map(0, MIB, fd, expect=errno.EACCES)


def test_write_sealed(served, new_fd):
    fd = new_fd(memfd(MIB, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE))
    served.client.dma_map(0, MIB, fd, expect=errno.EACCES)
    served.client.dma_map(0, MIB, fd, flags=wire.DMA_MAP_READ)


def test_rom_without_descriptor_is_a_hole(served, ram):
    served.client.dma_map(0xC0000, 0x20000, flags=wire.DMA_MAP_READ)
    assert segments(served) == []
    served.client.dma_map(0xC0000, 0x1000, ram, expect=errno.EEXIST)
    served.client.dma_unmap(0xC0000, 0x20000)
    served.client.dma_map(0xC0000, 0x1000, ram)


def test_ram_without_descriptor_names_the_option(served):
    served.client.dma_map(0, 0x10000000, expect=errno.ENOTSUP)
    (line,) = served.log
    assert "0x0+0x10000000" in line
    assert "memory-backend-memfd" in line
    assert "share=on" in line
    assert "\n" not in line


def test_video_memory_without_descriptor_names_the_option(served):
    served.client.dma_map(0xFD000000, 0x1000000, expect=errno.ENOTSUP)
    (line,) = served.log
    assert "-vga none" in line


def test_unmapping_what_was_refused(served):
    """QEMU does so, since it does not wait for the answer to its map."""
    served.client.dma_map(0xFD000000, 0x1000000, expect=errno.ENOTSUP)
    served.client.dma_unmap(0xFD000000, 0x1000000)
    served.client.dma_unmap(0xFD000000, 0x1000000, expect=errno.ENOENT)


def test_rom_that_can_shrink_is_a_hole(served, new_fd):
    """As all of QEMU's own memories are with aux-ram-share=on."""
    served.client.dma_map(0xFFFC0000, 0x40000, new_fd(memfd(0x40000, seals=None)), flags=wire.DMA_MAP_READ)
    assert segments(served) == []
    served.client.dma_map(0xFFFC0000, 0x1000, expect=errno.EEXIST)
    served.client.dma_unmap(0xFFFC0000, 0x40000)


def test_unsealed_is_sealed_by_us(served, new_fd):
    fd = new_fd(memfd(MIB, seals=0))
    served.client.dma_map(0, MIB, fd)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)


def test_what_can_shrink_is_refused(served, new_fd):
    served.client.dma_map(0, MIB, new_fd(memfd(MIB, seals=None)), expect=errno.EPERM)
    served.client.dma_map(0, MIB, new_fd(memfd(MIB, seals=fcntl.F_SEAL_SEAL)), expect=errno.EPERM)
    assert "seal=on" in served.log[0]


def test_a_file_on_disk_is_refused(served):
    with tempfile.TemporaryFile() as file:
        file.truncate(MIB)
        served.client.dma_map(0, MIB, file.fileno(), expect=fcntl_errno(file.fileno()))
    assert "memory-backend-memfd" in served.log[0]


def fcntl_errno(fd):
    """What the file system says of sealing: EINVAL on disk, EPERM where the directory is a tmpfs."""
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError as error:
        return error.errno
    raise AssertionError("a plain file that can be sealed")


def test_what_cannot_be_mapped(served, new_fd):
    served.client.dma_map(0, 4096, new_fd(os.eventfd(0)), expect=errno.EINVAL)
    served.client.dma_map(0, 4096, new_fd(os.open("/dev/null", os.O_RDWR)), expect=errno.EINVAL)
    served.client.dma_map(0, 4096, new_fd(os.open("/", os.O_RDONLY)), expect=errno.EINVAL)
    assert segments(served) == []


def test_huge_pages_are_refused(served, new_fd):
    """Touching one that the system has run out of would be a SIGBUS."""
    if "hugetlbfs" not in Path("/proc/filesystems").read_text():
        return  # this kernel has no such memory that could be offered
    fd = new_fd(memfd(1 << 21, flags=os.MFD_HUGETLB))
    served.client.dma_map(0, 1 << 21, fd, expect=errno.EINVAL)


@pytest.mark.parametrize(("size", "offset"), [(MIB + 4096, 0), (MIB, 4096), (4096, MIB), (1 << 40, 0)])
def test_short_descriptor(served, ram, size, offset):
    ident = served.client.send(
        Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, offset, 0, size), fds=[ram]
    )  # beyond the total it is ENOMEM
    reply = served.client.receive()
    assert reply.ident == ident
    assert reply.errno == (errno.ENOMEM if offset + size > 1 << 40 else errno.EINVAL)
    assert segments(served) == []


@pytest.mark.parametrize(
    ("address", "size"),
    [(0x8000, 0x1000), (0x8000, 0x4000), (0x6000, 0x4000), (0xB000, 0x4000), (0x6000, 0x10000), (0, 0x80000)],
)
def test_overlap(served, ram, address, size):
    served.client.dma_map(0x8000, 0x4000, ram)
    served.client.dma_map(address, size, ram, expect=errno.EEXIST)
    assert segments(served) == [(0x8000, 0x4000, True, 0)]


def test_neighbours_do_not_overlap(served, ram):
    served.client.dma_map(0x8000, 0x4000, ram)
    served.client.dma_map(0xC000, 0x4000, ram)
    served.client.dma_map(0x4000, 0x4000, ram)
    assert len(segments(served)) == 3


def test_highest_address(served, ram):
    served.client.dma_map((1 << 64) - 4096, 4096, ram)
    served.client.dma_map((1 << 64) - 4096, 8192, ram, expect=errno.EINVAL)


@pytest.mark.parametrize(
    ("address", "size", "offset"),
    [(0, 0, 0), (0, 4095, 0), (1, 4096, 0), (0, 4096, 512), (0, 6000, 0), ((1 << 64) - 4096, 8192, 0)],
)
def test_unaligned_or_wrapping(served, ram, address, size, offset):
    served.client.dma_map(address, size, ram, offset, expect=errno.EINVAL)


def test_huge(served, new_fd):
    """A sparse file of petabytes costs its sender nothing; it must not cost us our address space."""
    fd = new_fd(memfd(1 << 50))
    served.client.dma_map(0, 1 << 50, fd, expect=errno.ENOMEM)
    served.client.dma_map(0, 4096, fd, expect=errno.ENOMEM)
    served.client.dma_map(0, 1 << 63, flags=wire.DMA_MAP_READ, expect=errno.ENOMEM)


def test_limits_in_number(serve, ram, new_fd):
    served = serve(Limits(max_maps=3, max_files=2, max_mapped=4 * MIB))
    served.client.version()
    served.client.dma_map(0, 4096, ram)
    served.client.dma_map(1 * MIB, 4096, new_fd(memfd(MIB)))
    served.client.dma_map(2 * MIB, 4096, new_fd(memfd(MIB)), expect=errno.EMFILE)
    served.client.dma_map(2 * MIB, 4096, ram)
    served.client.dma_map(3 * MIB, 4096, ram, expect=errno.ENOSPC)
    served.client.dma_unmap(0, 4096)
    served.client.dma_unmap(2 * MIB, 4096)
    served.client.dma_map(0, 4096, new_fd(memfd(4 * MIB)), expect=errno.ENOMEM)
    served.client.dma_map(0, MIB, ram)


@pytest.mark.parametrize("flags", [0, 2, 4, 7, 1 << 31])
def test_wrong_flags(served, ram, flags):
    served.client.dma_map(0, MIB, ram, flags=flags, expect=errno.EINVAL)


@pytest.mark.parametrize("payload", [b"", bytes(31), bytes(33), wire.DMA_MAP.pack(31, 3, 0, 0, 4096)])
def test_short_and_long(served, ram, payload):
    served.client.call(Command.DMA_MAP, payload, fds=[ram], expect=errno.EINVAL)


def test_too_many_descriptors(served, ram):
    payload = wire.DMA_MAP.pack(32, 3, 0, 0, 4096)
    served.client.call(Command.DMA_MAP, payload, fds=[ram] * 2, expect=errno.EINVAL)
    served.client.call(Command.DMA_MAP, payload, fds=[ram] * 8, expect=errno.EINVAL)
    served.client.call(Command.DMA_MAP, payload, fds=[ram] * 9, expect=errno.EMFILE)
    served.client.call(Command.DMA_MAP, payload, fds=[ram] * 200, expect=errno.EMFILE)
    served.client.dma_map(0, 4096, ram)


def test_subscribers_hear_of_it_before_the_client(served, ram):
    heard = []
    served.server.memory.subscribe(lambda: heard.append(len(served.server.memory.segments)))
    served.client.dma_map(0, 4096, ram)
    assert heard == [1]


def test_holes_punched_under_us_read_as_zeros(served, ram):
    served.client.dma_map(0, MIB, ram)
    (segment,) = served.server.memory.segments
    segment.data[:] = 1
    libc = ctypes.CDLL(None, use_errno=True)
    punch_and_keep_size = 3
    assert libc.fallocate(ram, punch_and_keep_size, ctypes.c_long(0), ctypes.c_long(MIB)) == 0
    assert not segment.data.any()
