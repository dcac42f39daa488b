# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest physical memory as the device process has it mapped: bounded reads that never trust an address."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from vcapdev.dma import MemoryMap, MemorySegment

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
MAX_READ = 64 << 20  # no structure of a kernel that we read is longer


class GuestReadError(Exception):
    """An address that the guest gave leads nowhere: not mapped, or an absurd length.

    Internal to the checker: whoever walks guest data catches it and says what could not be read.
    """


class Extent(NamedTuple):
    """Populated guest memory: ``size`` bytes at physical address ``start``."""

    start: int
    size: int


class GuestMemory:
    """Reads by guest physical address over a :class:`vcapdev.dma.MemoryMap`."""

    def __init__(self, memory: MemoryMap) -> None:
        self._memory = memory

    @property
    def generation(self) -> int:
        """The generation of the map beneath."""
        return self._memory.generation

    @property
    def segments(self) -> tuple[MemorySegment, ...]:
        """The mapped segments, ascending."""
        return tuple(self._memory.segments)

    def segment(self, address: int) -> MemorySegment | None:
        """The segment that holds ``address``, or None."""
        for segment in self._memory.segments:
            if segment.start <= address < segment.start + segment.size:
                return segment
        return None

    def read(self, address: int, size: int) -> bytes:
        """Copy ``size`` bytes at physical ``address``.

        :raise GuestReadError: when any byte of it is not mapped, or ``size`` is absurd.
        """
        if not 0 <= size <= MAX_READ:
            raise GuestReadError(f"{size} bytes at {address:#x} is no sensible length")
        parts = []
        while size:
            segment = self.segment(address)
            if segment is None:
                raise GuestReadError(f"guest physical address {address:#x} is not mapped")
            offset = address - segment.start
            part = segment.data[offset : offset + min(size, segment.size - offset)].tobytes()
            parts.append(part)
            address += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def u64(self, address: int) -> int:
        """The little-endian 64-bit word at physical ``address``."""
        return int(struct.unpack("<Q", self.read(address, 8))[0])

    def populated(self) -> Iterator[Extent]:
        """Ranges that hold data, page-aligned: holes of a shared mapping grow the guest when touched."""
        for segment in self._memory.segments:
            yield from _data_ranges(segment)


def _data_ranges(segment: MemorySegment) -> Iterator[Extent]:
    """Walk one segment by ``SEEK_DATA`` and ``SEEK_HOLE``; all of it where the file cannot say."""
    position, end = segment.fd_offset, segment.fd_offset + segment.size
    while position < end:
        try:
            start = os.lseek(segment.fd, position, os.SEEK_DATA)
            stop = os.lseek(segment.fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                return
            start, stop = position, end
        start, stop = max(start, position), min(stop, end)
        if stop > start:
            yield Extent(segment.start + start - segment.fd_offset, stop - start)
        if stop <= position:
            return
        position = stop
