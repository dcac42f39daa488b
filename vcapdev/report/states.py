# SPDX-License-Identifier: GPL-2.0-or-later
"""The captured frame once more, each pixel in the colour of the state of the page under it, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcapdev.report import font

Colour = tuple[int, int, int]

UNKNOWN = "not judged"
_FIXED: dict[str, Colour] = {
    "pinned": (60, 160, 75),
    "pinned, in swap cache": (70, 130, 200),
    "orphan": (235, 200, 60),
    "coherent": (150, 110, 190),
    "free": (220, 30, 30),
    "not pinned": (240, 90, 20),
    UNKNOWN: (90, 90, 90),
}
_SPARE: tuple[Colour, ...] = (
    (0, 150, 150),
    (200, 90, 160),
    (140, 100, 60),
    (120, 170, 230),
    (170, 200, 90),
    (240, 160, 120),
)
_TEXT: Colour = (230, 230, 230)
_BACKGROUND: Colour = (24, 24, 24)
_ROW, _BOX, _PAD = 14, 10, 6


class Piece(NamedTuple):
    """One run of bytes of the frame's buffer and the state of the page that it was written to."""

    offset: int  # first byte in the buffer
    length: int  # bytes, at least 1
    state: str


def states_picture(
    picture: NDArray[np.uint8], pixel_offsets: NDArray[np.int64], pieces: Sequence[Piece]
) -> NDArray[np.uint8]:
    """The picture tinted by state, a legend below; shape ``(height + legend, width, 3)``.

    :param picture: the decoded frame, shape ``(height, width, 3)``: its light and dark stay visible.
    :param pixel_offsets: buffer offset of each pixel's first byte, shape ``(height, width)``.
    """
    names = _names(pieces)
    index = _index_of_bytes(int(pixel_offsets.max()) + 1, pieces, names)[pixel_offsets]
    palette = np.array([_colour(name, at) for at, name in enumerate(names)], np.float32)
    light = picture.astype(np.float32).mean(axis=2, keepdims=True) / 255
    tinted = (palette[index] * (0.55 + 0.45 * light)).astype(np.uint8)
    shares = np.bincount(index.ravel(), minlength=len(names)) / index.size
    return np.concatenate([tinted, _legend(picture.shape[1], names, shares)])


def _names(pieces: Sequence[Piece]) -> list[str]:
    """All states that occur, the unjudged first, then in order of appearance."""
    return list(dict.fromkeys([UNKNOWN, *(piece.state for piece in pieces)]))


def _index_of_bytes(size: int, pieces: Sequence[Piece], names: list[str]) -> NDArray[np.intp]:
    place = {name: at for at, name in enumerate(names)}
    index = np.zeros(size, np.intp)
    for piece in pieces:
        index[max(0, piece.offset) : max(0, piece.offset + piece.length)] = place[piece.state]
    return index


def _colour(name: str, at: int) -> Colour:
    return _FIXED.get(name) or _SPARE[at % len(_SPARE)]


def _legend(width: int, names: list[str], shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One row for each state that covers at least one pixel: a box of its colour, its name, its share."""
    shown = [at for at in range(len(names)) if shares[at] > 0]
    area = np.empty((2 * _PAD + _ROW * len(shown), width, 3), np.uint8)
    area[:] = _BACKGROUND
    for row, at in enumerate(shown):
        top = _PAD + row * _ROW
        area[top : top + _BOX, _PAD : _PAD + _BOX] = _colour(names[at], at)
        font.draw(area, 2 * _PAD + _BOX, top + 2, f"{names[at]}  {shares[at]:.1%}", _TEXT)
    return area
