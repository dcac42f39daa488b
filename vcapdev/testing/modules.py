# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that a test brings along: altered drivers by name, and files of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.elf import ElfError
from vcapdev.image.initramfs import wanted_modules
from vcapdev.image.modules import ModuleTree, canonical, parse_modinfo, read_image
from vcapdev.image.ownmodules import own_modules
from vcapdev.progress import Progress
from vcapdev.run.prepare import Prepared
from vcapdev.testing.config import GuestConfig

Variant = Mapping[str, Path]


@dataclass(frozen=True)
class ModuleFile:
    """A module of the host's, ready to be loaded."""

    name: str
    image: bytes


def module_file(path: Path, release: str) -> ModuleFile:
    """Read a module for a guest whose kernel is ``release``.

    :raise UsageError: it is no module, or was built for another kernel: one line.
    """
    try:
        image = read_image(path)
        info = parse_modinfo(image)
    except (ElfError, SetupError) as error:
        raise UsageError(f"{path} cannot be loaded: {error}") from None
    built = (info.vermagic.split() or ["?"])[0]
    if built != release:
        raise UsageError(
            f"{path} was built for the kernel {built}, and the guest's is {release}; build it against that"
            " kernel's headers"
        )
    return ModuleFile(canonical(info.name or path.name.split(".")[0]), image)


def variant_of(config: GuestConfig, prepared: Prepared, progress: Progress) -> Variant:
    """The modules that a test wants in the place of the stock ones, name: file.

    :raise UsageError: no such altered driver, or a file that does not fit the kernel.
    :raise SetupError: it cannot be built.
    """
    if config.mutant is not None:
        from vcapdev.image.kbuild import build_mutant
        from vcapdev.image.recipe import load_recipe

        return build_mutant(load_recipe(config.kernel), prepared.guest, config.mutant, progress)
    tree = ModuleTree(prepared.guest.modules)
    return own_modules(config.modules, tree, wanted_modules(tree, config.swap)) if config.modules else {}
