# SPDX-License-Identifier: GPL-2.0-or-later
"""RISC programs decoded into arrays, so that a field of hundreds of instructions is moved in a few steps.

A *text* is a stretch of data instructions, from where the engine met it to the first JUMP, SYNC or illegal
instruction. It is cached only together with its bytes, which the engine fetches again and compares each time.
Fitted to the lines that the FIFO delivers, a text becomes a *run*: its leading lines whose instructions take
exactly a line each and raise nothing, cut into slices of one group of lines. What is not in a run is left to
the engine's interpreter; both must give the same result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.fifo import Block
from vcapdev.bt878.risc import COUNT, DATA_OPS, DWORDS, EOL, SOL, Op, counts
from vcapdev.dma import Batch

MAX_TEXT_BYTES = 64 * 1024
MAX_CACHED_TEXTS = 128
MAX_CACHED_PIECES = 1 << 16
_WINDOW = 512  # WRITEs looked at together while scanning

Ints = NDArray[np.int64]

# Columns of a decoded text: where the instruction begins in bytes, its first dword, bytes taken from each
# bank, their targets, and where a WRITEC behind it would continue.
AT, WORD, BYTES, TARGET, AFTER = 0, 1, slice(2, 5), slice(5, 8), 8
_COLUMNS = 9
_NOWHERE = -1  # target of bytes that are discarded
_PLAIN = 0xF000_0FFF | SOL | EOL  # bits that may be set in a line that raises nothing and writes every byte


FETCH = 1 << 58
"""Marks the origin of an instruction fetch; the rest is the instruction's address."""


# Origin of a piece: an opaque number for observers, and all that is needed to explain it.
class Place(NamedTuple):
    """Instruction address, line of the field, byte of the line, plane; or the fetch of an instruction."""

    address: int
    line: int = 0
    offset: int = 0
    plane: int = 0
    fetch: bool = False

    @property
    def origin(self) -> int:
        """As one number of 63 bits."""
        place = self.address | self.line << 32 | self.offset << 43 | self.plane << 56
        return place | FETCH * self.fetch

    @classmethod
    def of(cls, origin: int) -> Place:
        """The inverse of :attr:`origin`."""
        return cls(
            origin & 0xFFFF_FFFF,
            origin >> 32 & 0x7FF,
            origin >> 43 & 0x1FFF,
            origin >> 56 & 3,
            bool(origin & FETCH),
        )


@dataclass(slots=True, eq=False)
class Slice:
    """The part of a run that one batch moves."""

    address: int
    code: bytes
    first: int  # line of the block
    lines: int
    batch: Batch
    after: int  # where a WRITEC behind it would continue


@dataclass(slots=True, eq=False)
class Run:
    """A text fitted to a block: its slices from the block's first line on."""

    slices: list[Slice]


class Text:
    """A stretch of data instructions as it was in memory.

    :ivar table: shape ``(n, 9)``, see the column names of this module.
    """

    def __init__(self, number: int, address: int, code: bytes, table: Ints) -> None:
        self.id, self.address, self.code, self.table = number, address, code, table
        # A measure of the memory that it costs; instructions that only skip cost theirs too.
        self.pieces = max(len(table), int((table[:, TARGET] != _NOWHERE).sum()))
        self._runs: dict[tuple[object, ...], Run] = {}

    @property
    def end(self) -> int:
        """Address of what follows."""
        return self.address + len(self.code)

    def ranges(self) -> NDArray[np.uint64]:
        """Everything it can write, shape ``(n, 2)``: first address and length."""
        target, length = self.table[:, TARGET].ravel(), self.table[:, BYTES].ravel()
        chosen = (target != _NOWHERE) & (length > 0)
        return np.stack([target[chosen], length[chosen]], axis=1).astype(np.uint64)

    def run(self, block: Block) -> Run:
        """The run for a block's geometry, made or cached."""
        key = (block.widths, block.lines, block.shot.picture.strides)
        run = self._runs.get(key)
        if run is None:
            if len(self._runs) >= 2:  # a program serves one geometry, or two while the driver switches
                self._runs.clear()
            run = self._runs[key] = fit(self, block)
        return run


def scan(memory: bytes) -> tuple[int, Ints]:
    """Decode data instructions up to the first other one.

    :param memory: what is there, at most :data:`MAX_TEXT_BYTES`.
    :return: their length in bytes, and the table of :class:`Text`. A WRITEC that continues something before
        the text has no target.
    """
    words = np.frombuffer(memory[: len(memory) & ~3], "<u4")
    parts: list[Ints] = []
    rows: list[tuple[int, ...]] = []
    at, after = 0, _NOWHERE
    while at < len(words):
        op = int(words[at]) >> 28
        if op == Op.WRITE and (span := _writes(words, at)) is not None:
            parts += [np.array(rows, np.int64).reshape(-1, _COLUMNS), span]
            rows = []
            at, after = at + 2 * len(span), int(span[-1, AFTER])
            continue
        if op not in DATA_OPS or at + DWORDS[Op(op)] > len(words):
            break
        row = _row(words[at : at + DWORDS[Op(op)]].tolist(), at, after)
        rows.append(row)
        at, after = at + DWORDS[Op(op)], row[AFTER]
    parts.append(np.array(rows, np.int64).reshape(-1, _COLUMNS))
    return at * 4, np.concatenate(parts)


def _writes(words: NDArray[np.uint32], at: int) -> Ints | None:
    """The WRITEs from ``at`` on, up to a window full of them."""
    pairs = words[at : at + 2 * _WINDOW]
    pairs = pairs[: len(pairs) & ~1].reshape(-1, 2)
    other = (pairs[:, 0] >> 28) != Op.WRITE
    length = int(other.argmax()) if other.any() else len(pairs)
    if length == 0:
        return None
    table = np.full((length, _COLUMNS), _NOWHERE, np.int64)
    table[:, AT] = np.arange(at * 4, (at + 2 * length) * 4, 8)
    table[:, WORD] = pairs[:length, 0]
    table[:, BYTES] = 0
    table[:, BYTES.start] = pairs[:length, 0] & COUNT
    table[:, TARGET.start] = pairs[:length, 1]
    table[:, AFTER] = (table[:, TARGET.start] + table[:, BYTES.start]) & 0xFFFF_FFFF
    return table


def _row(words: list[int], at: int, after: int) -> tuple[int, ...]:
    targets = destinations(words, after)
    first = after if targets[0] == _NOWHERE else targets[0]
    size = counts(words)
    behind = (first + size[0]) & 0xFFFF_FFFF if first != _NOWHERE else _NOWHERE
    return (at * 4, words[0], *size, *targets, behind)


def destinations(words: list[int], after: int) -> tuple[int, int, int]:
    """Where a data instruction writes the bytes of each bank; -1 where it discards them."""
    op = words[0] >> 28
    if op == Op.WRITE:
        return words[1], _NOWHERE, _NOWHERE
    if op == Op.WRITE123:
        return words[2], words[3], words[4]
    if op == Op.WRITE1S23:
        return words[2], _NOWHERE, _NOWHERE
    return after if op == Op.WRITEC else _NOWHERE, _NOWHERE, _NOWHERE


def fit(text: Text, block: Block) -> Run:
    """Find the leading lines of a text that take exactly a line of the block each, and slice them."""
    rows = _whole_lines(text, block)
    if len(rows) == 1:
        return Run([])
    picture = block.shot.picture
    planes = len(picture.strides)
    table = text.table[: rows[-1]]
    size, target = table[:, BYTES][:, :planes], table[:, TARGET][:, :planes]
    line = np.repeat(np.arange(len(rows) - 1), np.diff(rows))[:, None]
    taken = np.cumsum(size, axis=0) - size
    offset = taken - taken[rows[:-1]][line[:, 0]]
    origin = (text.address + table[:, AT, None]) | line << 32 | offset << 43
    origin = origin | np.arange(planes) << 56
    # Offset of each piece in its group of lines; the planes of a group lie one after the other.
    source = line % block.group * np.array(picture.strides) + offset
    wanted = (target != _NOWHERE) & (size > 0)
    slices: list[Slice] = []
    for first in range(0, len(rows) - 1, block.group):
        last = min(first + block.group, len(rows) - 1)
        part, base = slice(rows[first], rows[last]), np.array(picture.offsets(last - first)[:-1])
        kept = np.flatnonzero(wanted[part])
        columns = (target[part], size[part], source[part] + base, origin[part])
        addr, length, start, place = (column.ravel()[kept] for column in columns)
        batch = Batch(
            addr.astype(np.uint64), length.astype(np.uint32), start.astype(np.uint32), place, text.id
        )
        slices.append(_slice(text, batch, first, rows[first : last + 1]))
    return Run(slices)


def _slice(text: Text, batch: Batch, first: int, rows: Ints) -> Slice:
    begin = int(text.table[rows[0], AT])
    end = int(text.table[rows[-1], AT]) if rows[-1] < len(text.table) else len(text.code)
    after = int(text.table[rows[-1] - 1, AFTER])
    return Slice(text.address + begin, text.code[begin:end], first, len(rows) - 1, batch, after)


def _whole_lines(text: Text, block: Block) -> Ints:
    """Rows of the table at which the fitting lines begin, and one past the last."""
    table, planes = text.table, len(block.shot.picture.strides)
    word = table[:, WORD]
    starts = (word & SOL) != 0
    if not len(table) or not starts[0]:
        return np.zeros(1, np.int64)
    size, low = table[:, BYTES], table[:, TARGET][:, :planes]
    high = low + size[:, :planes]
    bad = (word & ~np.int64(_PLAIN) != 0) | (size[:, 0] == 0)
    bad |= (((low >= 0) & (low < text.end) & (high > text.address)) | (high > 1 << 32)).any(axis=1)
    bad |= (word >> 28 == Op.WRITEC) & (low[:, 0] == _NOWHERE)
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


class TextCache:
    """The texts that were decoded last, by address.

    :param forgotten: called with every text that is dropped.
    """

    def __init__(self, forgotten: Callable[[Text], None]) -> None:
        self._texts: OrderedDict[int, Text] = OrderedDict()
        self._pieces = 0
        self._forgotten = forgotten
        self._number = 0

    def get(self, address: int) -> Text | None:
        """The text at an address, as it was."""
        text = self._texts.get(address)
        if text is not None:
            self._texts.move_to_end(address)
        return text

    def add(self, address: int, code: bytes, table: Ints) -> Text:
        """Keep a text that was just decoded; the oldest ones make room."""
        if address in self._texts:
            self.drop(self._texts[address])
        self._number += 1
        text = self._texts[address] = Text(self._number, address, code, table)
        self._pieces += text.pieces
        while len(self._texts) > 1 and (
            len(self._texts) > MAX_CACHED_TEXTS or self._pieces > MAX_CACHED_PIECES
        ):
            self.drop(next(iter(self._texts.values())))
        return text

    def drop(self, text: Text) -> None:
        """Forget a text, if it is here."""
        if self._texts.get(text.address) is text:
            del self._texts[text.address]
            self._pieces -= text.pieces
            self._forgotten(text)

    def clear(self) -> None:
        """Forget all."""
        for text in list(self._texts.values()):
            self.drop(text)
