# SPDX-License-Identifier: GPL-2.0-or-later
"""A captured frame becomes the picture that the card sent: known colours, each format that bttv offers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vcapdev.report.picture import FORMATS, decode, layout_of, ycbcr_to_rgb

WIDTH, HEIGHT = 16, 8
RED_YCC = (81, 90, 240)  # BT.601 limited range: Y, Cb, Cr of pure red


def fill(*pattern: int) -> bytes:
    """A frame that repeats ``pattern``."""
    return bytes(pattern) * (WIDTH * HEIGHT)


def planes(across: int, down: int, second: int, third: int) -> bytes:
    chroma = (WIDTH // across) * (HEIGHT // down)
    return bytes([81]) * (WIDTH * HEIGHT) + bytes([second]) * chroma + bytes([third]) * chroma


RED_FRAMES = {
    "RGBO": fill(0x00, 0x7C),
    "RGBQ": fill(0x7C, 0x00),
    "RGBP": fill(0x00, 0xF8),
    "RGBR": fill(0xF8, 0x00),
    "BGR3": fill(0, 0, 255),
    "BGR4": fill(0, 0, 255, 0),
    "RGB4": fill(0, 255, 0, 0),
    "HI24": fill(16 + 4 * 5),
    "YUYV": fill(81, 90, 81, 240)[: WIDTH * HEIGHT * 2],
    "UYVY": fill(90, 81, 240, 81)[: WIDTH * HEIGHT * 2],
    "Y41P": fill(90, 81, 240, 81, 90, 81, 240, 81, 81, 81, 81, 81)[: WIDTH * HEIGHT * 3 // 2],
    "422P": planes(2, 1, 90, 240),
    "YU12": planes(2, 2, 90, 240),
    "YV12": planes(2, 2, 240, 90),
    "411P": planes(4, 1, 90, 240),
    "YUV9": planes(4, 4, 90, 240),
    "YVU9": planes(4, 4, 240, 90),
}


def test_the_table_covers_all_colour_formats() -> None:
    assert set(RED_FRAMES) == set(FORMATS) - {"GREY"}


@pytest.mark.parametrize("fourcc", RED_FRAMES)
def test_red_is_red(fourcc: str) -> None:
    data = RED_FRAMES[fourcc]
    assert len(data) == layout_of(fourcc).size(WIDTH, HEIGHT)
    picture = decode(fourcc, data, WIDTH, HEIGHT)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(picture.astype(int) - (255, 0, 0)).max() <= 2


def test_grey_is_its_own_luma() -> None:
    ramp = bytes(range(WIDTH * HEIGHT))
    picture = decode("GREY", ramp, WIDTH, HEIGHT)
    assert picture[:, :, 1].tobytes() == ramp
    assert (picture == picture[:, :, :1]).all()


def test_neighbours_in_yuyv_keep_their_own_luma() -> None:
    picture = decode("YUYV", bytes([16, 128, 235, 128]), 2, 1)
    assert picture[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_the_colour_matrix_is_bt601() -> None:
    y, cb, cr = (np.array([value], np.uint8) for value in RED_YCC)
    red: NDArray[np.uint8] = ycbcr_to_rgb(y, cb, cr)
    assert np.abs(red[0].astype(int) - (255, 0, 0)).max() <= 2


def test_odd_planar_sizes_repeat_the_chroma_edge() -> None:
    data = bytes([81]) * (50 * 33) + bytes([90]) * (25 * 16) + bytes([240]) * (25 * 16)
    assert (decode("YU12", data, 50, 33)[-1, -1].astype(int) > (250, -1, -1)).all()


def test_refusals_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="'MJPG'"):
        layout_of("MJPG")
    with pytest.raises(ValueError, match="needs 32 bytes, not 31"):
        decode("YUYV", bytes(31), 4, 4)
