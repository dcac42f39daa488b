# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects which page of a buffer is blamed: pages count in writing order, also those run into."""

from __future__ import annotations

import numpy as np
import pytest

from vcapdev.dma import Program
from vcapdev.dmacheck.ledger import Record

PAGE = 4096
BASE = 0x100_0000


def record(*pieces: tuple[int, int]) -> Record:
    """A program that writes pieces of ``(offset, length)`` behind an address."""
    ranges = np.array([(BASE + offset, length) for offset, length in pieces], dtype=np.uint64)
    return Record(Program(1, 0x2000, ranges, b""))


@pytest.mark.parametrize(
    ("offset", "place"),
    [
        (0, (0, 3, 0)),
        (PAGE - 1, (0, 3, PAGE - 1)),
        (PAGE, (1, 3, PAGE)),
        (2 * PAGE + 8, (2, 3, 2 * PAGE + 8)),
    ],
)
def test_a_piece_over_several_pages_counts_each(offset: int, place: tuple[int, int, int]) -> None:
    assert record((0, 3 * PAGE)).place(BASE + offset) == place


def test_pages_that_pieces_share_count_once() -> None:
    lines = record(*((line * 1536, 1536) for line in range(8)))  # three pages, every third line crosses
    assert lines.place(BASE + 7 * 1536) == (2, 3, 7 * 1536)
    assert lines.place(BASE + PAGE) == (1, 3, PAGE)
    assert lines.place(BASE + PAGE - 1) == (0, 3, PAGE - 1)


def test_scattered_pages_count_in_the_order_of_the_program() -> None:
    scattered = record((5 * PAGE, PAGE), (2 * PAGE, PAGE), (9 * PAGE, 100))
    assert scattered.place(BASE + 5 * PAGE) == (0, 3, 0)
    assert scattered.place(BASE + 2 * PAGE) == (1, 3, PAGE)
    assert scattered.place(BASE + 9 * PAGE + 50) == (2, 3, 2 * PAGE + 50)


def test_an_address_that_is_not_written_has_no_place() -> None:
    assert record((0, PAGE)).place(BASE + PAGE) == (0, 1, 0)
