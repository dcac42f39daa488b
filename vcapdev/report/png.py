# SPDX-License-Identifier: GPL-2.0-or-later
"""A PNG writer as small as the job: 8-bit RGB, no interlace, no palette (PNG specification, 3rd edition)."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB8 = (8, 2, 0, 0, 0)  # bit depth, colour type 2 (RGB), deflate, adaptive filters, no interlace
_FILTER_SUB = 1


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """The file for ``pixels``, shape ``(height, width, 3)``, red green blue.

    :raise ValueError: when the shape is not that, or a side is 0.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"a PNG needs pixels of shape (height, width, 3), not {pixels.shape}")
    height, width, _ = pixels.shape
    header = struct.pack(">II5B", width, height, *_RGB8)
    body = zlib.compress(_filtered(pixels).tobytes(), 6)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _filtered(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scan lines with filter type 1 (Sub), each led by its filter byte; gradients shrink well under it."""
    height, width, _ = pixels.shape
    lines = np.empty((height, 1 + width * 3), np.uint8)
    lines[:, 0] = _FILTER_SUB
    lines[:, 1:4] = pixels[:, 0]
    lines[:, 4:] = (pixels[:, 1:] - pixels[:, :-1]).reshape(height, -1)
    return lines


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
