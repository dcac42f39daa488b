# SPDX-License-Identifier: GPL-2.0-or-later
"""From a capture buffer to pixels: every format that bttv offers, as V4L2 lays it out in memory.

Byte orders and planes follow Documentation/userspace-api/media/v4l/pixfmt-*.rst (Linux 6.1); the colour
matrix is ITU-R BT.601 in limited range, as on page 2-30 of the Fusion 878A data sheet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one V4L2 format fills a buffer.

    ``depth`` is bits a pixel of plane 0; ``chroma`` gives the horizontal and vertical chroma step of planar
    formats (None for packed ones), ``swapped`` whether Cr comes before Cb.
    """

    depth: int
    rgb: Callable[[Bytes], Bytes] | None = None  # packed rows (height, bytes) to (height, width, 3)
    chroma: tuple[int, int] | None = None
    swapped: bool = False

    def size(self, width: int, height: int) -> int:
        """Bytes of a whole frame."""
        luma = width * height * self.depth // 8
        if self.chroma is None:
            return luma
        across, down = self.chroma
        return luma + 2 * (width // across) * (height // down)


def decode(fourcc: str, data: bytes | Bytes, width: int, height: int) -> Bytes:
    """Pixels of a captured frame, shape ``(height, width, 3)``, red green blue.

    :raise ValueError: for a format that bttv does not offer, or data shorter than such a frame.
    """
    layout = layout_of(fourcc)
    raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    size = layout.size(width, height)
    if raw.size < size:
        raise ValueError(f"a {fourcc} frame of {width}x{height} needs {size} bytes, not {raw.size}")
    if layout.chroma is not None:
        return _planar(layout, raw[:size], width, height)
    assert layout.rgb is not None
    return layout.rgb(raw[:size].reshape(height, width * layout.depth // 8))


def layout_of(fourcc: str) -> Layout:
    """The layout of a V4L2 format by its four characters.

    :raise ValueError: when bttv does not offer it.
    """
    try:
        return FORMATS[fourcc]
    except KeyError:
        raise ValueError(f"no picture for format {fourcc!r}; there is one for {', '.join(FORMATS)}") from None


def ycbcr_to_rgb(y: Bytes, cb: Bytes, cr: Bytes) -> Bytes:
    """BT.601 limited range; the three arrays have one shape, the result that shape and a last axis of 3."""
    luma = 1.164 * (y.astype(np.float32) - 16)
    blue, red = cb.astype(np.float32) - 128, cr.astype(np.float32) - 128
    planes = (luma + 1.596 * red, luma - 0.813 * red - 0.391 * blue, luma + 2.018 * blue)
    rounded: Bytes = np.clip(np.rint(np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)
    return rounded


def _grey(rows: Bytes) -> Bytes:
    return np.repeat(rows[:, :, None], 3, axis=2)


def _bytes_rgb(order: tuple[int, int, int], step: int) -> Callable[[Bytes], Bytes]:
    """Formats of whole bytes: ``order`` holds the positions of red, green, blue among ``step`` bytes."""

    def rgb(rows: Bytes) -> Bytes:
        return np.ascontiguousarray(rows.reshape(rows.shape[0], -1, step)[:, :, list(order)])

    return rgb


def _words_rgb(dtype: str, red: int, green: int) -> Callable[[Bytes], Bytes]:
    """16-bit formats: shift of red, bits of green; red and blue have five bits each."""

    def widen(value: NDArray[np.uint16], bits: int) -> Bytes:
        return ((value << (8 - bits)) | (value >> (2 * bits - 8))).astype(np.uint8)

    def rgb(rows: Bytes) -> Bytes:
        words: NDArray[np.uint16] = np.ascontiguousarray(rows).view(dtype).astype(np.uint16)
        masks = ((red, 5), (5, green), (0, 5))
        parts = [((words >> shift) & ((1 << bits) - 1)).astype(np.uint16) for shift, bits in masks]
        wide = [widen(part, bits) for part, (_, bits) in zip(parts, masks, strict=True)]
        return np.stack(wide, axis=-1)

    return rgb


def _packed_422(y: int, cb: int) -> Callable[[Bytes], Bytes]:
    """YUYV and UYVY: positions of the first luma and of Cb in each group of four bytes."""

    def rgb(rows: Bytes) -> Bytes:
        groups = rows.reshape(rows.shape[0], -1, 4)
        luma = groups[:, :, [y, y + 2]].reshape(rows.shape[0], -1)
        blue, red = (np.repeat(groups[:, :, at], 2, axis=1) for at in (cb, cb + 2))
        return ycbcr_to_rgb(luma, blue, red)

    return rgb


def _packed_411(rows: Bytes) -> Bytes:
    """Y41P: Cb0 Y0 Cr0 Y1 Cb4 Y2 Cr4 Y3 Y4 Y5 Y6 Y7, eight pixels in twelve bytes."""
    groups = rows.reshape(rows.shape[0], -1, 12)
    luma = groups[:, :, [1, 3, 5, 7, 8, 9, 10, 11]].reshape(rows.shape[0], -1)
    blue, red = (np.repeat(groups[:, :, at].reshape(rows.shape[0], -1), 4, axis=1) for at in ([0, 4], [2, 6]))
    return ycbcr_to_rgb(luma, blue, red)


def _palette_225(rows: Bytes) -> Bytes:
    """HI240: index 16 + 25 * green of 9 + 5 * red of 5 + blue of 5, the chip's 8-bit dithered mode."""
    index = np.clip(rows.astype(np.int16) - 16, 0, 224)
    parts = ((index // 5 % 5) * 255 // 4, (index // 25) * 255 // 8, (index % 5) * 255 // 4)
    return np.stack(parts, axis=-1).astype(np.uint8)


def _planar(layout: Layout, raw: Bytes, width: int, height: int) -> Bytes:
    assert layout.chroma is not None
    across, down = layout.chroma
    shape = (height // down, width // across)
    luma, size = width * height, shape[0] * shape[1]
    planes = [raw[luma + i * size : luma + (i + 1) * size].reshape(shape) for i in (0, 1)]
    blue, red = (np.repeat(np.repeat(plane, down, axis=0), across, axis=1) for plane in planes)
    if layout.swapped:
        blue, red = red, blue
    y = raw[:luma].reshape(height, width)
    return ycbcr_to_rgb(y, _fit(blue, y.shape), _fit(red, y.shape))


def _fit(plane: Bytes, shape: tuple[int, int]) -> Bytes:
    """Chroma of an odd-sized picture lacks its last row or column: the edge is repeated."""
    missing = [(0, max(0, want - have)) for want, have in zip(shape, plane.shape, strict=True)]
    return np.pad(plane, missing, mode="edge") if any(after for _, after in missing) else plane


FORMATS: dict[str, Layout] = {
    "GREY": Layout(8, _grey),
    "HI24": Layout(8, _palette_225),
    "RGBO": Layout(16, _words_rgb("<u2", 10, 5)),
    "RGBQ": Layout(16, _words_rgb(">u2", 10, 5)),
    "RGBP": Layout(16, _words_rgb("<u2", 11, 6)),
    "RGBR": Layout(16, _words_rgb(">u2", 11, 6)),
    "BGR3": Layout(24, _bytes_rgb((2, 1, 0), 3)),
    "BGR4": Layout(32, _bytes_rgb((2, 1, 0), 4)),
    "RGB4": Layout(32, _bytes_rgb((1, 2, 3), 4)),
    "YUYV": Layout(16, _packed_422(0, 1)),
    "UYVY": Layout(16, _packed_422(1, 0)),
    "Y41P": Layout(12, _packed_411),
    "422P": Layout(8, chroma=(2, 1)),
    "YU12": Layout(8, chroma=(2, 2)),
    "YV12": Layout(8, chroma=(2, 2), swapped=True),
    "411P": Layout(8, chroma=(4, 1)),
    "YUV9": Layout(8, chroma=(4, 4)),
    "YVU9": Layout(8, chroma=(4, 4), swapped=True),
}
