# SPDX-License-Identifier: GPL-2.0-or-later
"""What a frame buffer of the guest must hold, for the program in the guest that verifies it.

A buffer's layout is bttv's (Linux 6.1 ``drivers/media/pci/bt8xx/bttv-risc.c``, ``bttv_buffer_risc`` and
``bttv_risc_planar``); what is in its lines is :mod:`vcapdev.bt878.pattern`'s.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.formats import format_of
from vcapdev.bt878.pattern import KIND_VIDEO, TAG_BYTES, PictureKey, picture
from vcapdev.bt878.timing import norm_named
from vcapdev.errors import UsageError

FILE_MAGIC = b"VCAPEXP1"
FIELDS = ("interlaced", "top", "bottom", "alternate", "seq-tb")


@dataclass(frozen=True, slots=True)
class Fourcc:
    """How bttv makes one V4L2 format: COLOR_FMT code, swapping, and chroma for planar ones."""

    code: int
    byte_swap: bool = False
    word_swap: bool = False
    vshift: int = 0  # chroma on every (1 << vshift)th line
    cr_first: bool = False

    @property
    def across(self) -> int:
        """Horizontal chroma step of a planar format, 0 for packed ones."""
        return {8: 2, 9: 4}.get(self.code, 0)

    def chroma_bytes(self, width: int, height: int) -> int:
        """Size of each chroma plane; 0 for packed formats."""
        return width * height // self.across >> self.vshift if self.across else 0


FOURCCS = {
    "BGR4": Fourcc(0),
    "RGB4": Fourcc(0, True, True),
    "BGR3": Fourcc(1),
    "RGBP": Fourcc(2),
    "RGBR": Fourcc(2, True),
    "RGBO": Fourcc(3),
    "RGBQ": Fourcc(3, True),
    "YUYV": Fourcc(4),
    "UYVY": Fourcc(4, True),
    "Y41P": Fourcc(5),
    "GREY": Fourcc(6),
    "HI24": Fourcc(7),
    "422P": Fourcc(8),
    "YU12": Fourcc(8, vshift=1),
    "YV12": Fourcc(8, vshift=1, cr_first=True),
    "411P": Fourcc(9),
    "YUV9": Fourcc(9, vshift=2),
    "YVU9": Fourcc(9, vshift=2, cr_first=True),
}


class Row(NamedTuple):
    """One line of one plane in the buffer."""

    offset: int  # bytes from the start of the image
    length: int
    line: int  # of the field
    field: int
    plane: int


class Expected(NamedTuple):
    """The base image, tags zeroed, and its rows in ascending order of fields, planes and lines."""

    base: bytes
    rows: tuple[Row, ...]

    def file(self) -> bytes:
        """As the guest's verifier reads it: ``<8sII`` magic, rows, bytes; rows ``<IIIHBB``; the image."""
        head = struct.pack("<8sII", FILE_MAGIC, len(self.rows), len(self.base))
        rows = b"".join(
            struct.pack("<IIIHBB", r.offset, r.length, r.line, 0, r.field, r.plane) for r in self.rows
        )
        return head + rows + self.base


def expected_frame(norm: str, fourcc: str, width: int, height: int, field: str) -> Expected:
    """What a buffer holds apart from stamps and tags.

    :param field: one of :data:`FIELDS`. A buffer of "alternate" holds one field of either parity: the image
        is then two buffers, that of the top field first, and offsets of field 1 lie in the second half.
    :raise UsageError: an unknown norm, format or field, or a size that cannot be.
    """
    form = FOURCCS.get(fourcc)
    if form is None:
        raise UsageError(f"no format is called {fourcc!r}; there are {', '.join(FOURCCS)}")
    if field not in FIELDS:
        raise UsageError(f"no field order is called {field!r}; there are {', '.join(FIELDS)}")
    if width < 1 or height < 2:
        raise UsageError(f"no picture is {width} by {height} pixels")
    size, rows = _rows(form, width, height, field)
    base = np.zeros(size, np.uint8)
    for parity in (0, 1):
        _fill(base, [row for row in rows if row.field == parity], norm, form, width, parity)
    return Expected(base.tobytes(), tuple(rows))


def _fill(base: NDArray[np.uint8], rows: list[Row], norm: str, form: Fourcc, width: int, parity: int) -> None:
    if not rows:
        return
    lines = max(row.line for row in rows) + 1
    key = PictureKey(
        KIND_VIDEO, parity, norm_named(norm).height, lines, width, form.code, form.byte_swap, form.word_swap
    )
    shown = picture(key)
    for row in rows:
        base[row.offset : row.offset + row.length] = shown.plane(row.plane)[row.line]
        if row.plane == 0:
            base[row.offset : row.offset + min(TAG_BYTES, row.length)] = 0


def _rows(form: Fourcc, width: int, height: int, field: str) -> tuple[int, list[Row]]:
    """Bytes of the image and its rows."""
    if field == "alternate":
        size, top = _rows(form, width, height, "top")
        return 2 * size, top + [row._replace(offset=row.offset + size, field=1) for row in top]
    rows: list[Row] = []
    for parity in {"top": (0,), "bottom": (1,)}.get(field, (0, 1)):
        rows += _luma_rows(form, width, height, field, parity)
        # Two fields one after the other: bttv puts the top field's chroma where the bottom field's luma goes.
        if form.across and not (field == "seq-tb" and parity == 0):
            rows += _chroma_rows(form, width, height, field, parity)
    luma = format_of(form.code).widths(width)[0] * height
    return luma + 2 * form.chroma_bytes(width, height), rows


def _luma_rows(form: Fourcc, width: int, height: int, field: str, parity: int) -> list[Row]:
    length = format_of(form.code).widths(width)[0]
    lines = _lines(height, field)
    start, step = {"interlaced": (parity, 2), "seq-tb": (parity * lines, 1)}.get(field, (0, 1))
    return [Row((start + line * step) * length, length, line, parity, 0) for line in range(lines)]


def _chroma_rows(form: Fourcc, width: int, height: int, field: str, parity: int) -> list[Row]:
    """Chroma is taken from every (1 << vshift)th line; in a second field from the lines between those."""
    second = parity == 1 and field != "bottom"
    every = 1 << form.vshift
    chosen = [line for line in range(_lines(height, field)) if line % every == (every // 2 if second else 0)]
    length, luma, size = width // form.across, width * height, form.chroma_bytes(width, height)
    rows: list[Row] = []
    for plane in (1, 2):
        behind = (plane == 1) == form.cr_first
        start = luma + (size if behind else 0)
        if field == "seq-tb":
            start = _lines(height, field) * width + start // 2
        elif field == "interlaced":
            start += length * parity
        step = length * (2 if field == "interlaced" else 1)
        rows += [Row(start + at * step, length, line, parity, plane) for at, line in enumerate(chosen)]
    return rows


def _lines(height: int, field: str) -> int:
    return height // 2 if field in ("interlaced", "seq-tb") else height
