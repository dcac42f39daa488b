# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters for picture legends: five dots wide, seven high, drawn for this project."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 6, 8  # with the gap to the next letter and line

# One hexadecimal byte a row, top to bottom; the five low bits are the dots, left to right.
_GLYPHS = {
    " ": "00000000000000",
    "A": "0E11111F111111",
    "B": "1E11111E11111E",
    "C": "0E11101010110E",
    "D": "1E11111111111E",
    "E": "1F10101E10101F",
    "F": "1F10101E101010",
    "G": "0E11101713110F",
    "H": "1111111F111111",
    "I": "0E04040404040E",
    "J": "0702020202120C",
    "K": "11121418141211",
    "L": "1010101010101F",
    "M": "111B1515111111",
    "N": "11191915131311",
    "O": "0E11111111110E",
    "P": "1E11111E101010",
    "Q": "0E11111115120D",
    "R": "1E11111E141211",
    "S": "0F10100E01011E",
    "T": "1F040404040404",
    "U": "1111111111110E",
    "V": "11111111110A04",
    "W": "11111115151B11",
    "X": "11110A040A1111",
    "Y": "11110A04040404",
    "Z": "1F01020408101F",
    "0": "0E11131519110E",
    "1": "040C040404040E",
    "2": "0E11010204081F",
    "3": "1F02040201110E",
    "4": "02060A121F0202",
    "5": "1F101E0101110E",
    "6": "0608101E11110E",
    "7": "1F010204080808",
    "8": "0E11110E11110E",
    "9": "0E11110F01020C",
    "-": "0000000E000000",
    "+": "0004041F040400",
    ".": "00000000000C0C",
    ",": "000000000C0408",
    ":": "000C0C000C0C00",
    "/": "01010204081010",
    "(": "02040808080402",
    ")": "08040202020408",
    "%": "18190204081303",
    "=": "00001F001F0000",
    "?": "0E110102040004",
}


def draw(canvas: NDArray[np.uint8], x: int, y: int, text: str, colour: tuple[int, int, int]) -> None:
    """Write ``text`` (shown in capitals) with its top left at ``x``, ``y``; what does not fit is cut off.

    :param canvas: pixels of shape ``(height, width, 3)``, changed in place.
    """
    for index, letter in enumerate(text.upper()):
        dots = _dots(_GLYPHS.get(letter, _GLYPHS["?"]))
        area = canvas[y : y + 7, x + index * WIDTH : x + index * WIDTH + 5]
        area[dots[: area.shape[0], : area.shape[1]]] = colour


def _dots(glyph: str) -> NDArray[np.bool_]:
    rows = np.frombuffer(bytes.fromhex(glyph), np.uint8)
    dots: NDArray[np.bool_] = (rows[:, None] >> np.arange(4, -1, -1)) & 1 == 1
    return dots
