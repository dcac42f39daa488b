# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest memory that a client has shared: what DMA_MAP and DMA_UNMAP build.

One mmap for each distinct file, of the whole file, however many maps lie in it: with a vIOMMU every page is a
map of its own, thousands of them, and each costs the same: who has to follow them watches them one by one
(:class:`MapWatcher`). A segment is a numpy view into it. A view keeps its mapping alive, so a stale one can
never fault; that it is not used after an unmap is the subscribers' business.

SIGBUS is made impossible: only a memfd is accepted, of at least the size asked for, that is sealed against
shrinking (we add the seal where that is still allowed), with ordinary pages (a page of hugetlbfs may be
missing when it is touched).
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.limits import Limits

_SHARE_RAM = (
    "give QEMU its RAM as -object memory-backend-memfd,id=ram,size=SIZE,share=on,seal=on "
    "-machine memory-backend=ram"
)
_NO_VIDEO = "for video memory use -vga none"  # with aux-ram-share=on it comes, but as what can shrink
_WRITE_SEALS = fcntl.F_SEAL_WRITE | 0x10  # 0x10: F_SEAL_FUTURE_WRITE, linux/fcntl.h, not in Python's module


class _UnsafeFileError(OSError):
    """The pages of a file could go away while we use them."""


class _Mapping:
    """One mmap of one file, whole; owns the descriptor."""

    def __init__(self, fd: int, size: int, writable: bool) -> None:
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._mmap = mmap.mmap(fd, size, mmap.MAP_SHARED, prot)
        self.data: NDArray[np.uint8] = np.frombuffer(self._mmap, dtype=np.uint8)
        self.fd = fd
        self.size = size
        self.users = 0

    def close(self) -> None:
        """Give the descriptor back, and the mapping too unless somebody still holds a view of it."""
        os.close(self.fd)
        self.fd = -1
        self.data = _NOTHING
        with contextlib.suppress(BufferError):  # then the last view's end unmaps it
            self._mmap.close()


_NOTHING: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One mapped range of guest bus addresses; satisfies ``vcapdev.dma.MemorySegment``."""

    start: int  # first bus address
    size: int  # bytes
    writable: bool
    data: NDArray[np.uint8]  # shape (size,), a view of the shared mapping; read-only when not writable
    fd: int  # the map's, not to be closed
    fd_offset: int  # bytes


@dataclass(slots=True)
class _Entry:
    """One DMA_MAP in force. Without a segment: a ROM, where accesses are answered with an abort."""

    start: int
    size: int
    key: tuple[int, int, bool] | None = None
    mapping: _Mapping | None = None
    segment: Segment | None = None

    @property
    def end(self) -> int:
        return self.start + self.size


class MapWatcher(Protocol):
    """Follows a :class:`DmaMap` one change at a time; called before the client is answered."""

    def mapped(self, segment: Segment) -> None:
        """A segment was added; the map's generation has just grown by one."""

    def unmapped(self, segments: Sequence[Segment]) -> None:
        """Segments went, ascending, by one message; the map's generation has just grown by one."""


class WholeFile:
    """One file of guest memory, held for as long as :meth:`release` is not called, mapped or not.

    :ivar data: all of its bytes, shape ``(size,)``.
    :ivar fd: as :attr:`Segment.fd` is in each segment of the file.
    """

    def __init__(self, mapping: _Mapping, release: Callable[[], None]) -> None:
        self.data, self.fd, self.size = mapping.data, mapping.fd, mapping.size
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Let go; harmless when repeated."""
        release, self._release = self._release, None
        self.data = _NOTHING
        if release is not None:
            release()


class DmaMap:
    """The guest memory a device can reach; satisfies ``vcapdev.dma.MemoryMap``."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._starts: list[int] = []  # of _entries, for bisection
        self._entries: list[_Entry] = []
        self._segments: list[Segment] | None = []  # None: to be built when somebody asks
        self._files: dict[tuple[int, int, bool], _Mapping] = {}
        self._mapped = 0  # bytes, over all entries
        self._subscribers: list[Callable[[], None]] = []
        self._watchers: list[MapWatcher] = []
        self._generation = 0

    @property
    def generation(self) -> int:
        """Grows with every map and unmap."""
        return self._generation

    @property
    def segments(self) -> Sequence[Segment]:
        """All segments in ascending order, never overlapping. A new list after each change."""
        if self._segments is None:
            self._segments = [entry.segment for entry in self._entries if entry.segment is not None]
        return self._segments

    @property
    def count(self) -> int:
        """How many DMA maps are in force, ROMs included."""
        return len(self._entries)

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` after every change, before the client is answered: drop old views in it."""
        self._subscribers.append(on_change)

    def watch(self, watcher: MapWatcher) -> None:
        """Tell ``watcher`` of each segment that comes or goes from now on, ahead of the subscribers."""
        self._watchers.append(watcher)

    def hold(self, segment: Segment) -> WholeFile:
        """Keep the file of one of the map's segments, whole, whatever is unmapped later.

        :raise KeyError: when the segment is not, or no longer, of this map.
        """
        at = bisect.bisect_left(self._starts, segment.start)
        entry = self._entries[at] if at < len(self._entries) else None
        if entry is None or entry.segment is not segment or entry.mapping is None or entry.key is None:
            raise KeyError(segment.start)
        key, mapping = entry.key, entry.mapping
        mapping.users += 1
        return WholeFile(mapping, lambda: self._release(key, mapping))

    def map(self, start: int, size: int, fd: int | None, offset: int, *, writable: bool) -> bool:
        """Add a range of guest memory.

        :param start: first bus address; it, ``size`` and ``offset`` are in bytes and multiples of 4096.
        :param fd: where the memory lies, or None for memory that cannot be shared.
        :return: True when ``fd`` was kept; else it is still the caller's to close.
        :raise OSError: when refused; the text says why and what to do.
        """
        where = self._check_range(start, size, offset)
        if fd is None:
            if writable:
                raise OSError(errno.ENOTSUP, f"{where} comes without a descriptor: {_advice(start)}")
            self._insert(_Entry(start, size))
            return False
        try:
            key, mapping, kept = self._open(fd, start, offset + size, writable, where)
        except _UnsafeFileError:
            if writable:
                raise
            self._insert(_Entry(start, size))  # as good as a ROM without descriptor
            return False
        view = mapping.data[offset : offset + size]
        if not writable:
            view.flags.writeable = False
        segment = Segment(start, size, writable, view, mapping.fd, offset)
        mapping.users += 1
        self._insert(_Entry(start, size, key, mapping, segment))
        return kept

    def unmap(self, start: int, size: int) -> None:
        """Remove all maps within a range: exactly one, or, as QEMU asks below a vIOMMU, many.

        :raise OSError: ENOENT when nothing is mapped there, EINVAL when the range would cut a map in two.
        """
        end = start + size
        first = bisect.bisect_left(self._starts, start)
        last = bisect.bisect_left(self._starts, end)
        cuts_first = first > 0 and self._entries[first - 1].end > start
        cuts_last = first < last and self._entries[last - 1].end > end
        if cuts_first or cuts_last:
            raise OSError(errno.EINVAL, f"{_range(start, size)} would cut a map in two")
        if first == last:
            raise OSError(errno.ENOENT, f"{_range(start, size)} is not mapped")
        self._remove(first, last)

    def clear(self) -> None:
        """Remove everything: the client wishes it, or is gone."""
        if self._entries:
            self._remove(0, len(self._entries))

    def _check_range(self, start: int, size: int, offset: int) -> str:
        where = f"DMA map of {_range(start, size)}"
        if not size or (start | size | offset) % wire.PAGE_SIZE:
            raise OSError(
                errno.EINVAL, f"{where}, offset {offset:#x}: not whole pages of {wire.PAGE_SIZE} bytes"
            )
        if start + size > 1 << 64:
            raise OSError(errno.EINVAL, f"{where}: beyond the last address")
        if self._mapped + size > self._limits.max_mapped or offset + size > self._limits.max_mapped:
            raise OSError(errno.ENOMEM, f"{where}: more than {self._limits.max_mapped} bytes in all")
        if len(self._entries) >= self._limits.max_maps:
            raise OSError(errno.ENOSPC, f"{where}: more than {self._limits.max_maps} maps")
        at = bisect.bisect_left(self._starts, start + size)
        if at and self._entries[at - 1].end > start:
            other = self._entries[at - 1]
            raise OSError(errno.EEXIST, f"{where} overlaps {_range(other.start, other.size)}")
        return where

    def _open(
        self, fd: int, start: int, needed: int, writable: bool, where: str
    ) -> tuple[tuple[int, int, bool], _Mapping, bool]:
        """The mapping of the file behind ``fd``, shared by all segments in it.

        :return: the file's key, its mapping, and whether the mapping took ``fd``.
        """
        can_write = _check_file(fd, start, where)
        if writable and not can_write:
            raise OSError(errno.EACCES, f"{where}: its descriptor does not allow writing")
        status = os.fstat(fd)
        if needed > status.st_size:
            raise OSError(errno.EINVAL, f"{where}: its descriptor has only {status.st_size:#x} bytes")
        key = (status.st_dev, status.st_ino, can_write)
        known = self._files.get(key)
        if known is not None and known.size >= needed:
            return key, known, False
        self._check_files(status.st_size, where)
        try:
            mapping = _Mapping(fd, status.st_size, can_write)
        except (OSError, ValueError, OverflowError) as error:
            number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
            raise OSError(number, f"{where}: its descriptor cannot be mapped ({error})") from error
        self._files[key] = mapping  # a smaller one, from before the file grew, lives on in its segments
        return key, mapping, True

    def _check_files(self, size: int, where: str) -> None:
        mappings = {id(entry.mapping): entry.mapping.size for entry in self._entries if entry.mapping}
        if len(mappings) >= self._limits.max_files:
            raise OSError(errno.EMFILE, f"{where}: more than {self._limits.max_files} files")
        if sum(mappings.values()) + size > self._limits.max_mapped:
            raise OSError(errno.ENOMEM, f"{where}: files of more than {self._limits.max_mapped} bytes in all")

    def _insert(self, entry: _Entry) -> None:
        at = bisect.bisect_left(self._starts, entry.start)
        self._starts.insert(at, entry.start)
        self._entries.insert(at, entry)
        self._mapped += entry.size
        self._generation += 1
        self._segments = None
        if entry.segment is not None:
            for watcher in self._watchers:
                watcher.mapped(entry.segment)
        self._tell()

    def _remove(self, first: int, last: int) -> None:
        gone = self._entries[first:last]
        del self._entries[first:last]
        del self._starts[first:last]
        self._mapped -= sum(entry.size for entry in gone)
        self._generation += 1
        self._segments = None
        segments = [entry.segment for entry in gone if entry.segment is not None]
        for watcher in self._watchers:
            watcher.unmapped(segments)
        del segments
        self._tell()
        for entry in gone:
            entry.segment = None
            if entry.mapping is not None and entry.key is not None:
                self._release(entry.key, entry.mapping)

    def _release(self, key: tuple[int, int, bool], mapping: _Mapping) -> None:
        mapping.users -= 1
        if not mapping.users:
            if self._files.get(key) is mapping:
                del self._files[key]
            mapping.close()

    def _tell(self) -> None:
        for on_change in self._subscribers:
            on_change()


def _check_file(fd: int, start: int, where: str) -> bool:
    """Make sure that the pages behind ``fd`` cannot go away.

    :return: whether it can be mapped for writing.
    :raise _UnsafeFileError: when they could.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        text = f"{where}: its descriptor is no memfd; {_advice(start)}"
        raise _UnsafeFileError(error.errno, text) from error
    if os.fstatvfs(fd).f_bsize != mmap.PAGESIZE:
        text = f"{where}: huge pages can vanish; use memory-backend-memfd with hugetlb=off"
        raise _UnsafeFileError(errno.EINVAL, text)
    if not seals & fcntl.F_SEAL_SHRINK:
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        except OSError as error:
            text = f"{where}: its descriptor can shrink; {_advice(start)}"
            raise _UnsafeFileError(error.errno, text) from error
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if access == os.O_WRONLY:
        raise OSError(errno.EACCES, f"{where}: its descriptor does not allow reading")
    return access == os.O_RDWR and not seals & _WRITE_SEALS


def _advice(start: int) -> str:
    """What to change on QEMU's command line: between 2 and 4 GiB lie the memories of devices."""
    return _NO_VIDEO if 1 << 31 <= start < 1 << 32 else _SHARE_RAM


def _range(start: int, size: int) -> str:
    return f"{start:#x}+{size:#x}"
