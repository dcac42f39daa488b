# SPDX-License-Identifier: GPL-2.0-or-later
"""What a field puts into the FIFO: lines of the vertical blanking interval, then active video.

VBI lines (data sheet 100600B, page 2-25): 8-bit samples at CLKx2, one packet of VBI_PKT dwords a line, from
the first line after VRESET until active video starts; neither swapped nor scaled. bttv asks for 2044 bytes a
line whatever the norm; PAL delivers them, NTSC ends a line after 1600, and memory behind stays as it was.
"""

from __future__ import annotations

from functools import lru_cache

from vcapdev.bt878.decoder import FieldSetup
from vcapdev.bt878.fifo import Block
from vcapdev.bt878.formats import RAW, format_of
from vcapdev.bt878.pattern import KIND_VBI, KIND_VIDEO, PictureKey, Shot, picture
from vcapdev.bt878.timing import Norm, raw_packets


def field_blocks(setup: FieldSetup, norm: Norm, frame: int, field: int) -> list[Block]:
    """The stream of one field.

    :param setup: the decoder's registers when the field began.
    :param frame: number of the frame, from 1.
    :param field: 0 odd (top), 1 even (bottom).
    """
    return [Block(Shot(picture(key), frame), lines) for key, lines in _wanted(setup, norm, field)]


@lru_cache(maxsize=16)
def _wanted(setup: FieldSetup, norm: Norm, field: int) -> list[tuple[PictureKey, int]]:
    """The picture of each block, and how many lines of it."""
    wanted = []
    if setup.capture_vbi:
        wanted.append(_vbi(setup, norm, field))
    if setup.capture_video:
        wanted.append(_video(setup, norm, field))
    return wanted


def _vbi(setup: FieldSetup, norm: Norm, field: int) -> tuple[PictureKey, int]:
    geometry = setup.geometry
    lines = geometry.vbi_lines if geometry.vbi_bytes else 0
    return PictureKey(KIND_VBI, field, norm.height, max(1, lines), max(4, geometry.vbi_bytes)), lines


def _video(setup: FieldSetup, norm: Norm, field: int) -> tuple[PictureKey, int]:
    geometry, code = setup.geometry, setup.format
    lines = raw_packets(norm) if code == RAW else geometry.lines
    pixels = max(1, geometry.pixels)
    if not min(format_of(code).widths(geometry.pixels)):
        lines, pixels = 0, 8  # too narrow for a byte in each plane
    swaps = setup.swap_bytes, setup.swap_words
    return PictureKey(KIND_VIDEO, field, norm.height, max(1, lines), pixels, code, *swaps), lines
