# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the fast path from being a second opinion: whatever the program, both paths do the same.

Programs are made up of lines that fit, lines that do not, stray instructions of every kind; geometry packed
or planar, in slices of few lines or many. Memory, status, counter, refusals and writes are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from support.bttv import (
    EOL,
    FM1,
    FM3,
    IRQ,
    JUMP,
    RESYNC,
    SKIP,
    SKIP123,
    SOL,
    SYNC,
    VRO,
    WRITE,
    WRITE1S23,
    WRITE123,
    WRITEC,
    Driver,
)
from support.rootcomplex import RAM, RootComplex

from vcapdev.bt878 import fifo, interpreter, programs
from vcapdev.bt878.fitting import slices_of
from vcapdev.bt878.pattern import PictureKey, Shot, picture

TARGET = RAM + (1 << 20)
WIDTHS = {4: (64, 0, 0), 8: (32, 16, 16)}  # YUY2 and 4:2:2 planar, 32 pixels
LINES = 12


@dataclass
class Line:
    """Sizes of the pieces of one line, and what is odd about it."""

    cuts: list[int]
    kind: str
    target: int


def pieces(total: int, cuts: list[int]) -> list[int]:
    marks = sorted({min(cut, total) for cut in cuts} | {0, total})
    return [high - low for low, high in pairwise(marks)]


KINDS = st.sampled_from(
    ["fits"] * 8
    + [
        "short",
        "long",
        "no-eol",
        "no-sol",
        "lanes",
        "irq",
        "skip",
        "writec",
        "zero",
        "odd-op",
        "self",
        "far",
        "wrap",
    ]
)
LINE = st.builds(Line, st.lists(st.integers(1, 63), max_size=3), KINDS, st.integers(0, 4000))


def encode(line: Line, code: int, index: int, at: int) -> list[int]:
    """The instructions of one line; ``at`` is where they begin, for those that write to themselves."""
    total = WIDTHS[code][0] + {"short": -8, "long": 8}.get(line.kind, 0)
    target = TARGET + index * 4096 + line.target
    target = {"self": at & ~63, "far": 0x9000_0000, "wrap": 0xFFFF_FFF0}.get(line.kind, target)
    words: list[int] = []
    sizes = pieces(total, line.cuts)
    for number, size in enumerate(sizes):
        first, last = number == 0, number == len(sizes) - 1
        flags = (SOL if first and line.kind != "no-sol" else 0) | (
            EOL if last and line.kind != "no-eol" else 0
        )
        flags |= {"lanes": 0x5000, "irq": IRQ | 0x30000}.get(line.kind, 0)
        op = {"skip": SKIP, "writec": WRITEC if not first else WRITE, "odd-op": WRITE123}.get(
            line.kind, WRITE
        )
        if code == 8:
            op = {SKIP: SKIP123, WRITE: WRITE1S23 if line.kind == "odd-op" else WRITE123}.get(op, op)
        count = 0 if line.kind == "zero" and last else size
        words.append(op | flags | count)
        half = count // 2 if code == 8 else 0
        if op in (WRITE123, SKIP123, WRITE1S23):
            words.append(half << 16 | half)
        addresses = {WRITE: 1, WRITE123: 3, WRITE1S23: 1}.get(op, 0)
        words += [(target + plane * 0x2000) & 0xFFFF_FFFF for plane in range(addresses)]
        target += size
    return words


def execute(
    fast: bool, lines: list[Line], code: int, resync: bool, tail: int, group: int = 1 << 18
) -> dict[str, Any]:
    fifo.GROUP_BYTES = group
    rc = RootComplex(2 << 20)
    chip = rc.chip()
    chip.engine.fast = fast
    driver = Driver(rc, chip)
    driver.geometry(32, 2 * LINES, sheight=2 * LINES)
    driver.format(code)
    start = rc.allocate(8192)
    words = [SYNC | (FM3 if code == 8 else FM1), 0]
    for index, line in enumerate(lines):
        words += encode(line, code, index, start + 4 * len(words))
    words += [tail] if tail else [JUMP | IRQ | 0x10000, start + 4 * (len(words) + 2)]
    words += [SYNC | VRO | (RESYNC if resync else 0), 0, JUMP, start]
    rc.put(start, words)
    driver.main = start
    driver.start()
    for _ in range(2):
        chip.clock.step()
        chip.engine.latch(0)
    written = [(int(a), int(n)) for b in rc.recorder.batches for a, n in zip(b.addr, b.length, strict=True)]
    return {
        "memory": rc.ram.data.tobytes(),
        "status": chip.bar_read(0x100, 4),
        "pc": chip.bar_read(0x120, 4),
        "after": chip.engine.after,
        "aborts": rc.recorder.aborts,
        "written": written,
        "ranges": sum(len(p.ranges) for p in rc.recorder.programs.values()) > 0,
    }


@pytest.fixture(autouse=True)
def _restore_groups() -> Iterator[None]:
    before = fifo.GROUP_BYTES
    yield
    fifo.GROUP_BYTES = before


@settings(max_examples=150)
@given(
    st.lists(LINE, min_size=1, max_size=LINES + 3),
    st.sampled_from([4, 8]),
    st.booleans(),
    st.sampled_from([0, 0, 0, 0xF000_0000, SYNC | 3]),
    st.sampled_from([100, 320, 1 << 18]),
)
@example([Line([], "fits", 0)] * LINES, 4, False, 0, 1 << 18)
@example([Line([20], "fits", 4080)] * LINES, 8, True, 0, 200)
@example([Line([], "fits", 0)] * (LINES + 3), 4, False, 0, 200)
def test_both_paths_do_the_same(lines: list[Line], code: int, resync: bool, tail: int, group: int) -> None:
    slow = execute(False, lines, code, resync, tail, group)
    fast = execute(True, lines, code, resync, tail, group)
    for what, value in slow.items():
        assert fast[what] == value, what


def test_the_fast_path_is_taken() -> None:
    """The comparison above would prove nothing if a fitting program were interpreted."""
    taken: list[int] = []
    original = interpreter.Interpreter.move

    def move(self: interpreter.Interpreter, block: object, batch: Any) -> None:
        taken.append(len(batch.addr))
        original(self, block, batch)  # type: ignore[arg-type]

    interpreter.Interpreter.move = move  # type: ignore[method-assign]
    try:
        execute(True, [Line([], "fits", 0)] * LINES, 4, False, 0)
    finally:
        interpreter.Interpreter.move = original  # type: ignore[method-assign]
    assert taken[0] == LINES
    assert np.array(taken).sum() >= LINES


MOVED = st.lists(LINE, min_size=1, max_size=6)


@settings(max_examples=60)
@given(MOVED, st.lists(st.sampled_from([0, 0x40, 0x1000, 0x5008]), min_size=1, max_size=4), st.booleans())
@example([Line([20], "fits", 0)] * 3 + [Line([], "self", 0)], [0, 0x1000], False)
@example([Line([20], "fits", 0)] * 3, [0, 0x1000, 0], True)
def test_programs_of_one_shape_differ_only_in_their_addresses(
    lines: list[Line], moves: list[int], longer: bool
) -> None:
    """What is remembered of a shape gives each new program what decoding it afresh gives."""
    known = programs.TextCache(lambda text: None)
    for number, move in enumerate(moves):
        moved = [Line(line.cuts, line.kind, line.target + move) for line in lines]
        words = [word for index, line in enumerate(moved) for word in encode(line, 4, index, 0)]
        words += [WRITE | SOL | EOL | 64, TARGET] if longer and number == 1 else []
        code = np.array([*words, JUMP, 0, 0, 0], "<u4").tobytes()
        address = 0x10000 * (number + 1)

        def peek(at: int, length: int, start: int = address, code: bytes = code) -> bytes:
            return code[at - start : at - start + length]

        text = known.read(address, peek)
        fresh = programs.TextCache(lambda text: None).read(address, peek)
        assert text.code == fresh.code
        assert np.array_equal(text.targets, fresh.targets)
        assert np.array_equal(text.ranges(), fresh.ranges())
        block = fifo.Block(Shot(picture(PictureKey(0, 0, 576, LINES, 32, 4)), 1), LINES)
        for ours, theirs in zip(slices_of(text, block), slices_of(fresh, block), strict=True):
            assert (ours.address, ours.code, ours.first, ours.lines, ours.after) == (
                theirs.address, theirs.code, theirs.first, theirs.lines, theirs.after,
            )  # fmt: skip
            for column in ("addr", "length", "source", "origin"):
                assert np.array_equal(getattr(ours.batch, column), getattr(theirs.batch, column))
