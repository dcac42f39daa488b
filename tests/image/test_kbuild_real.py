# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the building of drivers for real kernels, those of all recipes: what is built would load there."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from vcapdev.image.drivertree import Change
from vcapdev.image.elf import Elf
from vcapdev.image.kbuild import Builder, mutant_change
from vcapdev.image.modules import ModuleTree, canonical, load_order
from vcapdev.image.mutants import mutants
from vcapdev.image.parts import driver_modules, module_files
from vcapdev.image.provision import Provisioned, provision
from vcapdev.image.recipe import load_recipe, recipe_names
from vcapdev.progress import Silent, Terminal

RISC = "drivers/media/pci/bt8xx/bttv-risc.c"
VIDEOBUF = {"bullseye-5.10", "bookworm-6.1"}

pytestmark = pytest.mark.network


class Steps(Silent):
    """Counts what make does."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, done: int) -> None:
        self.done = max(self.done, done)


def prepared(kernel: str) -> tuple[Builder, Provisioned]:
    recipe = load_recipe(kernel)
    guest = provision(recipe, progress=Terminal())
    return Builder(recipe, guest, Terminal()), guest


@pytest.mark.parametrize("kernel", recipe_names())
def test_the_driver_as_it_is_would_load_and_is_all_of_the_stack(kernel: str) -> None:
    builder, guest = prepared(kernel)
    modules = builder.modules(Change("unaltered"))
    stack = "videobuf" if kernel in VIDEOBUF else "videobuf2"
    assert {"bttv", f"{stack}-dma-sg"} <= set(modules)
    stock = ModuleTree(guest.modules)
    order = [module.info.name for module in load_order(stock, ["bttv"], modules)]
    assert set(map(canonical, modules)) <= set(order), "bttv uses each of them"
    for name, path in modules.items():
        module = stock.load(name)
        assert module is not None
        assert path.read_bytes() != module.image
        assert Elf(path.read_bytes()).section(".BTF") == Elf(module.image).section(".BTF")


@pytest.mark.parametrize("kernel", recipe_names())
def test_of_an_altered_driver_only_the_altered_file_is_compiled(kernel: str, tmp_path: Path) -> None:
    tree = prepared(kernel)[0].tree
    sources = [file for name in driver_modules(tree.source) for file in module_files(tree.source, name)]
    before = (tree.source / RISC).read_bytes()
    steps = Steps()
    (built,) = tree.build(Change("one", texts={RISC: b"/* altered */\n" + before}), tmp_path, steps)
    assert built.name == "bttv.ko"
    # Its object, bttv's, modpost, bttv.mod.o, bttv.ko, and a module or two that follow modpost.
    assert 3 <= steps.done < len([file for file in sources if file.endswith(".c")])


@pytest.mark.parametrize("kernel", ["bookworm-6.1", "trixie-6.12"])
def test_altered_drivers_fit_their_kernel(kernel: str) -> None:
    builder, _guest = prepared(kernel)
    framework = "/videobuf-" if kernel in VIDEOBUF else "/videobuf2/"
    meant = [
        mutant_change(mutant, load_recipe(kernel))
        for mutant in mutants()
        if all(framework in file for file in mutant.files)
        and any(fnmatchcase(kernel, glob) for glob in mutant.kernels)
    ]
    assert len(meant) >= 2
    assert [(built.change.name, built.error) for built in builder.build_all(meant) if built.error] == []
