# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that a user brings along: files, and directories of them, in the places of the stock ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.elf import ElfError
from vcapdev.image.modules import (
    ModuleInfo,
    ModuleTree,
    canonical,
    load_order,
    module_name,
    parse_modinfo,
    read_image,
)

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst")
_MOST = 64  # modules of a directory that are all taken; of more only what the guest loads
_SIGNS = ("modules.order", "modules.dep", "kernel")


def own_modules(paths: Sequence[Path], stock: ModuleTree, wanted: Iterable[str]) -> dict[str, Path]:
    """What is to be loaded in the place of stock modules, or besides: files by name, dependencies first.

    Of a directory that holds a whole kernel's modules these are the ones that the guest loads anyhow, and
    what they need. A stock module that one of them newly needs is among the result as well.

    :param paths: files, and directories that are searched to the bottom.
    :param wanted: names of the modules that the guest loads, without their dependencies.
    :raise UsageError: a file is no module or was built for another kernel, a directory has none, or two files
        are the same module.
    :raise SetupError: one needs a module that is nowhere.
    """
    usual = [canonical(_name(module.source)) for module in load_order(stock, wanted)] if paths else []
    own: dict[str, Path] = {}
    for path in paths:
        for file in _chosen(path, stock, usual) if path.is_dir() else [path]:
            name = module_name(file)
            if name in own:
                raise UsageError(f"{file}: {own[name]} is the module {name} already; give one of them")
            own[name] = file
    order = load_order(stock, wanted, own) if own else []
    names = [(canonical(_name(module.source)), module.source) for module in order]
    by_file = {file: name for name, file in own.items()}
    return {by_file.get(file, name): file for name, file in names if file in by_file or name not in usual}


def installed_tree(directory: Path) -> Path | None:
    """Where the modules of a whole kernel are, laid out as in /lib/modules/RELEASE; None where they are not.

    :param directory: that one, or what ``make modules_install`` was given as INSTALL_MOD_PATH.
    :raise UsageError: modules of several kernels are installed there.
    """
    if any((directory / sign).exists() for sign in _SIGNS):
        return directory
    below = sorted(path for path in (directory / "lib/modules").glob("*") if path.is_dir())
    if len(below) > 1:
        releases = ", ".join(path.name for path in below)
        raise UsageError(
            f"--modules {directory} holds those of {releases}; name the directory of one of them"
        )
    return below[0] if below else None


def release_of(tree: ModuleTree) -> str:
    """The release of the kernel that modules were built for, by what they say."""
    return (tree.any_module().info.vermagic.split() or [""])[0]


def _chosen(directory: Path, stock: ModuleTree, usual: Sequence[str]) -> list[Path]:
    """The modules to take from a directory."""
    found: dict[str, Path] = {}
    for path in _walked(directory):
        name = canonical(_name(path))
        if name in found:
            raise UsageError(f"{path}: {found[name]} is the module {name} already; leave one of them")
        found[name] = path
    if not found:
        raise UsageError(f"--modules {directory} holds no kernel modules (*.ko); build them: make modules")
    if len(found) <= _MOST:
        return list(found.values())
    names = [name for name in usual if name in found]
    for name in names:  # grows meanwhile
        needed = map(canonical, _read(found[name]).depends)
        names += [each for each in needed if each in found and each not in names]
    return [found[name] for name in names]


def _read(path: Path) -> ModuleInfo:
    try:
        return parse_modinfo(read_image(path))
    except (ElfError, SetupError) as error:
        raise UsageError(f"--modules: {path}: {error}") from None


def _walked(directory: Path) -> list[Path]:
    """All modules below, in a stable order."""
    return sorted(
        Path(top, name) for top, _, files in os.walk(directory) for name in files if name.endswith(_SUFFIXES)
    )


def _name(path: Path) -> str:
    """A module's name by that of its file."""
    return path.name.partition(".ko")[0]
