# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev mutants``: build altered drivers, play each, and tell which were caught, and what was blamed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vcapdev.errors import ExitStatus, SetupError, UsageError
from vcapdev.gallery import matrix
from vcapdev.gallery.hand import scene_of
from vcapdev.gallery.mutant_options import MutantOptions
from vcapdev.gallery.scene import Machine, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.kbuild import Builder, check_kernel_has, mutant_change
from vcapdev.image.mutants import Mutant, mutants
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Progress
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen

Files = Mapping[str, Path]


@dataclass
class Cast:
    """Who can play on a kernel: mutants with their scenes and modules, and why the others cannot."""

    playing: list[tuple[Mutant, Scene]] = field(default_factory=list)
    modules: dict[str, Files] = field(default_factory=dict)
    left: list[matrix.Row] = field(default_factory=list)


def run(options: MutantOptions) -> ExitStatus:
    """Play mutants, print their matrix, write it where wanted.

    :raise VcapdevError: no such kernel or mutant, or packages, compiler or guest are not to be had.
    """
    if options.kind == "machine":
        from vcapdev.gallery import machines

        return machines.run(options)
    screen = Screen()
    run_options = RunOptions(kernel=options.kernel, qemu=options.qemu, accel=options.accel)
    with screen.stage("prepare") as stage:
        prepared = prepare(run_options, screen.progress)
        stage.note = f"{options.kernel}, QEMU {prepared.qemu.version} with {prepared.accel.name}"
    with screen.stage("build") as stage:
        cast = assemble(chosen(options.only), run_options, prepared, screen.progress)
        stage.note = f"{len(cast.playing)} altered drivers for Linux {prepared.guest.release}"
    with screen.stage("play") as stage:
        rows = sorted([*play(cast, run_options, prepared, screen), *cast.left], key=lambda row: row.mutant)
        stage.note = ", ".join(f"{count} {name}" for name, count in matrix.totals(rows).items() if count)
    finish(rows, run_options, prepared, options.report)
    return ExitStatus.CLEAN if all(row.good for row in rows) else ExitStatus.FINDINGS


def chosen(only: Sequence[str], directory: Path | None = None) -> list[Mutant]:
    """The hand-made mutants with one of these words in their names.

    :raise UsageError: there is none.
    """
    found = [each for each in mutants(directory) if not only or any(word in each.name for word in only)]
    if not found:
        raise UsageError(
            f"no altered driver has {' or '.join(map(repr, only))} in its name; see: list mutants"
        )
    return found


def assemble(wanted: Sequence[Mutant], options: RunOptions, prepared: Prepared, progress: Progress) -> Cast:
    """Build what this kernel can have; what does not build although it should is told as a row of its own."""
    recipe, cast = load_recipe(options.kernel), Cast()
    builder = Builder(recipe, prepared.guest, progress)
    fitting: dict[str, Mutant] = {}
    for mutant in wanted:
        try:
            change = mutant_change(mutant, recipe)
            check_kernel_has(prepared.guest, change)
        except UsageError as error:
            cast.left.append(matrix.unplayed(mutant, options.kernel, matrix.NOT_HERE, str(error)))
        else:
            fitting[mutant.name] = mutant
    changes = [mutant_change(mutant, recipe) for mutant in fitting.values()]
    for built in builder.build_all(changes):
        mutant = fitting[built.change.name]
        if built.error:
            cast.left.append(matrix.unplayed(mutant, options.kernel, matrix.NOT_BUILT, built.error))
        else:
            cast.modules[mutant.name] = built.modules
            cast.playing.append((mutant, scene_of(mutant)))
    return cast


def play(cast: Cast, options: RunOptions, prepared: Prepared, screen: Screen) -> Iterator[matrix.Row]:
    """Play each, those with the same machine in one boot, those that ruin their guest last."""
    machines = dict.fromkeys(scene.machine for _, scene in cast.playing)
    for machine in machines:
        mine = [(mutant, scene) for mutant, scene in cast.playing if scene.machine == machine]
        mine.sort(key=lambda pair: (pair[1].ruins, pair[0].name))
        yield from _play_on(machine, mine, cast, options, prepared, screen)


def _play_on(
    machine: Machine,
    mine: Sequence[tuple[Mutant, Scene]],
    cast: Cast,
    options: RunOptions,
    prepared: Prepared,
    screen: Screen,
) -> Iterator[matrix.Row]:
    with Stage(options, prepared, cast.modules.__getitem__, machine) as stage:
        for mutant, scene in mine:
            screen.live(f"playing {mutant.name} (guest {stage.boots})")
            row = matrix.judge(mutant, stage.run_scene(scene))
            screen.show(matrix.table([row]))
            yield row


def finish(rows: Sequence[matrix.Row], options: RunOptions, prepared: Prepared, report: Path | None) -> None:
    """Print the sums, write the report."""
    counts = matrix.totals(rows)
    for name, count in counts.items():
        if count:
            print(f"{count:5} {name}" + (f": {matrix.MEANING[name]}" if name in matrix.MEANING else ""))
    bad = [row.mutant for row in rows if not row.good]
    print(f"not as it must be: {', '.join(bad)}" if bad else "all as they must be")
    sys.stdout.flush()
    if report is None:
        return
    about: dict[str, Any] = {
        "kernel": options.kernel,
        "release": prepared.guest.release,
        "when": time.strftime("%Y-%m-%d"),
        "qemu": prepared.qemu.version,
        "accelerator": prepared.accel.name,
        "packages": prepared.packages(),
    }
    try:
        report.mkdir(parents=True, exist_ok=True)
        (report / "mutants.json").write_text(matrix.to_json(rows, about), encoding="utf-8")
        (report / "mutants.md").write_text(matrix.markdown(rows, about), encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"--report {report}: {error.strerror}; name a directory that can be written"
        ) from None
