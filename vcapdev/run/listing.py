# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``vcapdev list`` and ``vcapdev cache`` print."""

from __future__ import annotations

import time
from collections.abc import Iterator

from vcapdev.image.cache import Cache


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
    from vcapdev.image.mutants import mutants

    for mutant in mutants():
        yield mutant.name, f"{mutant.title} (shows as {mutant.rule})"


def cache_listing() -> Iterator[str]:
    """Lines for ``vcapdev cache list``: the largest first, then the sum."""
    cache = Cache()
    for item in cache.list():
        day = time.strftime("%Y-%m-%d", time.localtime(item.last_used))
        yield f"{_megabytes(item.size)}  {day}  {item.kind:<12} {item.label}"
    yield f"{_megabytes(cache.size())}  in {cache.root}"


def cache_prune(everything: bool) -> Iterator[str]:
    """Prune, and lines that say what went."""
    pruned = Cache().prune(unused=True, everything=everything)
    for item in pruned.removed:
        yield f"{_megabytes(item.size)}  removed {item.kind}: {item.label}"
    for item in pruned.in_use:
        yield f"{_megabytes(item.size)}  in use  {item.kind}: {item.label}"
    yield f"{_megabytes(pruned.freed)}  freed"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:8.1f} MB"
