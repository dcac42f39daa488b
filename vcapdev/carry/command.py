# SPDX-License-Identifier: GPL-2.0-or-later
"""Prepare each kernel's guest as a run would, note what of the cache that took, and pack it."""

from __future__ import annotations

import datetime
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from vcapdev import __version__
from vcapdev.carry.options import CarryOptions
from vcapdev.errors import ExitStatus, SetupError
from vcapdev.image.bundlefile import Manifest, Writer
from vcapdev.image.cache import Cache
from vcapdev.image.foreign import FOREIGN, foreign_program
from vcapdev.image.foreign import KIND as FOREIGN_KIND
from vcapdev.image.lock import Resolution, dump_lock, write_lock
from vcapdev.image.programs import build_programs, sources_digest
from vcapdev.image.recipe import load_recipe
from vcapdev.image.sources import driver_sources, header_tree, kernel_version
from vcapdev.image.toolchain import choose_toolchain
from vcapdev.progress import Progress
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import vm_config
from vcapdev.run.prepare import PROGRAMS, Prepared, prepare
from vcapdev.run.screen import Screen
from vcapdev.vm.qemu import debian_qemu
from vcapdev.vm.snapshot import snapshot_of

#: What a guest is started from; modules that were built from diffs are built again where they are wanted.
_KINDS = (
    "packages", "programs", "initramfs", "vmlinux", "snapshots", "headers", "sources", "toolchains",
    FOREIGN_KIND,
)  # fmt: skip
_SWAPS = ("disk", "none")  # of the snapshots: a run's default, and a test's


def run(options: CarryOptions) -> ExitStatus:
    """Prepare and write.

    :raise VcapdevError: what kept it from being prepared, or written.
    """
    screen = Screen()
    used = Cache.used = {}
    kernels: dict[str, str] = {}
    locked: dict[str, Resolution] = {}
    for name in options.kernels:
        with screen.stage("prepare") as stage:
            prepared = _prepared(name, options, screen.progress)
            stage.note = f"{name}, {prepared.guest.release}, QEMU {prepared.qemu.version}"
        kernels[name] = prepared.guest.release
        locked[prepared.guest.resolution.recipe] = prepared.guest.resolution
        if prepared.qemu.resolution is not None:
            locked[prepared.qemu.resolution.recipe] = prepared.qemu.resolution
    if options.foreign:
        with screen.stage("prepare") as stage:
            stage.note = ", ".join(_foreign(screen.progress))
    manifest = Manifest(
        __version__,
        datetime.date.today().isoformat(),
        kernels,
        json.loads(dump_lock(locked.values())),
        dict(_programs(screen.progress)),
    )
    with screen.stage("pack") as stage:
        size = write(options.path, manifest, list(used), screen.progress)
        stage.note = f"{options.path}: {size / 1e6:.0f} MB"
    print(f"on another machine: vcapdev run --offline {options.path.name} --kernel {options.kernels[0]}")
    return ExitStatus.CLEAN


def lock(path: Path, kernels: tuple[str, ...], *, refresh: bool) -> ExitStatus:
    """Write the lock file of these kernels' guests and their QEMU.

    :raise VcapdevError: the packages cannot be had, or the file not be written.
    """
    screen = Screen()
    found: dict[str, Resolution] = {}
    for name in kernels:
        with screen.stage("resolve") as stage:
            prepared = prepare(RunOptions(kernel=name, refresh=refresh), screen.progress)
            qemu = prepared.qemu if prepared.qemu.resolution is not None else debian_qemu(screen.progress)
            for one in (prepared.guest.resolution, qemu.resolution):
                if one is not None:
                    found[one.recipe] = one
            stage.note = f"{name}, {prepared.guest.release}"
    try:
        write_lock(path, found.values())
    except OSError as error:
        raise SetupError(f"the lock file {path} cannot be written: {error.strerror}") from None
    return ExitStatus.CLEAN


def _prepared(name: str, options: CarryOptions, progress: Progress) -> Prepared:
    """Have in the cache all that a guest of this kernel takes, with the QEMU of the package."""
    run_options = RunOptions(kernel=name, lock=options.lock)
    prepared = prepare(run_options, progress)
    if prepared.qemu.resolution is None:  # it is the machine's own, which cannot be carried
        prepared = replace(prepared, qemu=debian_qemu(progress, lock=options.lock))
    if options.snapshots:
        for swap in _SWAPS:
            config = vm_config(replace(run_options, swap=swap), prepared, Path(tempfile.gettempdir()))
            snapshot_of(config, progress, name=name)
    if options.building:
        recipe, version, cache = load_recipe(name), kernel_version(prepared.guest), Cache()
        headers = header_tree(recipe, version, progress, cache)
        choose_toolchain(recipe, headers, version.release, progress, cache, private=True)
        driver_sources(recipe, version, progress, cache)
    return prepared


def _programs(progress: Progress) -> Iterator[tuple[str, list[str]]]:
    for name, path in build_programs(PROGRAMS, progress).items():
        yield name, [sources_digest(name), path.parent.parent.name]


def _foreign(progress: Progress) -> Iterator[str]:
    """Have the programs of other people in the cache that scenarios bring into guests."""
    for program in FOREIGN.values():
        try:
            foreign_program(program, progress)
        except SetupError as error:
            raise SetupError(f"{error}; --no-ffmpeg makes a bundle without it") from None
        yield program.label


def _length(place: Path) -> int:
    """Bytes of all files below, holes included."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def _advance(progress: Progress, before: int, more: int) -> None:
    progress.advance(before + more)


def write(path: Path, manifest: Manifest, used: list[tuple[str, str]], progress: Progress) -> int:
    """Pack these entries of the cache; returns the size of the file in bytes.

    :raise SetupError: the disk is full.
    """
    cache = Cache()
    wanted = [(kind, key) for kind, key in used if kind in _KINDS]
    contents = {each: cache.root / each[0] / each[1] for each in wanted}
    progress.start(f"Packing {path.name}", sum(map(_length, contents.values())))
    done = 0
    with Writer(path) as writer:
        for (kind, key), place in contents.items():
            label = str(json.loads((place / "entry.json").read_text(encoding="utf-8"))["label"])
            writer.add(kind, key, label, place / "content", partial(_advance, progress, done))
            done += writer.items[-1].unpacked
        writer.finish(replace(manifest, items=writer.items))
    progress.finish(f"{len(wanted)} entries")
    return path.stat().st_size
