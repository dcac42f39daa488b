# SPDX-License-Identifier: GPL-2.0-or-later
"""From Y, Cb, Cr to the bytes that each code of COLOR_FMT puts on the bus, lowest address first.

Byte orders: the formats that bttv maps to each code (Linux 6.1 ``bttv-driver.c``) and their V4L2 definition;
colour path and swapping: Fusion 878A data sheet 100600B, pages 2-30 and 2-31. The order of 4:1:1 packed and
the palette of RGB8 are from memory of the data sheet. Gamma removal is not modelled: bttv switches it off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.timing import RAW_PACKET_BYTES

Bytes = NDArray[np.uint8]
Planes = tuple[Bytes, ...]

# Pictures are made for whole groups of so many pixels and cut, so that odd widths need no special case.
GROUP = 8


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """One code of COLOR_FMT.

    ``widths`` gives the bytes of a line in each plane for a width in pixels; ``pack`` turns Y, Cb, Cr (one
    shape, ``(lines, pixels)``, pixels a multiple of 8, range 16 to 235 or 240) into those planes.
    """

    code: int
    name: str
    widths: Callable[[int], tuple[int, ...]]
    pack: Callable[[Bytes, Bytes, Bytes], Planes]

    @property
    def samples(self) -> bool:
        """Whether each byte is a sample of its own, not a palette index or part of a 16-bit pixel."""
        return self.name not in ("RGB16", "RGB15", "RGB8")

    @property
    def planar(self) -> bool:
        """Whether luma and chroma go through the three FIFOs apart (mode FM3, else FM1)."""
        return len(self.widths(GROUP)) > 1


def _upsampled(chroma: Bytes) -> NDArray[np.int16]:
    """4:2:2 chroma brought to every pixel: an odd sample is the mean of its neighbours."""
    even = chroma[:, ::2].astype(np.int16)
    following = np.concatenate([even[:, 1:], even[:, -1:]], axis=1)
    return np.stack([even, (even + following) // 2], axis=-1).reshape(chroma.shape)


def to_rgb(y: Bytes, cb: Bytes, cr: Bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """The chip's matrix (page 2-30); arrays of one shape, results 0 to 255."""
    luma = 1.164 * (y.astype(np.float32) - 16)
    blue, red = (_upsampled(c).astype(np.float32) - 128 for c in (cb, cr))
    r, g, b = (
        np.clip(np.rint(part), 0, 255).astype(np.uint8)
        for part in (luma + 1.596 * red, luma - 0.813 * red - 0.391 * blue, luma + 2.018 * blue)
    )
    return r, g, b


def _rows(*samples: Bytes) -> Bytes:
    """Samples taken in turn, as one row of bytes a line."""
    return np.stack(samples, axis=-1).reshape(samples[0].shape[0], -1)


def _rgb32(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    r, g, b = to_rgb(y, cb, cr)
    return (_rows(b, g, r, np.zeros_like(r)),)


def _rgb24(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    r, g, b = to_rgb(y, cb, cr)
    return (_rows(b, g, r),)


def _rgb16(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    r, g, b = (part.astype(np.uint16) for part in to_rgb(y, cb, cr))
    return ((r >> 3 << 11 | g >> 2 << 5 | b >> 3).astype("<u2").view(np.uint8),)


def _rgb15(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    r, g, b = (part.astype(np.uint16) for part in to_rgb(y, cb, cr))
    return ((r >> 3 << 10 | g >> 3 << 5 | b >> 3).astype("<u2").view(np.uint8),)


def _yuy2(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    return (_rows(y[:, ::2], cb[:, ::2], y[:, 1::2], cr[:, ::2]),)


def _btyuv(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    luma, blue, red = y.reshape(y.shape[0], -1, 8), _quarter(cb), _quarter(cr)
    first = [blue[:, ::2], luma[:, :, 0], red[:, ::2], luma[:, :, 1]]
    second = [blue[:, 1::2], luma[:, :, 2], red[:, 1::2], luma[:, :, 3]]
    return (_rows(*first, *second, *(luma[:, :, at] for at in range(4, 8))),)


def _y8(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    return (y,)


def _rgb8(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    """Palette index 16 + 25 * green of 9 + 5 * red of 5 + blue of 5, dithered by a fixed 2 by 2 matrix."""
    threshold = np.array([[0.125, 0.625], [0.875, 0.375]], np.float32)
    bias = np.tile(threshold, (y.shape[0] // 2 + 1, y.shape[1] // 2))[: y.shape[0]]
    r, g, b = (part.astype(np.float32) / 255 for part in to_rgb(y, cb, cr))
    red, green, blue = (np.floor(part * top + bias) for part, top in ((r, 4), (g, 8), (b, 4)))
    return ((16 + 25 * green + 5 * red + blue).astype(np.uint8),)


def _half(chroma: Bytes) -> Bytes:
    return np.ascontiguousarray(chroma[:, ::2])


def _quarter(chroma: Bytes) -> Bytes:
    """4:2:2 to 4:1:1: the mean of two samples (the data sheet prints their sum)."""
    half = chroma[:, ::2].astype(np.uint16)
    return ((half[:, ::2] + half[:, 1::2]) // 2).astype(np.uint8)


def _planar422(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    return y, _half(cb), _half(cr)


def _planar411(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    return y, _quarter(cb), _quarter(cr)


def _raw(y: Bytes, cb: Bytes, cr: Bytes) -> Planes:
    return (np.resize(y, (y.shape[0], RAW_PACKET_BYTES)),)


def _packed(bytes_of_8: int) -> Callable[[int], tuple[int, ...]]:
    return lambda width: (width * bytes_of_8 // 8,)


def _planar(step: int) -> Callable[[int], tuple[int, ...]]:
    return lambda width: (width, width // step, width // step)


RAW = 14
FORMATS: Mapping[int, PixelFormat] = {
    each.code: each
    for each in (
        PixelFormat(0, "RGB32", _packed(32), _rgb32),
        PixelFormat(1, "RGB24", _packed(24), _rgb24),
        PixelFormat(2, "RGB16", _packed(16), _rgb16),
        PixelFormat(3, "RGB15", _packed(16), _rgb15),
        PixelFormat(4, "YUY2", _packed(16), _yuy2),
        PixelFormat(5, "BtYUV", _packed(12), _btyuv),
        PixelFormat(6, "Y8", _packed(8), _y8),
        PixelFormat(7, "RGB8", _packed(8), _rgb8),
        PixelFormat(8, "YCrCb422", _planar(2), _planar422),
        PixelFormat(9, "YCrCb411", _planar(4), _planar411),
        PixelFormat(RAW, "RAW", lambda width: (RAW_PACKET_BYTES,), _raw),
    )
}


def format_of(code: int) -> PixelFormat:
    """The format of a COLOR_FMT nibble; what a reserved code does is not known, here it is RGB32."""
    return FORMATS.get(code & 15, FORMATS[0])


_LANES = {(True, False): [1, 0, 3, 2], (False, True): [2, 3, 0, 1], (True, True): [3, 2, 1, 0]}


def swapped(plane: Bytes, byte_swap: bool, word_swap: bool) -> Bytes:
    """COLOR_CTL's swapping within each dword of a line; the line's last dword is filled with zeros first."""
    lanes = _LANES.get((byte_swap, word_swap))
    if lanes is None:
        return plane
    padded = np.pad(plane, [(0, 0), (0, -plane.shape[1] % 4)])
    turned: Bytes = padded.reshape(plane.shape[0], -1, 4)[:, :, lanes].reshape(plane.shape[0], -1)
    return turned
