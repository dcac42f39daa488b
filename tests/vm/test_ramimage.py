# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects guest RAM on its way to a file and back: every byte, holes as holes, and no trust in the file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vcapdev.vm import ramimage
from vcapdev.vm.ramimage import PAGE, PAGES, RUNS

NewMemory = Callable[[int], int]


@pytest.fixture
def new_memory() -> Iterator[NewMemory]:
    made: list[int] = []

    def new(pages: int) -> int:
        made.append(ramimage.new_memory(pages * PAGE))
        return made[-1]

    yield new
    for fd in made:
        os.close(fd)


def pages_of_a_guest() -> bytes:
    """Poisoned, zero and mixed pages, across the borders of what is looked at in one go."""
    random = np.random.default_rng(1)
    poison, zero = b"\xaa" * PAGE, bytes(PAGE)
    mixed = [random.bytes(PAGE) for _ in range(3)]
    nearly = b"\xaa" * (PAGE - 1) + b"\xab"  # one byte is all the difference
    words = bytes([1, 2, 3, 4, 5, 6, 7, 8]) * (PAGE // 8)  # equal words, but not equal bytes
    few = [poison, poison, mixed[0], zero, nearly, words, mixed[1], zero, zero, poison, mixed[2]]
    return b"".join(few) + poison * 8300 + mixed[0] + zero * 5


def test_all_bytes_come_back(new_memory: NewMemory, tmp_path: Path) -> None:
    content = pages_of_a_guest()
    first, second = new_memory(len(content) // PAGE), new_memory(len(content) // PAGE)
    assert os.pwrite(first, content, 0) == len(content)
    ramimage.save(first, tmp_path)
    assert (tmp_path / PAGES).stat().st_size == 6 * PAGE  # what is no repetition of one byte
    ramimage.load(tmp_path, second)
    assert os.pread(second, len(content) + 1, 0) == content


def test_what_nobody_has_touched_takes_no_memory(new_memory: NewMemory, tmp_path: Path) -> None:
    first, second = new_memory(1000), new_memory(1000)
    os.pwrite(first, b"x" * PAGE + b"y", 500 * PAGE)
    ramimage.save(first, tmp_path)
    ramimage.load(tmp_path, second)
    assert os.fstat(second).st_blocks * 512 == 2 * PAGE


def test_the_memory_can_never_change_its_size(new_memory: NewMemory) -> None:
    fd = new_memory(4)
    for size in (3 * PAGE, 5 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK  # what the card's process asks for


@pytest.mark.parametrize(
    ("runs", "stored"),
    [
        ([], 0),
        ([[0, 4]], 0),  # no whole row
        ([[0, 3, 0]], 0),  # too little
        ([[0, 5, 0]], 0),  # too much
        ([[0, 2, 0], [3, 1, 0]], 0),  # a gap
        ([[0, 3, 0], [2, 2, 0]], 0),  # twice
        ([[0, -4, 0], [-4, 8, 0]], 0),
        ([[0, 4, 256]], 0),
        ([[0, 4, -2]], 0),
        ([[0, 4, -1]], 3 * PAGE),
        ([[0, 4, -1]], 5 * PAGE),
    ],
)
def test_files_that_do_not_fit_are_refused(
    runs: list[list[int]], stored: int, new_memory: NewMemory, tmp_path: Path
) -> None:
    np.array(runs, "<i8").tofile(tmp_path / RUNS)
    (tmp_path / PAGES).write_bytes(bytes(stored))
    with pytest.raises(ValueError, match="ram"):
        ramimage.load(tmp_path, new_memory(4))
