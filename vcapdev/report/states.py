# SPDX-License-Identifier: GPL-2.0-or-later
"""The captured frame once more, each pixel in the colour of the state of the page under it, with a legend."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcapdev.report import font

Colour = tuple[int, int, int]

UNKNOWN = "not judged"
# The states are those of vcapdev.guestmm.pageview.state_labels: greens and blues may be, reds may not.
_FIXED: dict[str, Colour] = {
    "pinned-anon": (60, 160, 75),
    "pinned-file": (40, 150, 140),
    "pinned-huge": (130, 190, 60),
    "pinned-driver": (150, 110, 190),
    "pinned-swapcache": (70, 130, 200),
    "pinned-unmapped-swapcache": (120, 170, 230),
    "pinned-writeback": (90, 100, 200),
    "pinned-orphan": (235, 200, 60),
    "kernel-buffer": (170, 140, 200),
    "free": (220, 30, 30),
    "unpinned": (240, 90, 20),
    "unpinned-swapcache": (250, 130, 60),
    "slab": (200, 0, 90),
    "zero": (250, 60, 140),
    UNKNOWN: (90, 90, 90),
}
_SPARE: tuple[Colour, ...] = (
    (0, 150, 150),
    (200, 90, 160),
    (140, 100, 60),
    (240, 160, 120),
)
_TEXT: Colour = (230, 230, 230)
_BACKGROUND: Colour = (24, 24, 24)
_ROW, _BOX, _PAD = 14, 10, 6


class Piece(NamedTuple):
    """One run of bytes of a picture's row in plane 0, and the state of the page that it was written to."""

    row: int
    offset: int  # first byte in the row
    length: int  # bytes, at least 1
    state: str


def states_picture(picture: NDArray[np.uint8], pieces: Sequence[Piece], depth: int) -> NDArray[np.uint8]:
    """The picture tinted by state, a legend below; shape ``(height + legend, width, 3)``.

    :param picture: the decoded frame, shape ``(height, width, 3)``: its light and dark stay visible.
    :param depth: bits of a pixel in plane 0.
    """
    names = list(dict.fromkeys([UNKNOWN, *(piece.state for piece in pieces)]))
    index = _index_of_pixels(picture.shape[:2], pieces, names, depth)
    palette = np.array([_colour(name, at) for at, name in enumerate(names)], np.float32)
    light = picture.astype(np.float32).mean(axis=2, keepdims=True) / 255
    tinted = (palette[index] * (0.55 + 0.45 * light)).astype(np.uint8)
    shares = np.bincount(index.ravel(), minlength=len(names)) / index.size
    return np.concatenate([tinted, _legend(picture.shape[1], names, shares)])


def _index_of_pixels(
    shape: tuple[int, ...], pieces: Sequence[Piece], names: list[str], depth: int
) -> NDArray[np.intp]:
    place = {name: at for at, name in enumerate(names)}
    index = np.zeros(shape, np.intp)
    for piece in pieces:
        if 0 <= piece.row < shape[0]:
            first, last = piece.offset * 8 // depth, (piece.offset + piece.length) * 8 // depth
            index[piece.row, max(0, first) : max(0, last)] = place[piece.state]
    return index


def colour_of(state: str) -> Colour:
    """Red, green, blue of a state; of one that has no colour of its own, always the same spare one."""
    return _colour(state, zlib.crc32(state.encode("utf-8", "replace")))


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
