# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest RAM in a file, and from there back into memory that QEMU and a card's process share.

A booted guest has mostly pages of one repeated byte: with ``page_poison=1`` every free page is full of 0xaa.
Only the others are stored::

    ram.runs    for each run of pages: first page, pages, the byte they are full of or -1 (int64)
    ram.pages   the pages of the runs with -1, one behind the other

Pages full of zeros become holes of the new memory: they cost nothing until they are used.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE = 4096
RUNS, PAGES = "ram.runs", "ram.pages"
_STORED = -1
_CHUNK = 4096  # pages that are looked at in one go: 16 MiB
_PIECE = 1 << 20  # bytes of one repeated byte, written again and again
_MOST_PIECES = 64
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

Words = npt.NDArray[np.uint64]


def new_memory(size: int) -> int:
    """A memfd of ``size`` bytes, all holes, that can never change its size; the caller closes it.

    :raise OSError: no descriptor or memory is left.
    """
    fd = os.memfd_create("vcapdev-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def save(fd: int, directory: Path) -> None:
    """Write the memory of ``fd`` into ``directory``.

    :raise OSError: the disk is full, for example.
    """
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory, (directory / PAGES).open("wb") as file:
        words: Words = np.frombuffer(memory, np.uint64).reshape(-1, PAGE // 8)
        runs: list[list[int]] = []
        for start in range(0, len(words), _CHUNK):
            chunk = words[start : start + _CHUNK]
            fills = page_fills(chunk)
            file.write(chunk[fills == _STORED].tobytes())
            _add_runs(runs, start, fills)
        del words, chunk  # else the mapping cannot be closed
    np.array(runs, "<i8").tofile(directory / RUNS)


def page_fills(pages: Words) -> npt.NDArray[np.int64]:
    """For each page the byte that it is full of, -1 when it has different ones."""
    first = pages[:, 0]
    one_byte = first == (first & np.uint64(0xFF)) * np.uint64(0x0101010101010101)
    same = one_byte.copy()
    same[one_byte] = (pages[one_byte] == first[one_byte, None]).all(axis=1)
    return np.where(same, (first & np.uint64(0xFF)).astype(np.int64), _STORED)


def _add_runs(runs: list[list[int]], start: int, fills: npt.NDArray[np.int64]) -> None:
    edges = [0, *(np.flatnonzero(np.diff(fills)) + 1).tolist(), len(fills)]
    for begin, end in pairwise(edges):
        fill = int(fills[begin])
        if runs and runs[-1][2] == fill:
            runs[-1][1] += end - begin
        else:
            runs.append([start + begin, end - begin, fill])


def load(directory: Path, fd: int) -> None:
    """Fill the new memory ``fd`` with what was saved in ``directory``.

    :raise ValueError: the files do not fit each other, or the memory.
    :raise OSError: they cannot be read, or no memory is left.
    """
    with (directory / PAGES).open("rb") as file:
        runs = read_runs(directory, os.fstat(fd).st_size, os.fstat(file.fileno()).st_size)
        at = 0
        for place, size, fill in runs:
            if fill == _STORED:
                _copy(file.fileno(), at, fd, place, size)
                at += size
            elif fill:
                _fill(fd, place, size, fill)


def read_runs(directory: Path, memory: int, stored: int) -> Iterator[tuple[int, int, int]]:
    """Runs as place, bytes, fill, after a check that they make up ``memory`` and ``stored`` bytes.

    :raise ValueError: they do not.
    """
    table = np.fromfile(directory / RUNS, "<i8")
    if not len(table) or len(table) % 3:
        raise ValueError(f"{directory / RUNS} is no table of runs")
    table = table.reshape(-1, 3)
    first, count, fill = table.T
    ends = np.cumsum(count)
    sound = (count > 0).all() and (fill >= _STORED).all() and (fill <= 0xFF).all()
    if not sound or (first != ends - count).any() or int(ends[-1]) * PAGE != memory:
        raise ValueError(f"{directory / RUNS} does not describe {memory >> 20} MiB")
    if int(count[fill == _STORED].sum()) * PAGE != stored:
        raise ValueError(f"{directory / PAGES} is too short or too long")
    return ((int(a) * PAGE, int(n) * PAGE, int(f)) for a, n, f in table)


def _copy(source: int, at: int, fd: int, place: int, size: int) -> None:
    """From page cache to memory within the kernel."""
    os.lseek(fd, place, os.SEEK_SET)
    while size:
        done = os.sendfile(fd, source, at, size)
        if not done:
            raise ValueError("the file of pages ended early")
        at, size = at + done, size - done


def _fill(fd: int, place: int, size: int, fill: int) -> None:
    # Written, not mapped and set: a page that is written whole need not be zeroed first. Half the time.
    piece = memoryview(bytes([fill]) * min(_PIECE, size))
    while size:
        pieces = [piece] * min(size // len(piece), _MOST_PIECES) or [piece[:size]]
        done = os.pwritev(fd, pieces, place)
        place, size = place + done, size - done
