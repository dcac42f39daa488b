# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that ``--board``, ``--kernel`` and ``--mutant`` accept, each with a few words."""

from __future__ import annotations

from collections.abc import Iterator


def listing(what: str) -> Iterator[tuple[str, str]]:
    """Name and description of every board, recipe or mutant that comes with vcapdev."""
    return {"boards": _boards, "recipes": _recipes, "mutants": _mutants}[what]()


def _boards() -> Iterator[tuple[str, str]]:
    from vcapdev.bt878.board import board_names, load_board

    for name in board_names():
        board = load_board(name)
        yield name, f"{board.title}, {board.subsystem_vendor:04x}:{board.subsystem_device:04x}"


def _recipes() -> Iterator[tuple[str, str]]:
    from vcapdev.image.recipe import load_recipe, recipe_names

    for name in recipe_names():
        yield name, load_recipe(name).description


def _mutants() -> Iterator[tuple[str, str]]:
    from vcapdev.image.kbuild import mutants

    yield from mutants()
