# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev mutants``: build altered drivers, play each, and tell which were caught, and what was blamed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vcapdev.errors import ExitStatus, SetupError, UsageError
from vcapdev.gallery import hand_page, matrix, provenance
from vcapdev.gallery.crew import Crew, Job, room
from vcapdev.gallery.hand import scene_of
from vcapdev.gallery.mutant_options import MutantOptions
from vcapdev.gallery.scene import Machine, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.kbuild import Builder, Built, check_kernel_has, mutant_change
from vcapdev.image.mutants import Mutant, mutants
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen

Files = Mapping[str, Path]


@dataclass
class Cast:
    """Who can play on a kernel: mutants with their scenes, in the order in which they are told; and why the
    others cannot. ``modules`` are there as soon as they are built."""

    playing: list[tuple[Mutant, Scene]] = field(default_factory=list)
    left: list[matrix.Row] = field(default_factory=list)
    modules: dict[str, Files] = field(default_factory=dict)

    @property
    def machines(self) -> set[Machine]:
        """What guests are needed."""
        return {scene.machine for _, scene in self.playing}


@dataclass
class Took:
    """Seconds, for the report."""

    prepare: float = 0.0
    build: float = 0.0  # from the first change to the last, while others are played
    play: float = 0.0  # all in all
    guests: int = 1
    boots: int = 0


def run(options: MutantOptions) -> ExitStatus:
    """Play mutants on each kernel, print their matrices, write them where wanted.

    :raise VcapdevError: no such kernel or mutant, or packages, compiler or guest are not to be had.
    """
    if options.kind == "machine":
        from vcapdev.gallery import machines

        return machines.run(options)
    wanted = chosen(options.only)
    ends = [_run_on(kernel, wanted, options) for kernel in options.kernels]
    return max(ends, default=ExitStatus.CLEAN)


def _run_on(kernel: str, wanted: Sequence[Mutant], options: MutantOptions) -> ExitStatus:
    screen, took = Screen(), Took()
    run_options = RunOptions(
        kernel=kernel, qemu=options.qemu, accel=options.accel, cold=False, audit=options.audit
    )
    made = provenance.made()  # of the sources as they are now, before a page of theirs is written
    with screen.stage("prepare") as stage:
        prepared = prepare(run_options, screen.progress)
        stage.note = f"{kernel}, QEMU {prepared.qemu.version} with {prepared.accel.name}"
    cast = assemble(wanted, run_options, prepared)
    recipe = load_recipe(kernel)
    with screen.stage("build") as stage:
        for mutant, _ in cast.playing[:1]:  # with it sources and tools come, which takes longest
            Builder(recipe, prepared.guest, screen.progress).build(mutant_change(mutant, recipe))
        stage.note = "sources, tools and the first driver"
    builder = Builder(recipe, prepared.guest, Silent())
    took.guests = options.guests or room(max((each.memory for each in cast.machines), default=0))
    with screen.stage("play") as stage:
        played = list(play(cast, builder, run_options, prepared, screen, took))
        rows = sorted([*played, *cast.left], key=lambda row: row.mutant)
        stage.note = (
            f"{len(played)} altered drivers for Linux {prepared.guest.release}, built in {took.build:.0f} s"
            f" meanwhile; {took.guests} guests at a time, {took.boots} boots"
        )
    took.prepare, took.play = screen.stages["prepare"], screen.stages["play"]
    print(ended(rows), flush=True)
    write(rows, about(run_options, prepared, took, made), options.directory(kernel), options.page)
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


def assemble(wanted: Sequence[Mutant], options: RunOptions, prepared: Prepared) -> Cast:
    """Who can play on this kernel, sorted by name."""
    recipe, cast = load_recipe(options.kernel), Cast()
    for mutant in sorted(wanted, key=lambda each: each.name):
        try:
            check_kernel_has(prepared.guest, mutant_change(mutant, recipe))
        except UsageError as error:
            cast.left.append(matrix.unplayed(mutant, options.kernel, matrix.NOT_HERE, str(error)))
        else:
            cast.playing.append((mutant, scene_of(mutant)))
    return cast


def play(
    cast: Cast, builder: Builder, options: RunOptions, prepared: Prepared, screen: Screen, took: Took
) -> Iterator[matrix.Row]:
    """Build and play each; rows come in the order of the cast, whoever was built or played first."""

    def open_stage(machine: Machine) -> Stage:
        return Stage(options, prepared, cast.modules.__getitem__, machine)

    with Crew[matrix.Row](open_stage, min(took.guests, len(cast.playing) or 1)) as crew:
        thread = threading.Thread(
            target=_build, args=(cast, builder, options, crew, took), name="builds", daemon=True
        )
        thread.start()

        def live() -> None:
            screen.live(
                f"built {len(cast.modules)} of {len(cast.playing)}; playing {', '.join(crew.playing)}"
            )

        for row in crew.results(len(cast.playing), on_turn=live):
            screen.show(matrix.table([row]))
            yield row
        thread.join()
        took.boots = crew.boots


def _build(cast: Cast, builder: Builder, options: RunOptions, crew: Crew[matrix.Row], took: Took) -> None:
    """Build all changes, those that are long to play first, and have each played as soon as it is there."""
    begin = time.monotonic()
    places = {mutant.name: place for place, (mutant, _) in enumerate(cast.playing)}
    order = sorted(cast.playing, key=lambda pair: -cost(pair[1]))
    try:
        changes = [mutant_change(mutant, load_recipe(options.kernel)) for mutant, _ in order]
        for built in builder.build_all(changes):
            place = places[built.change.name]
            _offer(cast, place, built, options.kernel, crew)
    except BaseException as error:
        crew.fail(error)
    took.build = round(time.monotonic() - begin, 1)


def _offer(cast: Cast, place: int, built: Built, kernel: str, crew: Crew[matrix.Row]) -> None:
    mutant, scene = cast.playing[place]
    if built.error:
        crew.settle(place, matrix.unplayed(mutant, kernel, matrix.NOT_BUILT, built.error))
        return
    cast.modules[mutant.name] = built.modules
    crew.offer(
        place,
        Job(
            mutant.name,
            scene.machine,
            lambda stage: matrix.judge(mutant, stage.run_scene(scene)),
            cost(scene),
        ),
    )


def cost(scene: Scene) -> float:
    """Roughly the seconds that a scene takes: it decides only what begins first."""
    return 2.0 + (15.0 if scene.machine.iommu else 0.0) + (6.0 if scene.ruins else 0.0)


def ended(rows: Sequence[matrix.Row]) -> str:
    """The sums."""
    counts = matrix.totals(rows)
    lines = [
        f"{count:5} {name}" + (f": {matrix.MEANING[name]}" if name in matrix.MEANING else "")
        for name, count in counts.items()
        if count
    ]
    figures = hand_page.audited(rows)
    if figures:
        lines.append(
            f"{figures['pages']} pages, {figures['bad']} of them bad, judged again with the vCPUs stopped:"
            f" {figures['disagreed']} otherwise"
        )
    bad = [row.mutant for row in rows if not row.good]
    return "\n".join([*lines, f"not as it must be: {', '.join(bad)}" if bad else "all as they must be"])


def about(options: RunOptions, prepared: Prepared, took: Took, made: Mapping[str, Any]) -> dict[str, Any]:
    """What made the rows, for the report."""
    return {
        "kernel": options.kernel,
        "release": prepared.guest.release,
        **made,
        "seconds": round(took.prepare + took.play, 1),
        "seed": "none: nothing is drawn",
        "qemu": prepared.qemu.version,
        "accelerator": prepared.accel.name,
        "packages": prepared.packages(),
        "took": asdict(took),
    }


def write(
    rows: Sequence[matrix.Row], about: Mapping[str, Any], report: Path | None, page: Path | None
) -> None:
    """The report of one kernel, and its part of the page, where they are wanted.

    :raise SetupError: a file cannot be written.
    """
    if page is not None:
        hand_page.write(page, rows, dict(about))
    if report is None:
        return
    try:
        report.mkdir(parents=True, exist_ok=True)
        (report / "mutants.json").write_text(matrix.to_json(rows, dict(about)), encoding="utf-8")
        (report / "mutants.md").write_text(matrix.markdown(rows, dict(about)), encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"--report {report}: {error.strerror}; name a directory that can be written"
        ) from None
