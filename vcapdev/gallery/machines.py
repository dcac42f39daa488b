# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev mutants --kind machine``: small changes to the driver's C, and what catches each of them."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcapdev import __version__
from vcapdev.errors import ExitStatus, SetupError, UsageError
from vcapdev.gallery import machine_page, machine_report, scene
from vcapdev.gallery.acts import BOUNCING, GROUND, Act, acts_on
from vcapdev.gallery.equivalents import load_equivalents
from vcapdev.gallery.machine import Caught, Equivalence, Fate, Machine
from vcapdev.gallery.mutant_options import MutantOptions
from vcapdev.gallery.mutate import Mutation, choose, mutations
from vcapdev.gallery.reach import MARKED, Reach, change_of, marked, reach_of, statements_in
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
Json = dict[str, Any]

_SPARE = 3  # so many times as many are made as are wanted: not every change compiles


def run(options: MutantOptions) -> ExitStatus:
    """Make, build and play; print the sums, and write all fates where wanted.

    :raise VcapdevError: no such kernel, or packages, compiler or guest are not to be had.
    """
    for kernel in options.kernels:
        fates, about = _run_on(options.on(kernel))
        if options.page is not None:
            machine_page.write(options.page, fates, about, load_equivalents())
    return ExitStatus.CLEAN


def _run_on(options: MutantOptions) -> tuple[list[Fate], Json]:
    screen = Screen()
    run_options = RunOptions(kernel=options.kernel, qemu=options.qemu, accel=options.accel, cold=False)
    with screen.stage("prepare") as stage:
        prepared = prepare(run_options, screen.progress)
        stage.note = f"{options.kernel}, QEMU {prepared.qemu.version} with {prepared.accel.name}"
    builder = Builder(load_recipe(options.kernel), prepared.guest, screen.progress)
    fates, about = earlier(options, _about(options, prepared))
    try:
        _play(options, run_options, prepared, builder, screen, fates, about)
    except KeyboardInterrupt as end:
        if options.report is not None and fates:
            end.add_note(f"what was found out so far is in {options.report}; --resume goes on from there")
        raise
    finally:  # what was found out before something went wrong counts, too
        print(machine_report.totals_text(fates), end="", flush=True)
        _keep(options, screen, fates, about)
    return fates, about


#: What must be the same for a run to go on.
_SAME = ("vcapdev", "kernel", "release", "qemu", "accelerator", "packages")


def earlier(options: MutantOptions, about: Json) -> tuple[list[Fate], Json]:
    """What an interrupted run has found out, where this one goes on with it.

    :raise UsageError: that was another kernel, or a change of it was played with other things.
    """
    if options.resume and options.report is None:
        raise UsageError("--resume needs --report DIR: what was found out is there")
    if not options.resume or options.report is None or not (options.report / machine_report.REPORT).exists():
        return [], about
    fates, before = machine_report.read(options.report)
    if different := [name for name in _SAME if before.get(name) != about[name]]:
        raise UsageError(
            f"--resume: the report in {options.report} was made with another {', '.join(different)};"
            " name another directory, or leave out --resume"
        )
    more = {"sittings": before.get("sittings", 1) + 1, "took_before": before.get("took", {})}
    return fates, about | more | {name: before[name] for name in ("load", "boots") if name in before}


def _keep(options: MutantOptions, screen: Screen, fates: Sequence[Fate], about: Json) -> None:
    """Write what is known so far, where that is wanted."""
    if options.report is not None or options.page is not None:
        took = dict(about.get("took_before", {}))
        for name, seconds in screen.stages.items():
            took[name] = took.get(name, 0) + round(seconds)
        about["took"] = took
    if options.report is not None:
        machine_report.write(options.report, fates, about)


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


@dataclass(frozen=True)
class Ground:
    """What is found out with the driver as it is, before any change: statements by act, settings by act."""

    reach: Reach
    settings: Mapping[str, Mapping[str, int]]
    statements: int


def _play(
    options: MutantOptions,
    run_options: RunOptions,
    prepared: Prepared,
    builder: Builder,
    screen: Screen,
    fates: list[Fate],
    about: Json,
) -> None:
    """Find out what the acts run, and play; fills ``fates`` and ``about``."""
    modules: dict[str, Mapping[str, Path]] = {}
    texts = sources(builder.tree.source)
    every = candidates(texts, options.only)
    acts = {act.name: act for act in acts_on(options.kernel)}

    def build(wanted: Change) -> Built:
        return builder.build(wanted, Silent(), 1)

    with (
        Stage(run_options, prepared, modules.__getitem__, GROUND) as stage,
        Stage(run_options, prepared, modules.__getitem__, BOUNCING) as bouncing,
    ):
        others = {BOUNCING: bouncing}
        with screen.stage("reach") as step:
            ground = survey(stage, list(acts.values()), texts, build, modules, others)
            left = [one for one in every if not ground.reach.acts((one.file, one.needs))]
            step.note = (
                f"of {len(every)} changes that can be made, {len(left)} are in statements that no act runs"
            )
        runs = [one for one in every if one not in set(left)]

        def acts_of(mutant: Mutation) -> list[Act]:
            return [acts[name] for name in ground.reach.acts((mutant.file, mutant.needs))]

        machine = Machine(stage, build, texts, acts_of, ground.settings, load_equivalents(), modules, others)
        about |= about_ground(every, left, ground)
        load = about.get("load") or {"before": os.getloadavg()[0], "each": []}
        boots = about.get("boots", 0)

        def told(_: Fate) -> None:
            load["each"].append(round(os.getloadavg()[0], 1))
            about["load"] = load | {"median": statistics.median(load["each"])}
            about["boots"] = boots + machine.boots
            _keep(options, screen, fates, about)

        known = {fate.mutation for fate in fates}
        order = [one for one in in_turn(runs, options.count * _SPARE) if one not in known]
        _until(machine, order, options.count, screen, fates, told)


def survey(
    stage: Stage,
    acts: Sequence[Act],
    texts: Mapping[str, str],
    build: Callable[[Change], Built],
    modules: dict[str, Mapping[str, Path]],
    others: Mapping[scene.Machine, Stage] | None = None,
) -> Ground:
    """Play all acts with the driver as it is, but for marks, forwards and backwards.

    :raise SetupError: the marked driver does not compile. :raise GuestError: an act does not go well.
    """
    marks = [marked(file, text) for file, text in texts.items()]
    built = build(change_of(marks))
    if built.error:
        raise SetupError(f"the driver does not compile with marks: {built.error}")
    modules[MARKED] = built.modules
    reach, first = reach_of(stage, acts, marks, others)
    _, again = reach_of(stage, acts[::-1], marks, others)  # what depends on the act before is not compared
    settings = {
        name: {each: value for each, value in found.items() if again[name].get(each) == value}
        for name, found in first.items()
    }
    del modules[MARKED]
    return Ground(reach, settings, statements_in(marks))


def about_ground(every: Sequence[Mutation], left: Sequence[Mutation], ground: Ground) -> Json:
    """What can be changed at all, and what nothing runs, for the report."""
    by_function = Counter((one.file.rpartition("/")[2], one.function) for one in left)
    ran = {place for found in ground.reach.by_act.values() for place in found} | ground.reach.loading
    return {
        "can_be_made": len(every),
        "in_statements_never_run": len(left),
        "statements": ground.statements,
        "statements_run": len(ran),
        "never_run": [
            {"file": file, "function": function, "changes": count}
            for (file, function), count in sorted(by_function.items())
        ],
    }


def stale(known: Sequence[Equivalence], mutants: Sequence[Mutation]) -> list[Equivalence]:
    """Entries that name no change that the generator makes of any of these files."""
    files = {one.file.rpartition("/")[2] for one in mutants}
    return [one for one in known if one.file in files and not any(map(one.covers, mutants))]


def in_turn(found: Sequence[Mutation], most: int) -> list[Mutation]:
    """The order to play in: every beginning of it is spread as evenly as the whole."""
    order: list[Mutation] = []
    size = 1
    while len(order) < min(most, len(found)):
        size = min(size * 2, most)
        known = set(order)
        order += [one for one in choose(found, size) if one not in known]
    return order


def _until(
    machine: Machine,
    order: Sequence[Mutation],
    wanted: int,
    screen: Screen,
    fates: list[Fate],
    told: Callable[[Fate], None],
) -> None:
    """Play until so many that compile have met their fate; ``told`` hears of each."""
    compiled = sum(fate.caught is not Caught.BROKEN for fate in fates)
    with screen.stage("play") as step:
        for fate in machine.play(order if compiled < wanted else ()):
            fates.append(fate)
            compiled += fate.caught is not Caught.BROKEN
            told(fate)
            screen.show(machine_report.line(fate))
            screen.live(f"{compiled} of {wanted} (guest {machine.boots})")
            if compiled >= wanted:
                break
        step.note = f"{compiled} of {len(fates)} changes compiled, {machine.boots} boots"


def _about(options: MutantOptions, prepared: Prepared) -> Json:
    return {
        "vcapdev": __version__,
        "kernel": options.kernel,
        "release": prepared.guest.release,
        "when": time.strftime("%Y-%m-%d"),
        "cpus": len(os.sched_getaffinity(0)),
        "qemu": prepared.qemu.version,
        "accelerator": prepared.accel.name,
        "packages": prepared.packages(),
    }
