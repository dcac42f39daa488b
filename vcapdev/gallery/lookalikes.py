# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev lookalikes``: play every legitimate scene on every kernel; the checker must stay silent."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from vcapdev.errors import ExitStatus, UsageError
from vcapdev.gallery import provenance
from vcapdev.gallery.lookalike import Lookalike, Played, Result, judge, not_played
from vcapdev.gallery.lookalike_options import LookalikeOptions, drawn_seed
from vcapdev.gallery.lookalike_report import summary, write_report
from vcapdev.gallery.lookalike_scenes import all_lookalikes
from vcapdev.gallery.scene import Machine, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.modules import ModuleTree, canonical, load_order
from vcapdev.image.recipe import recipe_names
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen

_MODULES = "/tmp/vcap-lookalike"  # in the guest


def from_arguments(args: argparse.Namespace) -> LookalikeOptions:
    """:raise UsageError: no such kernel, or no scene of such a name."""
    known = recipe_names()
    for kernel in args.kernel:
        if kernel not in known:
            raise UsageError(f"--kernel {kernel}: there are {', '.join(known)}")
    for name in args.names:
        if not any(name in lookalike.name for lookalike in all_lookalikes()):
            raise UsageError(f"-k {name}: no scene has this in its name; --list names them")
    return LookalikeOptions(
        tuple(args.kernel), tuple(args.names), args.report, args.listing,
        args.audit, drawn_seed(args.audit_seed),
    )  # fmt: skip


def lookalikes(options: LookalikeOptions) -> int:
    """Play them; the exit status says whether the checker cried wolf, or a scene was empty.

    :raise VcapdevError: what is wrong with the machine or the options.
    """
    chosen = chosen_scenes(options.names)
    if options.listing:
        for lookalike in chosen:
            print(f"{lookalike.name:<20} {' '.join(lookalike.states):<8} {lookalike.scene.title}")
        return ExitStatus.CLEAN
    screen = Screen()
    played: list[Played] = []
    for kernel in options.kernels or recipe_names():
        for one in play_kernel(
            RunOptions(kernel=kernel, cold=False, audit=options.audit, audit_seed=options.audit_seed),
            chosen,
            screen,
        ):
            screen.show(f"{one.kernel:<14} {one.lookalike:<20} {one.result:<12} {one.why}")
            played.append(one)
    print(summary(played))
    if options.report is not None:
        write_report(options.report, all_lookalikes(), played)
    return exit_status(played)


def exit_status(played: Iterable[Played]) -> ExitStatus:
    """A false verdict is a finding; a scene that failed, or did not reach its state, is inconclusive."""
    results = {one.result for one in played}
    if Result.FALSE in results:
        return ExitStatus.FINDINGS
    return ExitStatus.CLEAN if all(result.good for result in results) else ExitStatus.GUEST


def chosen_scenes(names: Sequence[str]) -> list[Lookalike]:
    """Those with one of ``names`` in their own; all when none is given."""
    return [one for one in all_lookalikes() if not names or any(name in one.name for name in names)]


def play_kernel(options: RunOptions, chosen: Sequence[Lookalike], screen: Screen) -> Iterator[Played]:
    """All scenes on one kernel; those that need the same machine share a boot."""
    kernel, begin, made = options.kernel, time.monotonic(), provenance.made()
    for lookalike in chosen:
        why = lookalike.scene.reason_against(kernel)
        if why is not None:
            yield replace(not_played(lookalike, kernel, why), made=made)
    there = [one for one in chosen if one.scene.reason_against(kernel) is None]
    if not there:
        return
    prepared = prepare(options, screen.progress)
    made |= {"release": prepared.guest.release, "qemu": prepared.qemu.version, "seed": options.audit_seed}
    ordered = sorted(there, key=lambda one: repr(one.scene.machine))
    for _, group in groupby(ordered, key=lambda one: repr(one.scene.machine)):
        for one in _play_together(list(group), options, prepared):
            yield replace(one, made=made)
    made["seconds"] = round(time.monotonic() - begin, 1)  # of all: they share the mapping


def _play_together(group: Sequence[Lookalike], options: RunOptions, prepared: Prepared) -> Iterator[Played]:
    machine: Machine = group[0].scene.machine
    with Stage(options, prepared, machine=machine) as stage:
        for lookalike in group:
            yield judge(lookalike, stage.run_scene(with_modules(lookalike, prepared)))


def with_modules(lookalike: Lookalike, prepared: Prepared) -> Scene:
    """The scene, with what it takes to load the modules that it wants."""
    if not lookalike.modules:
        return lookalike.scene
    files, lines = dict(lookalike.scene.files), []
    for module in load_order(ModuleTree(prepared.guest.modules), lookalike.modules):
        name = canonical(module.info.name or module.source.name.partition(".")[0])
        path = f"{_MODULES}-{name}.ko"
        files[path] = module.image
        lines.append(f"grep -q '^{name} ' /proc/modules || insmod {path}")
        lines.append(f"rm {path}")
    return replace(lookalike.scene, files=files, setup=(*lines, *lookalike.scene.setup))
