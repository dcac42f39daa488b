# SPDX-License-Identifier: GPL-2.0-or-later
"""A PNG that any reader opens: signature, chunks with right checksums, and the pixels that went in."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from vcapdev.report.font import draw
from vcapdev.report.png import SIGNATURE, encode_png


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """A second opinion, written from the specification: checks every CRC and undoes filter types 0 and 1."""
    assert data.startswith(SIGNATURE)
    at, chunks = len(SIGNATURE), {}
    while at < len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert (depth, colour) == (8, 2)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert set(lines[:, 0]) <= {0, 1}
    pixels = lines[:, 1:].reshape(height, width, 3).copy()
    sub = lines[:, 0] == 1
    pixels[sub] = np.cumsum(pixels[sub].astype(np.uint64), axis=1).astype(np.uint8)
    return pixels


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 5, 3), (576, 768, 3)])
def test_pixels_survive(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    assert np.array_equal(decode_png(encode_png(pixels)), pixels)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 3), (4, 4, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        encode_png(np.zeros(shape, np.uint8))


def test_letters_are_drawn_and_cut_at_the_edge() -> None:
    canvas = np.zeros((8, 9, 3), np.uint8)
    draw(canvas, 0, 0, "il", (255, 0, 0))
    assert canvas[0, :5, 0].tolist() == [0, 255, 255, 255, 0]  # the bar of a capital I
    assert canvas[6, 6:, 0].tolist() == [255, 255, 255]  # the foot of an L, cut after three dots
