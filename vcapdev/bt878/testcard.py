# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture in front of the camera: a test card, drawn once.

Grey ground with a white grid; in a circle the name, 75 % colour bars, a grey staircase and a hue sweep; it
shows at a glance a line that is misplaced, a field that is shifted, or colours that are swapped.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 768, 576

# Five by seven dots for each letter of the name, one row a string.
_LETTERS = {
    "V": ("10001", "10001", "10001", "10001", "10001", "01010", "00100"),
    "C": ("01110", "10001", "10000", "10000", "10000", "10001", "01110"),
    "A": ("01110", "10001", "10001", "11111", "10001", "10001", "10001"),
    "P": ("11110", "10001", "10001", "11110", "10000", "10000", "10000"),
    "D": ("11110", "10001", "10001", "10001", "10001", "10001", "11110"),
    "E": ("11111", "10000", "10000", "11110", "10000", "10000", "11111"),
}
_NAME = "VCAPDEV"
_DOT = 8
_BARS = ((191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191))

Image = NDArray[np.float32]


@lru_cache(maxsize=1)
def card() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Y, Cb, Cr of the card, each ``(576, 768)``, BT.601 in limited range."""
    rgb = _ground()
    inside = _circle(264)
    rgb[inside] = _disc()[inside]
    rgb[_circle(268) & ~inside] = 235
    return _ycbcr(rgb)


def _ground() -> Image:
    """A grid of 48-pixel squares, castellations at the border."""
    rgb = np.full((HEIGHT, WIDTH, 3), 96, np.float32)
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH]
    rgb[((row + 24) % 48 < 2) | ((column + 24) % 48 < 2)] = 220
    edge = (row < 24) | (row >= HEIGHT - 24) | (column < 24) | (column >= WIDTH - 24)
    light = ((row + 24) // 48 + (column + 24) // 48) % 2 == 0
    rgb[edge] = np.where(light[edge], 225, 20)[:, None]
    return rgb


def _circle(radius: int) -> NDArray[np.bool_]:
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH]
    inside: NDArray[np.bool_] = (row - (HEIGHT - 1) / 2) ** 2 + (column - (WIDTH - 1) / 2) ** 2 < radius**2
    return inside


def _disc() -> Image:
    """What fills the circle, as horizontal bands over the whole width."""
    rgb = np.full((HEIGHT, WIDTH, 3), 16, np.float32)
    across = np.clip((np.arange(WIDTH) - 120) / 528, 0, 0.9999).astype(np.float32)
    rgb[:96] = 200
    rgb[96:184] = 16
    _write_name(rgb[96:184])
    rgb[184:336] = np.array(_BARS, np.float32)[(across * len(_BARS)).astype(np.intp)]
    rgb[336:392] = (np.floor(across * 9) / 8 * 239 + 16)[:, None]
    rgb[392:448] = _hues(across)
    rgb[448:504] = (across * 239 + 16)[:, None]
    rgb[504:] = np.where((np.arange(WIDTH) // 6) % 2, 230, 24)[:, None]
    return rgb


def _write_name(band: Image) -> None:
    dots = np.array([[int(dot) for name in _NAME for dot in _LETTERS[name][row] + "0"] for row in range(7)])
    big = np.kron(dots[:, :-1], np.ones((_DOT, _DOT), np.intp)).astype(bool)
    top, left = (band.shape[0] - big.shape[0]) // 2, (band.shape[1] - big.shape[1]) // 2
    band[top : top + big.shape[0], left : left + big.shape[1]][big] = 235


def _hues(across: NDArray[np.float32]) -> Image:
    """A sweep through all hues, shape ``(WIDTH, 3)``."""
    angle = across[:, None] * 6 + np.array([0, 4, 2], np.float32)
    hues: Image = (np.clip(np.abs(angle % 6 - 3) - 1, 0, 1) * 200 + 28).astype(np.float32)
    return hues


def _ycbcr(rgb: Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    r, g, b = (rgb[:, :, at] / 255 for at in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    parts = (16 + 219 * luma, 128 + 224 * (b - luma) / 1.772, 128 + 224 * (r - luma) / 1.402)
    y, cb, cr = (np.rint(part).astype(np.uint8) for part in parts)
    return y, cb, cr
