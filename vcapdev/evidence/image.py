# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest RAM for somebody who is not the device: live through its descriptors, or from a memory image.

Either is a :class:`vcapdev.dma.MemoryMap`, so that the checker's own eyes (``vcapdev.guestmm``) look at it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import StillSegment
from vcapdev.errors import GuestError, UsageError

ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
ET_CORE, EM_X86_64, PT_LOAD, PT_NOTE = 4, 62, 1, 4
IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
MAX_SEGMENTS = 4096
_MAX_NOTES = 1 << 20  # bytes
_MAX_SIZE = 1 << 46  # bytes of guest RAM that are believed


class _File(NamedTuple):
    """A file and its bytes, shape ``(n,)``."""

    fd: int
    data: NDArray[np.uint8]


class ImageMap:
    """Some segments, for good. A context manager that closes the descriptors behind them.

    :ivar note: text of the running kernel's VMCOREINFO, where whoever made this knew it.
    """

    def __init__(self, segments: Sequence[StillSegment], fds: Sequence[int], note: bytes = b"") -> None:
        self.generation = 1
        self.note = note
        self.segments = sorted(segments, key=lambda segment: segment.start)
        self._fds = list(fds)

    def __enter__(self) -> ImageMap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; what is still mapped stays readable."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def live_map(answer: Mapping[str, Any]) -> ImageMap:
    """The RAM of a running device process, from what its ``memory`` command answers (docs/control.md).

    :raise GuestError: when the process is gone, or is not ours to look into.
    """
    fds: dict[int, int] = {}
    try:
        for segment in answer["segments"]:
            fd = int(segment["fd"])
            if fd not in fds:
                fds[fd] = os.open(f"/proc/{int(answer['pid'])}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        files = {fd: _mapped(own) for fd, own in fds.items()}
        segments = [
            _segment(files[int(each["fd"])], int(each["offset"]), int(each["start"]), int(each["size"]))
            for each in answer["segments"]
        ]
    except (OSError, ValueError, OverflowError) as error:
        for fd in fds.values():
            os.close(fd)
        raise GuestError(f"guest RAM cannot be reached through the device process: {error}") from error
    return ImageMap(
        segments, list(fds.values()), str(answer.get("vmcoreinfo") or "").encode("latin-1", "replace")
    )


def core_map(path: Path) -> ImageMap:
    """The RAM in an ELF core file.

    :raise UsageError: when the file is none of a guest's memory.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    try:
        file = _mapped(fd)
        segments = [
            _segment(file, offset, physical, size) for offset, physical, size in _loads(fd) if size > 0
        ]
        if not segments:
            raise ValueError("it holds no memory")
        note = _vmcoreinfo(fd)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        os.close(fd)
        raise UsageError(f"{path} is no memory image of a guest: {error}") from error
    return ImageMap(segments, [fd], note)


def _vmcoreinfo(fd: int) -> bytes:
    """The text of the VMCOREINFO note; empty where there is none."""
    kind, _, offset, _, _, size, _, _ = PROGRAM_HEADER.unpack_from(_headers(fd)[0])
    data = os.pread(fd, min(size, _MAX_NOTES), offset) if kind == PT_NOTE else b""
    at = 0
    while at + 12 <= len(data):
        name, length, _ = struct.unpack_from("<III", data, at)
        text = at + 12 + -(-name // 4) * 4
        if data[at + 12 : at + 12 + name] == b"VMCOREINFO\0":
            return data[text : text + length]
        at = text + -(-length // 4) * 4
    return b""


def _loads(fd: int) -> list[tuple[int, int, int]]:
    """``(offset in the file, physical address, bytes)`` of each PT_LOAD."""
    table, count = _headers(fd)
    found = []
    end = os.fstat(fd).st_size
    for number in range(count):
        kind, _, offset, _, physical, in_file, _, _ = PROGRAM_HEADER.unpack_from(
            table, number * PROGRAM_HEADER.size
        )
        if kind == PT_LOAD:
            if offset % mmap.PAGESIZE or offset + in_file > end or physical + in_file > _MAX_SIZE:
                raise ValueError(f"program header {number} leads outside the file")
            found.append((offset, physical, in_file))
    return found


def _headers(fd: int) -> tuple[bytes, int]:
    """The program headers and their number."""
    fields = ELF_HEADER.unpack(os.pread(fd, ELF_HEADER.size, 0))
    ident, kind, machine, headers, size, count = (*fields[:3], fields[5], fields[9], fields[10])
    if ident[:7] != IDENT[:7] or kind != ET_CORE or machine != EM_X86_64:
        raise ValueError("not an ELF core of x86-64")
    if size != PROGRAM_HEADER.size or count > MAX_SEGMENTS + 1:
        raise ValueError(f"{count} program headers of {size} bytes")
    return os.pread(fd, size * count, headers), count


def _mapped(fd: int) -> _File:
    """All of a file: a mapping holds a descriptor, so that one for each segment would be too many.

    Whoever cuts the file short meanwhile ends us, as with any mapping.
    """
    if not os.fstat(fd).st_size:
        raise ValueError("the file is empty")
    return _File(fd, np.frombuffer(mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ), np.uint8))


def _segment(file: _File, offset: int, start: int, size: int) -> StillSegment:
    if offset % mmap.PAGESIZE or offset < 0 or not 0 < size <= len(file.data) - offset:
        raise ValueError(f"{size} bytes at {offset:#x} are not in the file")
    return StillSegment(start, size, file.data[offset : offset + size], file.fd, offset)
