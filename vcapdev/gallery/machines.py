# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev mutants --kind machine``: small changes to the driver's C, and what catches each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import ExitStatus, SetupError, UsageError
from vcapdev.gallery import machine_report
from vcapdev.gallery.acts import ACTS
from vcapdev.gallery.csource import functions
from vcapdev.gallery.machine import Caught, Equivalence, Fate, Machine
from vcapdev.gallery.mutant_options import MutantOptions
from vcapdev.gallery.mutate import Mutation, choose, mutations
from vcapdev.gallery.reach import unreached
from vcapdev.gallery.stage import Stage
from vcapdev.image.drivertree import Change
from vcapdev.image.kbuild import Builder, Built
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen

_OLD = "drivers/media/v4l2-core/videobuf-dma-sg.c"
_NEW = (
    "drivers/media/common/videobuf2/videobuf2-dma-sg.c",
    "drivers/media/common/videobuf2/frame_vector.c",
)
_BOTH = ("drivers/media/pci/bt8xx/bttv-risc.c", "drivers/media/pci/bt8xx/bttv-vbi.c")
_KNOWN = Path(__file__).with_name("equivalents.yaml")
_SPARE = 3  # so many times as many are made as are wanted: not every change compiles


def run(options: MutantOptions) -> ExitStatus:
    """Make, build and play; print the sums, and write all fates where wanted.

    :raise VcapdevError: no such kernel, or packages, compiler or guest are not to be had.
    """
    screen = Screen()
    run_options = RunOptions(kernel=options.kernel, qemu=options.qemu, accel=options.accel)
    with screen.stage("prepare") as stage:
        prepared = prepare(run_options, screen.progress)
        stage.note = f"{options.kernel}, QEMU {prepared.qemu.version} with {prepared.accel.name}"
    builder = Builder(load_recipe(options.kernel), prepared.guest, screen.progress)
    fates = _play(options, run_options, prepared, builder, screen)
    print(machine_report.totals_text(fates), end="", flush=True)
    if options.report is not None:
        machine_report.write(options.report, fates, _about(options, prepared))
    return ExitStatus.CLEAN


def sources(root: Path) -> dict[str, str]:
    """What this kernel's bttv is made of, file by file: videobuf until 6.5, videobuf2 since."""
    there = [file for file in (_OLD, *_NEW, *_BOTH) if (root / file).is_file()]
    used = [file for file in there if _OLD not in there or file not in _NEW]
    return {file: (root / file).read_text(encoding="utf-8", errors="surrogateescape") for file in used}


def candidates(texts: Mapping[str, str], only: Sequence[str]) -> list[Mutation]:
    """All changes that can be made, with one of the words in their names.

    :raise UsageError: there is none.
    """
    every = [one for file, text in texts.items() for one in mutations(file, text)]
    found = [one for one in every if not only or any(word in one.name for word in only)]
    if not found:
        raise UsageError(f"no change by machine has {' or '.join(map(repr, only))} in its name")
    return found


def _play(
    options: MutantOptions, run_options: RunOptions, prepared: Prepared, builder: Builder, screen: Screen
) -> list[Fate]:
    modules: dict[str, Mapping[str, Path]] = {}
    texts = sources(builder.tree.source)
    names = [function.name for text in texts.values() for function in functions(text)]
    order = in_turn(candidates(texts, options.only), options.count * _SPARE)
    with Stage(run_options, prepared, modules.__getitem__) as stage:
        with screen.stage("reach") as step:
            left = unreached(stage, ACTS, names)
            step.note = f"the acts run all but {len(left)} of {len(names)} functions"

        def build(wanted: Change) -> Built:
            return builder.build(wanted, Silent(), 1)

        machine = Machine(stage, build, texts, load_equivalents(), left, modules)
        return _until(machine, order, options.count, screen)


def in_turn(found: Sequence[Mutation], most: int) -> list[Mutation]:
    """The order to play in: every beginning of it is spread as evenly as the whole."""
    order: list[Mutation] = []
    size = 1
    while len(order) < min(most, len(found)):
        size = min(size * 2, most)
        known = set(order)
        order += [one for one in choose(found, size) if one not in known]
    return order


def _until(machine: Machine, order: Sequence[Mutation], wanted: int, screen: Screen) -> list[Fate]:
    """Play until so many that compile have met their fate."""
    fates: list[Fate] = []
    compiled = 0
    with screen.stage("play") as step:
        for fate in machine.play(order):
            fates.append(fate)
            compiled += fate.caught is not Caught.BROKEN
            screen.show(machine_report.line(fate))
            screen.live(f"{compiled} of {wanted} (guest {machine.stage.boots})")
            if compiled >= wanted:
                break
        step.note = f"{compiled} of {len(fates)} changes compiled, {machine.stage.boots} boots"
    return fates


def load_equivalents(path: Path = _KNOWN) -> list[Equivalence]:
    """What people have found out about changes that change nothing.

    :raise SetupError: the file is not as it must be.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or []
        return [
            Equivalence(**{name: str(one[name]) for name in ("file", "function", "title", "reason")})
            for one in data
        ]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise SetupError(
            f"{path.name} cannot be read ({error}); it is part of vcapdev: install it again"
        ) from None


def _about(options: MutantOptions, prepared: Prepared) -> dict[str, Any]:
    return {
        "kernel": options.kernel,
        "release": prepared.guest.release,
        "qemu": prepared.qemu.version,
        "accelerator": prepared.accel.name,
        "packages": prepared.packages(),
    }
