# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that a run needs before a guest can boot: kernel, QEMU, accelerator, modules, initramfs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vcapdev.bt878.board import load_board
from vcapdev.image.cache import Cache
from vcapdev.image.initramfs import build_initramfs, wanted_modules
from vcapdev.image.lock import Package
from vcapdev.image.modules import ModuleTree, built_kernel
from vcapdev.image.ownmodules import installed_tree, own_modules, release_of
from vcapdev.image.programs import build_programs
from vcapdev.image.provenance import describe_modules, packages_of_build
from vcapdev.image.provision import Provisioned, provision
from vcapdev.image.recipe import load_recipe
from vcapdev.image.sources import kernel_version
from vcapdev.progress import Progress
from vcapdev.report.model import Kernel, QemuInfo
from vcapdev.run.options import RunOptions
from vcapdev.vm.accel import Accel, choose_accel
from vcapdev.vm.kernel_image import quick_kernel
from vcapdev.vm.qemu import Qemu, named_program, provision_qemu

PROGRAMS = ("vcap-agent", "vcap-capture", "vcap-edges", "vcap-pressure", "vcap-scene")


@dataclass(frozen=True)
class Prepared:
    """A guest, ready to boot."""

    guest: Provisioned
    qemu: Qemu
    accel: Accel
    kernel: Path
    initrd: Path
    overrides: dict[str, Path]  # module name: file that replaces the stock one
    built_from: tuple[dict[str, Any], ...] = ()  # packages of a mutant's build

    def describe_kernel(self, options: RunOptions) -> Kernel:
        """For the report."""
        replaced = [] if options.mutant else [str(path) for path in options.modules]
        return Kernel(
            options.kernel, self.guest.release, str(self.guest.kernel), replaced, options.mutant,
            describe_modules(self.overrides), list(self.built_from),
        )  # fmt: skip

    def describe_qemu(self) -> QemuInfo:
        """For the report."""
        return QemuInfo(self.qemu.version, self.qemu.source, self.accel.name, self.accel.why)

    def packages(self) -> list[dict[str, Any]]:
        """Every package that took part, for the report."""
        return [_package(package) for package in (*self.guest.packages, *self.qemu.packages)]

    def write_lock(self, path: Path, kernel: Kernel | None = None) -> None:
        """Write the lock file that pins a later run to these packages (``--lock``).

        :param kernel: as described; its replaced modules are told of, too.
        """
        resolution = self.qemu.resolution
        built = None
        if kernel is not None and kernel.modules:
            built = {name: getattr(kernel, name) for name in ("mutant", "built_from", "modules")}
        self.guest.write_lock(path, *([resolution] if resolution is not None else []), built=built)

    def warnings(self) -> list[str]:
        """What is worth knowing of where things came from."""
        return list(dict.fromkeys([*self.guest.warnings, *self.qemu.warnings]))


def _package(package: Package) -> dict[str, Any]:
    return {name: getattr(package, name) for name in ("name", "version", "sha256", "suite")}


def prepare(options: RunOptions, progress: Progress) -> Prepared:
    """Fetch, build and choose; nearly all of it comes from the cache in a second run.

    :raise UsageError: a recipe, board, mutant or file that does not exist, or does not fit the kernel.
    :raise SetupError: packages, network, disk, compiler: one line, and the cache stays usable.
    """
    _refuse_early(options)
    recipe = load_recipe(options.kernel)
    guest = provision(recipe, progress=progress, lock=options.lock, refresh=options.refresh)
    qemu = provision_qemu(options.qemu, progress, lock=options.lock, refresh=options.refresh)
    accel = choose_accel(qemu, options.accel)
    built_from: list[dict[str, Any]] = []
    if options.mutant is not None:
        from vcapdev.image.kbuild import build_mutant

        overrides = build_mutant(recipe, guest, options.mutant, progress)
        built_from = packages_of_build(kernel_version(guest), Cache())
    else:
        guest, own = _own_kernel(guest, options)
        tree = ModuleTree(guest.modules)
        overrides = own_modules(own, tree, wanted_modules(tree, options.swap)) if own else {}
    programs = build_programs(PROGRAMS, progress)
    modules = wanted_modules(ModuleTree(guest.modules), options.swap)
    initrd = build_initramfs(
        guest, programs=programs, modules=modules, overrides=overrides, progress=progress
    )
    kernel = quick_kernel(guest.kernel, accel.name)
    return Prepared(guest, qemu, accel, kernel, initrd, overrides, tuple(built_from))


def _refuse_early(options: RunOptions) -> None:
    """What is wrong about the user's own things is told before anything is fetched or booted."""
    if options.board is not None:
        load_board(options.board)
    if options.kdir is not None:
        built_kernel(options.kdir)
    if options.qemu is not None:
        named_program(options.qemu)


def _own_kernel(guest: Provisioned, options: RunOptions) -> tuple[Provisioned, list[Path]]:
    """The user's kernel in the place of the recipe's, and what is left of his modules to replace stock ones.

    With ``--kdir`` all modules are that tree's; with ``--kimg`` those of a ``--modules`` that has a whole
    kernel's, if there is one.
    """
    own = list(options.modules)
    if options.kdir is not None:
        built = built_kernel(options.kdir)
        guest = replace(guest, release=built.release, kernel=built.kernel, modules=built.modules)
    if options.kimg is not None:
        guest = replace(guest, kernel=options.kimg)
        for path in [path for path in own if path.is_dir()]:
            tree = installed_tree(path)
            if tree is not None:
                guest = replace(guest, modules=tree, release=release_of(ModuleTree(tree)))
                own.remove(path)
    return guest, own
