# SPDX-License-Identifier: GPL-2.0-or-later
"""What the card sends: a test picture in which every misplaced, stale or lost byte can be told.

Everything is defined on bytes as they arrive in guest memory, after byte and word swapping::

    byte x of a line =  base(plane, line, x) ^ stamp(frame, field)[x % 4]
    base             =  test picture, its low 3 bits replaced by a hash of (field, plane, line, x)
    stamp            =  low 3 bits of each byte of mix32(2 * frame + field)
    bytes 0..15      =  a tag, in plane 0 only

    tag, little endian:  +0  u32 frame, from 1
                         +4  u16 line of the field
                         +6  u8  field: 0 odd (top), 1 even (bottom)
                         +7  u8  kind: 0 video, 3 VBI
                         +8  u32 mix32(frame ^ line << 8 ^ field << 4 ^ kind ^ 0x5eed0000)
                         +12 u32 "VCAP"

VBI lines are hash and stamp alone, in all 8 bits. The base depends on the line, not on how many there are, so
one cached base serves every frame: a field costs one exclusive-or and a few strided stores.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.formats import GROUP, format_of, swapped
from vcapdev.bt878.testcard import HEIGHT, WIDTH, card

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

KIND_VIDEO = 0
KIND_VBI = 3
MAGIC = 0x50414356
TAG_BYTES = 16
_ALIGN = 8  # rows of a picture begin at multiples of this, so that it can be stamped eight bytes at a time


_SHIFT_16, _SHIFT_13 = np.uint32(16), np.uint32(13)
_FIRST, _SECOND = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


@overload
def mix32(x: int) -> int: ...
@overload
def mix32(x: Words) -> Words: ...
def mix32(x: int | Words) -> int | Words:
    """The finaliser of murmur3: a bijection of 32 bits in which every input bit moves every output bit."""
    if isinstance(x, int):
        x = ((x ^ x >> 16) * 0x85EBCA6B) & 0xFFFF_FFFF
        x = ((x ^ x >> 13) * 0xC2B2AE35) & 0xFFFF_FFFF
        return x ^ x >> 16
    mixed = x ^ x >> _SHIFT_16
    mixed *= _FIRST
    mixed ^= mixed >> _SHIFT_13
    mixed *= _SECOND
    mixed ^= mixed >> _SHIFT_16
    return mixed


def stamp(frame: int, field: int, kind: int = KIND_VIDEO) -> int:
    """The four bytes that a whole field is exclusive-ored with, byte 0 lowest."""
    return mix32((frame * 2 + field) & 0xFFFF_FFFF) & (0x07070707 if kind == KIND_VIDEO else 0xFFFF_FFFF)


def tags(frame: int, field: int, kind: int, lines: int) -> Words:
    """The tags of a field's first ``lines`` lines, shape ``(lines, 4)``."""
    tag = np.empty((lines, 4), np.uint32)
    line, shifted = _lines(lines)
    tag[:, 0] = frame & 0xFFFF_FFFF
    np.bitwise_or(line, np.uint32(field << 16 | kind << 24), out=tag[:, 1])
    tag[:, 2] = mix32(shifted ^ np.uint32((frame ^ field << 4 ^ kind ^ 0x5EED0000) & 0xFFFF_FFFF))
    tag[:, 3] = MAGIC
    return tag


@lru_cache(maxsize=8)
def _lines(count: int) -> tuple[Words, Words]:
    """Line numbers, and the same shifted as a tag's hash takes them."""
    line = np.arange(count, dtype=np.uint32)
    return line, line << np.uint32(8)


def _noise(field: int, plane: int, kind: int, lines: int, width: int) -> Bytes:
    """A byte of hash for each place, shape ``(lines, width)``; plane and field go into the high bits."""
    row = np.arange(lines, dtype=np.uint32)[:, None] << np.uint32(13)
    seed = np.uint32((field << 31 | plane << 29 | (kind & 1) << 28) & 0xFFFF_FFFF)
    noise: Words = mix32(row ^ np.arange(width, dtype=np.uint32)[None, :] ^ seed)
    return noise.astype(np.uint8)


class PictureKey(NamedTuple):
    """What a field's base depends on."""

    kind: int  # KIND_VIDEO or KIND_VBI
    field: int  # 0 odd, 1 even
    height: int  # active lines of a frame of the norm: the card is fitted to them
    lines: int  # to be ready for
    width: int  # pixels of a line; for VBI bytes
    code: int = 0  # of COLOR_FMT
    byte_swap: bool = False
    word_swap: bool = False


class Picture:
    """The base of one field in one format: unchanging, shared by all frames.

    :ivar widths: bytes of a line, one for each plane.
    :ivar strides: from one line to the next in what :meth:`render` makes, one for each plane.
    """

    def __init__(self, key: PictureKey) -> None:
        self.key = key
        planes = [_base(key, index, plane) for index, plane in enumerate(_sampled(key))]
        self.widths = tuple(plane.shape[1] for plane in planes)
        self.strides = tuple(-(-width // _ALIGN) * _ALIGN for width in self.widths)
        self._rows = [
            np.ascontiguousarray(np.pad(plane, [(0, 0), (0, stride - plane.shape[1])]))
            .view(np.uint64)
            .ravel()
            for plane, stride in zip(planes, self.strides, strict=True)
        ]

    def plane(self, index: int) -> Bytes:
        """The base bytes of one plane, shape ``(lines, width)``."""
        rows: Bytes = self._rows[index].view(np.uint8).reshape(self.key.lines, self.strides[index])
        return rows[:, : self.widths[index]]

    def offsets(self, count: int) -> tuple[int, ...]:
        """Where each plane begins in ``count`` rendered lines, and, last, how many bytes they need."""
        return tuple(accumulate((stride * count for stride in self.strides), initial=0))

    def render(self, first: int, count: int, mask: int, tag: Words, out: Bytes) -> None:
        """Lines ``first`` to ``first + count`` as they are sent, plane after plane, into ``out``.

        :param mask: the field's :func:`stamp`.
        :param tag: the field's :func:`tags`.
        """
        wide = np.uint64(mask << 32 | mask)
        words: NDArray[np.uint64] = out.view(np.uint64)
        at = 0
        for rows, stride in zip(self._rows, self.strides, strict=True):
            step = stride // _ALIGN
            size = count * step
            np.bitwise_xor(rows[first * step : first * step + size], wide, out=words[at : at + size])
            at += size
        step = self.strides[0] // _ALIGN
        if self.widths[0] >= TAG_BYTES:
            words[: count * step].reshape(count, step)[:, :2] = tag[first : first + count].view(np.uint64)
        else:
            heads = out[: count * self.strides[0]].reshape(count, -1)[:, : self.widths[0]]
            heads[:] = tag[first : first + count].view(np.uint8)[:, : self.widths[0]]


@lru_cache(maxsize=8)
def picture(key: PictureKey) -> Picture:
    """A picture, made or cached: at most 8 of up to 2 MB each."""
    return Picture(key)


def _sampled(key: PictureKey) -> tuple[Bytes, ...]:
    """The test card of a field in the wanted format, cut to its width."""
    if key.kind == KIND_VBI:
        return (np.zeros((key.lines, key.width), np.uint8),)
    row = ((np.arange(key.lines) * 2 + key.field) * HEIGHT // key.height) % HEIGHT
    wide = max(GROUP, -(-key.width // GROUP) * GROUP)
    column = np.arange(wide) * WIDTH // wide
    form = format_of(key.code)
    planes = form.pack(*(part[row][:, column] for part in card()))
    widths = form.widths(key.width)
    cut = zip(planes, widths, strict=True)
    return tuple(swapped(plane[:, :width], key.byte_swap, key.word_swap)[:, :width] for plane, width in cut)


def _base(key: PictureKey, index: int, plane: Bytes) -> Bytes:
    noise = _noise(key.field, index, key.kind, *plane.shape)
    if key.kind == KIND_VBI:
        return noise
    low = noise & np.uint8(7)
    if format_of(key.code).samples:
        # The noise dithers the bits above it, or all colours would be 3.5 steps too bright and too red.
        plane = np.clip(plane.astype(np.int16) - low + 4, 0, 255).astype(np.uint8)
    return (plane & np.uint8(0xF8)) | low


class Shot:
    """A picture with the stamp and the tags of one frame: what one field really sends."""

    def __init__(self, shown: Picture, frame: int) -> None:
        self.picture, self.frame = shown, frame
        self.field, self.kind = shown.key.field, shown.key.kind
        self._mask = stamp(frame, self.field, self.kind)
        self._tags: Words | None = None

    def render(self, first: int, count: int, out: Bytes) -> None:
        """Lines ``first`` to ``first + count`` into ``out``, see :meth:`Picture.render`."""
        if self._tags is None:  # a field that nobody captures needs none
            self._tags = tags(self.frame, self.field, self.kind, self.picture.key.lines)
        self.picture.render(first, count, self._mask, self._tags, out)

    def plane(self, index: int) -> Bytes:
        """All lines of one plane as they are sent, shape ``(lines, width)``; a copy."""
        shown, lines = self.picture, self.picture.key.lines
        ends = shown.offsets(lines)
        out = np.empty(ends[-1], np.uint8)
        self.render(0, lines, out)
        rows = out[ends[index] : ends[index + 1]].reshape(lines, shown.strides[index])
        return rows[:, : shown.widths[index]].copy()
