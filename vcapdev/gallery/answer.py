# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev answer``: is get_user_pages() enough? Kernels, drivers, memories and events, cell by cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from vcapdev.errors import ExitStatus, UsageError
from vcapdev.gallery.answer_judge import Answer, judge
from vcapdev.gallery.answer_options import AnswerOptions
from vcapdev.gallery.answer_table import Cell, Table, load_table
from vcapdev.gallery.lookalike import Lookalike
from vcapdev.gallery.lookalikes import with_modules
from vcapdev.gallery.stage import Stage
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.recipe import load_recipe, recipe_names
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen

_TRIES = 6  # for a cell whose act did not fall where it has to: which it does not always, on a busy machine


@dataclass
class Played:
    """One kernel's part of a run. ``seconds`` are wall time: packages, builds, boots and cells."""

    kernel: str
    started: str  # UTC
    packages: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    boots: int = 0


def answer(options: AnswerOptions) -> ExitStatus:
    """Play all cells, print what came, write answer.md and answer.json where wanted.

    :raise VcapdevError: no such kernel, or packages, compiler or guest are not to be had.
    """
    from vcapdev.gallery import answer_report

    table, screen = load_table(), Screen()
    cells: list[Answer] = []
    runs: list[Played] = []
    for kernel in options.kernels or guests():
        began, run = time.monotonic(), Played(kernel, datetime.now(UTC).isoformat(timespec="seconds"))
        with screen.stage(kernel) as stage:
            prepared = prepare(RunOptions(kernel=kernel), screen.progress)
            run.packages = prepared.packages()
            for one in play_kernel(table, run, prepared, screen, options.only):
                screen.show(answer_report.line(one))
                cells.append(one)
            stage.note = answer_report.counts(cells, kernel)
        run.seconds = round(time.monotonic() - began, 1)
        runs.append(run)
    whole = not options.kernels and not options.only
    print(answer_report.spoken(table, cells), end="", flush=True)
    for text in answer_report.shortfalls(table, cells, whole=whole):
        print(text, flush=True)
    if options.report is not None:
        answer_report.write(options.report, table, cells, runs)
    return exit_status(table, cells, whole=whole)


def exit_status(table: Table, cells: Sequence[Answer], *, whole: bool) -> ExitStatus:
    """Findings: a sentence that its cells do not bear out, a difference or an escape without a reason.

    A cell that shows nothing, and that nothing is written down about, leaves the answer open.

    :param whole: whether all cells were to be played, so that there are some for each sentence.
    """
    from vcapdev.gallery.answer_report import bearing

    for sentence in (*([] if table.verdict is None else [table.verdict]), *table.sentences):
        good, bad = bearing(sentence, cells)
        if bad or (whole and not good):
            return ExitStatus.FINDINGS
    if any(one.open for one in cells):
        return ExitStatus.FINDINGS
    shown = all(one.played or one.left_out for one in cells)
    return ExitStatus.CLEAN if shown else ExitStatus.GUEST


def guests() -> list[str]:
    """The recipes of guests."""
    return list(recipe_names())


def play_kernel(
    table: Table, run: Played, prepared: Prepared, screen: Screen, only: Sequence[str] = ()
) -> Iterator[Answer]:
    """All cells of one kernel, in as few boots as the guest lives through."""
    kernel = run.kernel
    recipe, variants = load_recipe(kernel), dict[str, Mapping[str, Path]]()
    chosen: dict[str, str | None] = {}
    for driver, about in table.drivers.items():
        name, modules = driver_for(
            about["mutants"], lambda name: build_mutant(recipe, prepared.guest, name, screen.progress)
        )
        chosen[driver] = name
        variants |= {name: modules} if name is not None else {}
    with Stage(RunOptions(kernel=kernel, cold=False), prepared, variants.__getitem__) as stage:
        for cell in table.cells(kernel):
            if only and not any(word in cell.name for word in only):
                continue
            reason = table.senseless(cell)
            if reason is not None:
                yield Answer(cell, table.expected(cell), why=reason, left_out=True)
                continue
            screen.live(f"{cell.name} (guest {stage.boots})")
            yield play_cell(table, cell, chosen[cell.driver], stage)
            run.boots = stage.boots


def play_cell(table: Table, cell: Cell, variant: str | None, stage: Stage) -> Answer:
    """One cell, with the driver of that name among the stage's, None for the kernel's own.

    It is played again where its proof is missing: an act may come too late for the frame that it is for.
    """
    scene = Lookalike(table.scene(cell, variant), (), (), modules=table.modules(cell))
    return until_proved(lambda: judge(table, cell, stage.run_scene(with_modules(scene, stage.prepared))))


def until_proved(play: Callable[[], Answer]) -> Answer:
    """The first try that shows something, or the last one."""
    one, seconds = play(), 0.0
    for tries in range(2, _TRIES + 1):
        if not one.unproved:
            break
        seconds += one.seconds
        one = replace(play(), tries=tries)
    return replace(one, seconds=round(one.seconds + seconds, 2))


def driver_for(
    names: Sequence[str], build: Callable[[str], Mapping[str, Path]]
) -> tuple[str | None, Mapping[str, Path]]:
    """The first of these altered drivers that is for the kernel, and its modules; None for the kernel's own.

    :raise UsageError: there is none.
    """
    why = ""
    for name in names:
        try:
            return name, build(name)
        except UsageError as error:  # it alters what this kernel has not, or has in another form
            why = str(error)
    if why:
        raise UsageError(f"none of the altered drivers {', '.join(names)} is for this kernel: {why}")
    return None, {}
