# SPDX-License-Identifier: GPL-2.0-or-later
"""The page-state picture colours the right pixels, and its legend names what is shown and nothing else."""

from __future__ import annotations

import numpy as np

from vcapdev.report.states import Piece, states_picture

WHITE = np.full((2, 64, 3), 255, np.uint8)
GOOD, BAD = "pinned-anon", "free"


def test_each_pixel_takes_the_colour_of_its_page() -> None:
    picture = states_picture(WHITE, [Piece(0, 0, 128, GOOD), Piece(1, 0, 128, BAD)], 16)
    assert picture.shape[1] == 64
    assert (picture[0] == picture[0, 0]).all()
    assert picture[0, 0, 1] > picture[0, 0, 0]  # green
    assert (picture[1] == picture[1, 0]).all()
    assert picture[1, 0, 0] > 2 * picture[1, 0, 1]  # red


def test_a_row_changes_colour_where_the_page_ends() -> None:
    picture = states_picture(WHITE, [Piece(0, 0, 40, GOOD), Piece(0, 40, 88, BAD)], 16)
    assert picture[0, 19, 1] > picture[0, 19, 0]
    assert picture[0, 20, 0] > picture[0, 20, 1]


def test_what_no_piece_covers_is_grey() -> None:
    picture = states_picture(WHITE, [Piece(1, 0, 64, GOOD)], 8)
    assert len(set(picture[0, 0].tolist())) == 1
    assert picture[1, 0, 1] > picture[1, 0, 0]


def test_the_legend_grows_with_the_states_that_are_seen() -> None:
    rows = [Piece(0, 0, 64, GOOD), Piece(1, 0, 64, GOOD)]
    one = states_picture(WHITE, rows, 8)
    two = states_picture(WHITE, [rows[0], Piece(1, 0, 64, "a state nobody listed")], 8)
    outside = states_picture(WHITE, [*rows, Piece(7, 0, 64, BAD), Piece(0, 64, 8, "slab")], 8)
    assert two.shape[0] > one.shape[0] == outside.shape[0]


def test_states_without_a_fixed_colour_differ_from_each_other() -> None:
    picture = states_picture(WHITE, [Piece(0, 0, 64, "one thing"), Piece(1, 0, 64, "another thing")], 8)
    assert picture[0, 0].tolist() != picture[1, 0].tolist()


def test_an_empty_list_is_all_unjudged() -> None:
    picture = states_picture(WHITE, [], 8)
    assert len(set(picture[0, 0].tolist())) == 1
