# SPDX-License-Identifier: GPL-2.0-or-later
"""RISC programs decoded into arrays, so that a field of hundreds of instructions is moved in a few steps.

A *text* is a stretch of data instructions, from where the engine met it to the first JUMP, SYNC or illegal
instruction. It is cached only together with its bytes, which the engine fetches again and compares each time.
Texts that differ only in their addresses are of one *shape*, which is decoded once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.risc import COUNT, DATA_OPS, DWORDS, Op, counts

MAX_TEXT_BYTES = 64 * 1024
MAX_CACHED_TEXTS = 128
MAX_CACHED_PIECES = 1 << 16
MAX_FORMER_TEXTS = 64  # that may come again: one for each field of the buffers that a program rotates over
MAX_FORMER_PIECES = 1 << 16
MAX_SHAPES = 8
_WINDOW = 512  # WRITEs looked at together while scanning
_OPENING = 6  # words of a text that tell most others at a glance

Ints = NDArray[np.int64]
Addresses = NDArray[np.uint64]

# Columns of a decoded text: where the instruction begins in bytes, its first dword, bytes taken from each
# bank, and their targets.
AT, WORD, BYTES, TARGET = 0, 1, slice(2, 5), slice(5, 8)
_COLUMNS = 8
_NOWHERE = -1  # target of bytes that are discarded


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


class Shape:
    """All of a text but its addresses.

    A driver makes a program for every buffer that it is given, always of the same lines. What has been found
    out for one of them holds for all of its shape.

    :ivar table: shape ``(n, 5)``, the columns of a text's table before the targets.
    :ivar written: which of the targets, flattened, get bytes at all, ascending.
    :ivar lengths: bytes that each of those gets.
    :ivar fitted: for whoever fits lines to it: what was found, by what was asked.
    """

    def __init__(self, code: bytes, table: Ints) -> None:
        self.table = table[:, : TARGET.start]
        self.size = len(code)
        self.fitted: OrderedDict[Hashable, Any] = OrderedDict()
        written = (table[:, TARGET] != _NOWHERE).ravel()
        self.pieces = max(len(table), int(np.count_nonzero(written)))
        lengths = table[:, BYTES].ravel()
        self.written = np.flatnonzero(written & (lengths > 0))
        self.lengths = lengths[self.written].astype(np.uint64)
        self._places = _places(table)  # of the addresses among the dwords
        self._spots = self._places.ravel()[self.written]
        words = np.frombuffer(code, "<u4")
        self._others = np.delete(np.arange(len(words)), self._places[self._places != _NOWHERE])
        self._values = words[self._others].tobytes()
        self._opening = [(4 * at, code[4 * at : 4 * at + 4]) for at in self._others[:_OPENING].tolist()]
        self._moves = not (table[:, WORD] >> 28 == Op.WRITEC).any()

    def addresses(self, memory: bytes) -> Addresses | None:
        """Where a text of this shape writes, a row for each of ``written``; None for a text of another shape.

        :param memory: what is there, beyond the end of a text of this shape.
        """
        if not self._moves or len(memory) < self.size + 4 or memory[self.size + 3] >> 4 in DATA_OPS:
            return None
        for at, word in self._opening:  # most often the other field's shape is told by this already
            if memory[at : at + 4] != word:
                return None
        words = np.frombuffer(memory, "<u4", self.size // 4)
        if words[self._others].tobytes() != self._values:
            return None
        return words[self._spots].astype(np.uint64)

    def targets(self, code: bytes) -> Ints:
        """The targets of a text of this shape, shape ``(n, 3)``."""
        words = np.frombuffer(code, "<u4").astype(np.int64)
        return np.where(self._places == _NOWHERE, _NOWHERE, words[self._places])


def _places(table: Ints) -> Ints:
    """Which dword of a text each target is, shape ``(n, 3)``; -1 for none."""
    first, op = table[:, AT] // 4, table[:, WORD] >> 28
    places = np.full((len(table), 3), _NOWHERE, np.int64)
    places[:, 0] = np.where(op == Op.WRITE, first + 1, _NOWHERE)
    planar = (op == Op.WRITE123) | (op == Op.WRITE1S23)
    places[planar, 0] = first[planar] + 2
    whole = op == Op.WRITE123
    places[whole, 1], places[whole, 2] = first[whole] + 3, first[whole] + 4
    return places


class Text:
    """A stretch of data instructions as it was in memory.

    :ivar written: where it writes, a row for each of its shape's ``written``.
    :ivar cache: for whoever derives something from it.
    :ivar again: whether it was dropped and has come back.
    """

    def __init__(
        self, number: int, address: int, code: bytes, shape: Shape, written: Addresses, targets: Ints | None
    ) -> None:
        self.id, self.address, self.code, self.shape = number, address, code, shape
        self.written, self._targets = written, targets
        self.cache: dict[Hashable, Any] = {}
        self.again = False

    @property
    def targets(self) -> Ints:
        """Shape ``(n, 3)``: where each instruction writes the bytes of each bank, -1 for nowhere."""
        if self._targets is None:
            self._targets = self.shape.targets(self.code)
        return self._targets

    @property
    def end(self) -> int:
        """Address of what follows."""
        return self.address + len(self.code)

    def ranges(self) -> NDArray[np.uint64]:
        """Everything it can write, shape ``(n, 2)``: first address and length."""
        columns = np.empty((2, len(self.written)), np.uint64)
        columns[0], columns[1] = self.written, self.shape.lengths
        return columns.T


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
            at, after = at + 2 * len(span), _behind(span[-1, TARGET.start], span[-1, BYTES.start])
            continue
        if op not in DATA_OPS or at + DWORDS[Op(op)] > len(words):
            break
        instruction = words[at : at + DWORDS[Op(op)]].tolist()
        targets, size = destinations(instruction, after), counts(instruction)
        rows.append((at * 4, instruction[0], *size, *targets))
        at += len(instruction)
        after = _behind(after if targets[0] == _NOWHERE else targets[0], size[0])
    parts.append(np.array(rows, np.int64).reshape(-1, _COLUMNS))
    return at * 4, np.concatenate(parts)


def _behind(target: int, size: int) -> int:
    """Where a WRITEC would continue."""
    return _NOWHERE if target == _NOWHERE else int(target + size) & 0xFFFF_FFFF


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
    return table


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


class TextCache:
    """The texts that were decoded last, by address, and the last shapes.

    A text that was dropped comes back as it was when the same bytes are found at its address again. From the
    second time on it brings all that was derived from it: before, that would be much memory for nothing where
    a program rotates over more buffers than are remembered.

    :param forgotten: called with every text that is dropped.
    """

    def __init__(self, forgotten: Callable[[Text], None]) -> None:
        self._texts: OrderedDict[int, Text] = OrderedDict()
        self._former: OrderedDict[tuple[int, bytes], Text] = OrderedDict()
        self._former_pieces = 0
        self._shapes: list[Shape] = []  # the latest first
        self._pieces = 0
        self._forgotten = forgotten
        self._number = 0

    def get(self, address: int) -> Text | None:
        """The text at an address, as it was."""
        text = self._texts.get(address)
        if text is not None:
            self._texts.move_to_end(address)
        return text

    def read(self, address: int, peek: Callable[[int, int], bytes]) -> Text:
        """Decode the text at an address and keep it; the oldest ones make room.

        :param peek: gives memory from an address on, up to a length.
        """
        longest = max((shape.size for shape in self._shapes), default=0)
        memory = peek(address, min(longest + 4, MAX_TEXT_BYTES, (1 << 32) - address))
        for shape in self._shapes:
            written = shape.addresses(memory)
            if written is not None:
                self._shapes.remove(shape)
                self._shapes.insert(0, shape)
                return self._add(address, memory[: shape.size], shape, written)
        memory = peek(address, min(MAX_TEXT_BYTES, (1 << 32) - address))
        length, table = scan(memory)
        return self.add(address, memory[:length], table)

    def add(self, address: int, code: bytes, table: Ints) -> Text:
        """Keep a text that :func:`scan` has decoded."""
        shape = Shape(code, table)
        self._shapes = [shape, *self._shapes[: MAX_SHAPES - 1]]
        targets = table[:, TARGET]
        written = targets.ravel()[shape.written].astype(np.uint64)
        return self._add(address, code, shape, written, targets)

    def _add(
        self, address: int, code: bytes, shape: Shape, written: Addresses, targets: Ints | None = None
    ) -> Text:
        if address in self._texts:
            self.drop(self._texts[address])
        text = self._former.pop((address, code), None)
        if text is not None:
            self._former_pieces -= text.shape.pieces
            text.again = True
        else:
            self._number += 1
            text = Text(self._number, address, code, shape, written, targets)
        self._texts[address] = text
        self._pieces += text.shape.pieces
        while len(self._texts) > 1 and (
            len(self._texts) > MAX_CACHED_TEXTS or self._pieces > MAX_CACHED_PIECES
        ):
            self.drop(next(iter(self._texts.values())))
        return text

    def drop(self, text: Text) -> None:
        """Forget a text, if it is here."""
        if self._texts.get(text.address) is text:
            del self._texts[text.address]
            self._pieces -= text.shape.pieces
            self._forgotten(text)
            self._remember(text)

    def _remember(self, text: Text) -> None:
        if not text.again:
            text.cache.clear()
        self._former[text.address, text.code] = text
        self._former_pieces += text.shape.pieces
        while len(self._former) > MAX_FORMER_TEXTS or self._former_pieces > MAX_FORMER_PIECES:
            self._former_pieces -= self._former.popitem(last=False)[1].shape.pieces

    def clear(self) -> None:
        """Forget all."""
        for text in list(self._texts.values()):
            self.drop(text)
        self._former.clear()
        self._former_pieces = 0
        self._shapes.clear()
