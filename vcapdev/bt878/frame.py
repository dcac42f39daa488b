# SPDX-License-Identifier: GPL-2.0-or-later
"""A frame that was sent, for those who want to look at it afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.fifo import Block
from vcapdev.bt878.formats import format_of
from vcapdev.bt878.pattern import KIND_VBI, Shot
from vcapdev.dma import Batch

#: The batches of a frame in the order in which they were moved, and what each is a part of.
Moved = list[tuple[Block, Batch]]


@dataclass(frozen=True, slots=True)
class SentField:
    """What was moved of one field, or of its VBI lines. The arrays have one row a piece, in order."""

    field: int  # 0 odd (top), 1 even (bottom)
    vbi: bool
    format: str  # the chip's name, "YUY2"; "" for VBI
    width: int  # pixels, or bytes of a VBI line
    lines: int
    addr: NDArray[np.uint64]  # bus address
    length: NDArray[np.uint32]  # bytes
    plane: NDArray[np.int64]  # 0 packed or Y, 1 Cb, 2 Cr
    line: NDArray[np.int64]  # of the field
    offset: NDArray[np.int64]  # bytes from the start of the line in its plane
    shot: Shot

    def data(self, plane: int = 0) -> NDArray[np.uint8]:
        """The bytes that the card sent, shape ``(lines, bytes of a line)``; made anew."""
        return self.shot.plane(plane)


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A complete frame: number, and its fields in the order in which they came."""

    number: int
    fields: tuple[SentField, ...]


def sent_frame(number: int, moved: Moved) -> SentFrame:
    """The frame that these batches made up."""
    blocks = list(dict.fromkeys(block for block, _ in moved))
    return SentFrame(
        number, tuple(_field(block, [batch for of, batch in moved if of is block]) for block in blocks)
    )


def _field(block: Block, batches: list[Batch]) -> SentField:
    key = block.shot.picture.key
    origin = np.concatenate([batch.origin for batch in batches])
    vbi = key.kind == KIND_VBI
    return SentField(
        field=key.field,
        vbi=vbi,
        format="" if vbi else format_of(key.code).name,
        width=key.width,
        lines=block.lines,
        addr=np.concatenate([batch.addr for batch in batches]),
        length=np.concatenate([batch.length for batch in batches]),
        plane=origin >> 56 & 3,
        line=origin >> 32 & 0x7FF,
        offset=origin >> 43 & 0x1FFF,
        shot=block.shot,
    )
