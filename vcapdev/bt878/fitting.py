# SPDX-License-Identifier: GPL-2.0-or-later
"""Texts fitted to the lines that the FIFO delivers: a *run* of slices, each moved as one batch.

A run is the leading lines of a text whose instructions take exactly a line each and raise nothing, cut into
slices of one group of lines. What is not in a run is left to the engine's interpreter; both must give the
same result. Most of it depends on the text's shape alone: that is a :class:`_Pattern`, found once for all
texts of a shape, and laid over the addresses of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.fifo import Block
from vcapdev.bt878.programs import AT, BYTES, WORD, Ints, Shape, Text
from vcapdev.bt878.risc import EOL, SOL, Op
from vcapdev.dma import Batch

_PLAIN = 0xF000_0FFF | SOL | EOL  # bits that may be set in a line that raises nothing and writes every byte
_NOWHERE = -1
_GEOMETRIES = 2  # that are remembered: a driver uses one, or two while it switches


@dataclass(slots=True, eq=False)
class Slice:
    """The part of a run that one batch moves."""

    address: int
    code: bytes
    first: int  # line of the block
    lines: int
    batch: Batch
    after: int  # where a WRITEC behind it would continue


def slices_of(text: Text, block: Block) -> list[Slice]:
    """The slices of a text for a block, from its first line on; made or cached."""
    key = (block.widths, block.lines, block.shot.picture.strides)
    slices: list[Slice] | None = text.cache.get(key)
    if slices is None:
        if len(text.cache) >= _GEOMETRIES:
            text.cache.clear()
        slices = text.cache[key] = _fit(text, block, key)
    return slices


def _fit(text: Text, block: Block, key: tuple[object, ...]) -> list[Slice]:
    fitted = text.shape.fitted
    pattern: _Pattern | None = fitted.get(key)
    if pattern is None:
        if len(fitted) >= _GEOMETRIES:
            fitted.popitem(last=False)
        pattern = fitted[key] = _pattern(text.shape, block, text.targets, block.lines)
    good = pattern.good_lines(text)
    if good < pattern.lines:
        pattern = _pattern(text.shape, block, text.targets, good)
    return [part.slice(text) for part in pattern.parts]


@dataclass(slots=True, eq=False)
class _Part:
    """A slice but for its addresses."""

    code: slice  # of the text's bytes
    first: int
    lines: int
    written: slice  # of what the text writes: its pieces
    length: NDArray[np.uint32]
    source: NDArray[np.uint32]
    origin: Ints  # if the text began at 0
    last: int  # the last row with a target for the first bank, -1 for none
    passed: int  # bytes taken from the first bank from there on

    def slice(self, text: Text) -> Slice:
        """With the addresses of a text."""
        addr = text.written[self.written]
        batch = Batch(addr, self.length, self.source, self.origin + text.address, text.id)
        after = _NOWHERE
        if self.last != _NOWHERE:
            after = (int(text.targets[self.last, 0]) + self.passed) & 0xFFFF_FFFF
        return Slice(
            text.address + self.code.start, text.code[self.code], self.first, self.lines, batch, after
        )


@dataclass(slots=True, eq=False)
class _Pattern:
    """The parts of a run, and of all their pieces together what tells whether addresses are in order."""

    lines: int
    parts: list[_Part]
    length: NDArray[np.uint64]
    line: Ints
    longest: int

    def good_lines(self, text: Text) -> int:
        """Leading lines that neither write to the text itself nor beyond the last address."""
        if not len(self.length):
            return self.lines
        low = text.written[: len(self.length)]
        begin = max(text.address - self.longest, 0)
        near = low - np.uint64(begin) < text.end - begin  # what is below wraps around to far above
        if not near.any() and int(low.max()) + self.longest <= 1 << 32:
            return self.lines
        high = low + self.length
        bad = ((low < text.end) & (high > text.address)) | (high > 1 << 32)
        return int(self.line[bad.argmax()]) if bad.any() else self.lines


def _pattern(shape: Shape, block: Block, targets: Ints, lines: int) -> _Pattern:
    """Fit a shape to a block.

    :param targets: of a text of this shape; only whether there is one counts.
    :param lines: not more than these.
    """
    planes = len(block.shot.picture.strides)
    rows = _whole_lines(shape.table, targets[:, 0], block)[: lines + 1]
    number = len(rows) - 1
    size, wanted = shape.table[:, BYTES][:, :planes], targets[:, :planes] != _NOWHERE
    line = np.repeat(np.arange(number), np.diff(rows))
    taken = np.cumsum(size, axis=0) - size
    offset = taken[: rows[-1]] - taken[rows[:-1]][line]
    origin = shape.table[: rows[-1], AT, None] | line[:, None] << 32 | offset << 43
    origin = origin | np.arange(planes) << 56
    # Offset of each piece in its group of lines; the planes of a group lie one after the other.
    source = line[:, None] % block.group * np.array(block.shot.picture.strides) + offset
    parts: list[_Part] = []
    done = 0
    for first in range(0, number, block.group):
        last = min(first + block.group, number)
        part = slice(rows[first], rows[last])
        kept = np.flatnonzero(wanted[part] & (size[part] > 0))
        base = np.array(block.shot.picture.offsets(last - first)[:-1])
        columns = (size[part], source[part] + base, origin[part])
        length, start, place = (column.ravel()[kept] for column in columns)
        written = slice(done, done + len(kept))
        done += len(kept)
        end = int(shape.table[rows[last], AT]) if rows[last] < len(shape.table) else shape.size
        code = slice(int(shape.table[rows[first], AT]), end)
        kind = length.astype(np.uint32), start.astype(np.uint32), place
        parts.append(_Part(code, first, last - first, written, *kind, *_behind(size, targets, part.stop)))
    return _joined(number, parts)


def _behind(size: Ints, targets: Ints, end: int) -> tuple[int, int]:
    """The last row before ``end`` with a target for the first bank, and the bytes taken from it on."""
    found = np.flatnonzero(targets[:end, 0] != _NOWHERE)
    if not len(found):
        return _NOWHERE, 0
    return int(found[-1]), int(size[found[-1] : end, 0].sum())


def _joined(lines: int, parts: list[_Part]) -> _Pattern:
    if not parts:
        return _Pattern(0, [], np.zeros(0, np.uint64), np.zeros(0, np.int64), 0)
    length, origin = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("length", "origin")
    )
    return _Pattern(lines, parts, length.astype(np.uint64), origin >> 32 & 0x7FF, int(length.max(initial=0)))


def _whole_lines(table: Ints, first: Ints, block: Block) -> Ints:
    """Rows of the table at which the fitting lines begin, and one past the last.

    :param first: targets of the first bank.
    """
    word = table[:, WORD]
    starts = (word & SOL) != 0
    if not len(table) or not starts[0]:
        return np.zeros(1, np.int64)
    size = table[:, BYTES]
    bad = (word & ~np.int64(_PLAIN) != 0) | (size[:, 0] == 0)
    bad |= (word >> 28 == Op.WRITEC) & (first == _NOWHERE)
    # From the first row on, a line begins exactly where one has ended; the last row must end one.
    ends = (word & EOL) != 0
    bad[:-1] |= ends[:-1] != starts[1:]
    bad[-1] |= not ends[-1]
    begin = np.flatnonzero(starts)
    whole = ~np.logical_or.reduceat(bad, begin)
    whole &= (np.add.reduceat(size, begin, axis=0) == np.array(block.widths)).all(axis=1)
    whole = whole[: block.lines]
    number = len(whole) if whole.all() else int(whole.argmin())
    rows: Ints = np.append(begin, len(table))[: number + 1].astype(np.int64)
    return rows
