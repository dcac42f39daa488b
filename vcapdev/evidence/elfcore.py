# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes guest RAM as an ELF core that drgn and crash open: sparse, and of bounded size.

As QEMU's dump-guest-memory and kdump write it: a PT_NOTE with one NT_PRSTATUS for each vCPU and the
VMCOREINFO note, then PT_LOADs by physical address, their virtual address 0 (both tools translate through the
kernel's own page tables). Pages of zeros are holes of the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import MemoryMap, MemorySegment
from vcapdev.evidence.image import (
    ELF_HEADER,
    EM_X86_64,
    ET_CORE,
    IDENT,
    MAX_SEGMENTS,
    PROGRAM_HEADER,
    PT_LOAD,
    PT_NOTE,
)
from vcapdev.guestmm.memory import PAGE_SIZE, GuestMemory

_ALIGN = PAGE_SIZE
_BLOCK = 4096  # pages that are looked at and written at a time
_NT_PRSTATUS = 1
_PRSTATUS_SIZE, _PR_PID, _PR_REG = 336, 32, 112  # struct elf_prstatus of x86-64, include/linux/elfcore.h
_REGISTERS = (  # struct user_regs_struct of x86-64, arch/x86/include/asm/user_64.h
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "rfl", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)

Pages = NDArray[np.int64]


@dataclass
class Written:
    """What went into an image, in pages. ``left_out`` by why."""

    ram: int = 0
    zero: int = 0
    written: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A run of pages that becomes one PT_LOAD: bytes of a segment."""

    segment: MemorySegment
    offset: int
    size: int


def write_core(
    path: Path,
    memory: MemoryMap,
    vmcoreinfo: bytes,
    registers: Sequence[dict[str, int]],
    limit: int,
    expendable: Sequence[tuple[str, Pages]] = (),
) -> Written:
    """Write the image.

    :param vmcoreinfo: text of the note; empty where no kernel is known.
    :param registers: of each vCPU, by the names that QEMU prints, in lower case.
    :param limit: bytes of pages that are written at most.
    :param expendable: kinds of page frames to leave out where all of RAM is more than that: name and
        ascending numbers, the most expendable kind first. They are in no PT_LOAD: reading them fails.
        What is too much even then is left out from the highest address down, as "beyond the limit".
    :raise OSError: when it cannot be written.
    """
    guest = GuestMemory(memory)
    filled = _filled_pages(guest)
    result = Written(ram=sum(segment.size for segment in guest.segments) // PAGE_SIZE)
    keep = _choose(filled, limit // PAGE_SIZE, expendable, result.left_out)
    result.zero = result.ram - len(filled)
    result.written = len(keep)
    dropped = np.setdiff1d(filled, keep, assume_unique=True)
    pieces = [piece for segment in guest.segments for piece in _pieces(segment, dropped)]
    if len(pieces) > MAX_SEGMENTS:  # too scattered for a table: what lies between is then zeros
        pieces = [Piece(segment, 0, segment.size) for segment in guest.segments]
    notes = b"".join(_prstatus(cpu, values) for cpu, values in enumerate(registers))
    if vmcoreinfo:
        notes += _note(b"VMCOREINFO", 0, vmcoreinfo)
    with path.open("wb") as file:
        _write_file(file.fileno(), pieces, notes, keep)
    return result


def _filled_pages(guest: GuestMemory) -> Pages:
    """Frame numbers of all pages that are not zeros, ascending."""
    found = [np.zeros(0, dtype=np.int64)]
    for start, size in guest.populated():
        segment = guest.segment(start)
        if segment is None:
            continue
        first, count = start // PAGE_SIZE, size // PAGE_SIZE
        for block in range(0, count, _BLOCK):
            pages = min(_BLOCK, count - block)
            offset = start - segment.start + block * PAGE_SIZE
            data = segment.data[offset : offset + pages * PAGE_SIZE].view(np.uint64)
            rows = np.flatnonzero(data.reshape(pages, -1).any(axis=1))
            found.append(rows + (first + block))
    return np.concatenate(found)


def _choose(
    filled: Pages, most: int, expendable: Sequence[tuple[str, Pages]], left_out: dict[str, int]
) -> Pages:
    keep = filled
    for name, pfns in expendable:
        if len(keep) <= most:
            return keep
        rest = np.setdiff1d(keep, pfns)
        if len(rest) < len(keep):
            left_out[name] = len(keep) - len(rest)
        keep = rest
    if len(keep) > most:
        left_out["beyond the limit"] = len(keep) - most
        keep = keep[:most]
    return keep


def _pieces(segment: MemorySegment, dropped: Pages) -> Iterator[Piece]:
    """What of a segment is in the file: all but the dropped pages, which are ascending."""
    first, count = segment.start // PAGE_SIZE, segment.size // PAGE_SIZE
    low, high = np.searchsorted(dropped, (first, first + count))
    holes = dropped[low:high] - first
    edges = np.concatenate([[-1], holes, [count]])
    for before, after in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if after - before > 1:
            yield Piece(segment, (before + 1) * PAGE_SIZE, (after - before - 1) * PAGE_SIZE)


def _write_file(fd: int, pieces: Sequence[Piece], notes: bytes, keep: Pages) -> None:
    """Header, program headers, notes, then the pages at places that are known beforehand."""
    notes_at = ELF_HEADER.size + PROGRAM_HEADER.size * (len(pieces) + 1)
    place = -(-(notes_at + len(notes)) // _ALIGN) * _ALIGN
    headers = [PROGRAM_HEADER.pack(PT_NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 4)]
    places = []
    for piece in pieces:
        physical = piece.segment.start + piece.offset
        headers.append(PROGRAM_HEADER.pack(PT_LOAD, 7, place, 0, physical, piece.size, piece.size, _ALIGN))
        places.append(place)
        place += piece.size
    head = ELF_HEADER.pack(
        IDENT, ET_CORE, EM_X86_64, 1, 0, ELF_HEADER.size, 0, 0,
        ELF_HEADER.size, PROGRAM_HEADER.size, len(headers), 0, 0, 0,
    )  # fmt: skip
    os.truncate(fd, place)
    _write_all(fd, head + b"".join(headers) + notes, 0)
    for piece, at in zip(pieces, places, strict=True):
        _write_piece(fd, piece, at, keep)


def _write_piece(fd: int, piece: Piece, place: int, keep: Pages) -> None:
    first, count = (piece.segment.start + piece.offset) // PAGE_SIZE, piece.size // PAGE_SIZE
    low, high = np.searchsorted(keep, (first, first + count))
    wanted = keep[low:high] - first
    if not len(wanted):
        return
    breaks = np.flatnonzero(np.diff(wanted) > 1) + 1
    for run in np.split(wanted, breaks):
        start, end = int(run[0]) * PAGE_SIZE, (int(run[-1]) + 1) * PAGE_SIZE
        _write_all(fd, piece.segment.data[piece.offset + start : piece.offset + end].data, place + start)


def _write_all(fd: int, data: bytes | memoryview, place: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view[: 1 << 24], place)
        view, place = view[done:], place + done


def _note(name: bytes, kind: int, data: bytes) -> bytes:
    def padded(part: bytes) -> bytes:
        return part + bytes(-len(part) % 4)

    return struct.pack("<III", len(name) + 1, len(data), kind) + padded(name + b"\0") + padded(data)


def _prstatus(cpu: int, values: dict[str, int]) -> bytes:
    """An NT_PRSTATUS note; ``pid`` is the number of the vCPU plus one, as QEMU has it."""
    status = bytearray(_PRSTATUS_SIZE)
    struct.pack_into("<I", status, _PR_PID, cpu + 1)
    numbers = [values.get(name, 0) & 0xFFFFFFFFFFFFFFFF for name in _REGISTERS]
    struct.pack_into(f"<{len(numbers)}Q", status, _PR_REG, *numbers)
    return _note(b"CORE", _NT_PRSTATUS, bytes(status))
