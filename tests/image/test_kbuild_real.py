# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the altered drivers themselves: they build against the default recipe's kernel, and would load."""

from __future__ import annotations

import pytest

from vcapdev.image.kbuild import build_mutant
from vcapdev.image.modules import ModuleTree, load_order
from vcapdev.image.mutants import mutants
from vcapdev.image.provision import provision
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Terminal


@pytest.mark.network
def test_every_altered_driver_fits_the_stock_kernel() -> None:
    recipe = load_recipe("bookworm-6.1")
    guest = provision(recipe, progress=Terminal())
    tree = ModuleTree(guest.modules)
    for name in [mutant.name for mutant in mutants()]:
        built = build_mutant(recipe, guest, name, Terminal())
        order = [module.info.name for module in load_order(tree, ["bttv"], built)]
        assert order.index("videobuf_core") < order.index("videobuf_dma_sg") < order.index("bttv")
        stock = tree.load("videobuf-dma-sg")
        assert stock is not None
        assert built["videobuf-dma-sg"].read_bytes() != stock.image
