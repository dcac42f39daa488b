# SPDX-License-Identifier: GPL-2.0-or-later
"""The page-state picture colours the right pixels, and its legend names what is shown and nothing else."""

from __future__ import annotations

import numpy as np

from vcapdev.report.picture import luma_offsets
from vcapdev.report.states import UNKNOWN, Piece, states_picture


def test_each_pixel_takes_the_colour_of_its_page() -> None:
    offsets = luma_offsets("YUYV", 64, 2)  # 128 bytes a line
    white = np.full((2, 64, 3), 255, np.uint8)
    picture = states_picture(white, offsets, [Piece(0, 128, "pinned"), Piece(128, 128, "free")])
    assert picture.shape[1] == 64
    assert (picture[0] == picture[0, 0]).all()
    assert picture[0, 0, 1] > picture[0, 0, 0]  # pinned is green
    assert (picture[1] == picture[1, 0]).all()
    assert picture[1, 0, 0] > 2 * picture[1, 0, 1]  # free is red


def test_what_no_piece_covers_is_grey() -> None:
    offsets = luma_offsets("GREY", 32, 2)
    picture = states_picture(np.full((2, 32, 3), 255, np.uint8), offsets, [Piece(32, 32, "pinned")])
    assert len(set(picture[0, 0].tolist())) == 1
    assert picture[1, 0, 1] > picture[1, 0, 0]


def test_the_legend_grows_with_the_states_that_are_seen() -> None:
    offsets = luma_offsets("GREY", 32, 2)
    frame = np.zeros((2, 32, 3), np.uint8)
    one = states_picture(frame, offsets, [Piece(0, 64, "pinned")])
    two = states_picture(frame, offsets, [Piece(0, 32, "pinned"), Piece(32, 32, "a state nobody listed")])
    hidden = states_picture(frame, offsets, [Piece(0, 64, "pinned"), Piece(1 << 20, 8, "beyond the picture")])
    assert two.shape[0] > one.shape[0] == hidden.shape[0]


def test_states_without_a_fixed_colour_differ_from_each_other() -> None:
    offsets = luma_offsets("GREY", 32, 2)
    picture = states_picture(
        np.zeros((2, 32, 3), np.uint8), offsets, [Piece(0, 32, "one thing"), Piece(32, 32, "another thing")]
    )
    assert picture[0, 0].tolist() != picture[1, 0].tolist()


def test_an_empty_list_is_all_unjudged() -> None:
    picture = states_picture(np.zeros((2, 32, 3), np.uint8), luma_offsets("GREY", 32, 2), [])
    assert len(set(picture[0, 0].tolist())) == 1
    assert UNKNOWN == "not judged"
