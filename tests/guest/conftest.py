# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests for tests, made from the product's own provisioning (so from its cache, or the network)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from vcapdev.gallery.stage import Stage
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.recipe import load_recipe, recipe_names
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """Kernel, initramfs, QEMU and accelerator of the default recipe."""
    return prepare(RunOptions(), Silent())


@pytest.hookimpl(trylast=True)  # pytest itself sorts by parameters, and starts a kernel again and again
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that play on ``stage`` come last, those of one kernel together: it boots once for all of them."""
    kernels = recipe_names()

    def place(item: pytest.Item) -> int:
        call = getattr(item, "callspec", None)
        kernel = call.params.get("stage") if call is not None else None
        return 1 + kernels.index(kernel) if kernel in kernels else 0

    items.sort(key=place)


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage of the kernel that the test is parametrized with; others play on it, too.

    It has every altered driver of guest/mutants, built when a scene first asks for it.
    """
    options, recipe = RunOptions(kernel=request.param, cold=False), load_recipe(request.param)
    prepared = prepare(options, Silent())

    @cache
    def driver(name: str) -> dict[str, Path]:
        return build_mutant(recipe, prepared.guest, name, Silent())

    with Stage(options, prepared, driver) as stage:
        yield stage
