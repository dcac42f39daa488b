# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the engine with what stock drivers really made it do: recorded programs, recorded registers.

tests/guest/record_programs.py took them from guests. What must be where is read off a program without the
engine: each of its instructions names a stretch of a line, and each line's bytes are those that were sent.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.rootcomplex import PAGE, POISON, RootComplex, Segment
from support.sent import sent

from vcapdev.bt878.expected import expected_frame
from vcapdev.bt878.registers import IntStat

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
DMA = ("RISC_STRT_ADD", "GPIO_DMA_CTL")  # written last, as a driver does
OTHERS = {"DSTATUS", "INT_STAT", "RISC_COUNT", "FCAP", "SRESET", "I2C", *DMA}  # read-only, or a write acts
SYNC, JUMP, WRITE, WRITE123, WRITE1S23 = 8, 7, 1, 9, 11
SOL, COUNT, VRE, VRO = 1 << 27, 0xFFF, 4, 12


class Piece(NamedTuple):
    """Some bytes of a plane's line: from which on, how many, and their address."""

    field: int
    line: int
    plane: int
    start: int
    size: int
    address: int


def pieces(program: list[list[int]]) -> Iterator[Piece]:
    """What a whole loop writes: behind the SYNC to the end of an even field comes the odd one's program."""
    field, line = 0, -1
    done: dict[int, int] = defaultdict(int)
    for _, *words in program:
        op = words[0] >> 28
        if op == SYNC:
            field = {VRE: 0, VRO: 1}.get(words[0] & 15, field)
            line = -1
            continue
        assert op in (JUMP, WRITE, WRITE123, WRITE1S23), hex(words[0])
        if op == JUMP:
            continue
        if words[0] & SOL:
            line += 1
            done.clear()
        sizes = [words[0] & COUNT]
        if op == WRITE123:
            sizes += [words[1] & COUNT, words[1] >> 16]
        for plane, (size, address) in enumerate(zip(sizes, words[1 if op == WRITE else 2 :], strict=False)):
            yield Piece(field, line, plane, done[plane], size, address)
            done[plane] += size


def stretches(pages: set[int]) -> Iterator[tuple[int, int]]:
    """Pages in a row: the first, and how many."""
    for first in sorted(page for page in pages if page - 1 not in pages):
        count = 1
        while first + count in pages:
            count += 1
        yield first, count


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_stock_drivers_program_moves_every_byte_to_its_place(path: Path) -> None:
    about: dict[str, Any] = json.loads(path.read_text())
    written = list(pieces(about["program"]))
    width, height = map(int, about["size"].split("x"))
    image = expected_frame("PAL", about["format"], width, height, about.get("field", "interlaced"))
    assert sum(piece.size for piece in written) == len(image.base), "the loop fills one buffer"

    rc = RootComplex()
    used = [(piece.address, piece.size) for piece in written]
    used += [(address, 4 * len(words)) for address, *words in about["program"]]
    pages = {page for at, size in used for page in range(at // PAGE, (at + size - 1) // PAGE + 1)}
    for first, count in stretches(pages):
        rc.memory.add(Segment(first * PAGE, count * PAGE))
    for address, *words in about["program"]:
        rc.put(address, words)
    chip = rc.chip()
    for name in [*(name for name in about["registers"] if name not in OTHERS), *DMA]:
        chip.bar_write(chip.registers.cell(name).offset, 4, about["registers"][name])
    before = {segment.start: segment.data.copy() for segment in rc.memory.segments}
    for _ in range(6):  # the loop waits for the end of an even field before it captures an odd one
        chip.clock.step()
        while (status := chip.bar_read(IntStat.OFFSET, 4)) & chip.registers.get("INT_MASK"):
            chip.bar_write(IntStat.OFFSET, 4, status)

    whole = sent(image, chip.frame, both="field" not in about)
    places = {(row.field, row.line, row.plane): row for row in image.rows}
    for piece in written:
        row = places[piece.field, piece.line, piece.plane]
        start = row.offset + piece.start
        found = rc.memory.at(piece.address, piece.size)
        assert np.array_equal(found, whole[start : start + piece.size]), piece
        found[:] = POISON
    for segment in rc.memory.segments:
        assert np.array_equal(segment.data, before[segment.start]), "not a byte beside them was touched"
    assert not rc.recorder.aborts
    assert not chip.registers.unmodelled
