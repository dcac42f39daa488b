# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev answer``: is get_user_pages() enough? Kernels, drivers, memories and events, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vcapdev.errors import ExitStatus, UsageError
from vcapdev.gallery.answer_options import AnswerOptions
from vcapdev.gallery.answer_table import Cell, Expected, Table, load_table
from vcapdev.gallery.lookalike import NOT_OFFERED, Lookalike
from vcapdev.gallery.lookalikes import with_modules
from vcapdev.gallery.proof import evidence
from vcapdev.gallery.scene import Outcome
from vcapdev.gallery.stage import Stage
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.recipe import load_recipe, recipe_names
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen

#: Rules that say: somebody else has this page, or nobody.
GIVEN = frozenset({"free-page", "kernel-page", "shared-page", "recycled"})
#: Rules that say: the program sees another page by now, although it did not ask for that.
COPIED = frozenset({"copied-away"})
#: What a program itself has done with addresses whose pages the driver still holds.
_OWN = ("orphan", "remapped", "replaced", "discarded", "unmapped", "process-gone")


@dataclass(frozen=True)
class Answer:
    """What one cell came to. ``why`` says why it was not played, or could not be; empty otherwise."""

    cell: Cell
    expected: Expected
    why: str = ""
    refused: bool = False
    wrong: str = ""  # no, own, yes
    data: str = ""  # kept, lost, later
    rules: tuple[str, ...] = ()
    oddities: Mapping[str, int] = field(default_factory=dict)
    read_back: Mapping[str, int] = field(default_factory=dict)
    after_close: Mapping[str, int] = field(default_factory=dict)
    passed: Mapping[str, int] = field(default_factory=dict)  # what the pages went through
    frames: int = 0
    pages: int = 0
    seconds: float = 0.0
    explanation: str = ""

    @property
    def played(self) -> bool:
        """Whether there is a result, a refusal included."""
        return self.refused or not self.why

    @property
    def surprise(self) -> bool:
        """Whether it came otherwise than was written down."""
        if not self.played:
            return False
        if self.refused or self.expected.refused:
            return self.refused is not self.expected.refused
        wrong, data = self.expected.wrong.split("|"), self.expected.data.split("|")
        return self.wrong not in wrong or self.data not in data

    def value(self, name: str) -> object:
        """What a sentence may claim of it."""
        if name == "given":
            return "yes" if GIVEN & set(self.rules) else "no"
        return getattr(self, name)


def answer(options: AnswerOptions) -> ExitStatus:
    """Play all cells, print what came, write answer.md and answer.json where wanted.

    :raise VcapdevError: no such kernel, or packages, compiler or guest are not to be had.
    """
    from vcapdev.gallery import answer_report

    table, screen = load_table(), Screen()
    cells: list[Answer] = []
    packages: dict[str, list[dict[str, str]]] = {}
    for kernel in options.kernels or guests():
        with screen.stage(kernel) as stage:
            prepared = prepare(RunOptions(kernel=kernel), screen.progress)
            packages[kernel] = prepared.packages()
            for one in play_kernel(table, kernel, prepared, screen, options.only):
                screen.show(answer_report.line(one))
                cells.append(one)
            stage.note = answer_report.counts(cells, kernel)
    print(answer_report.spoken(table, cells), end="", flush=True)
    if options.report is not None:
        answer_report.write(options.report, table, cells, packages)
    failed = [one for one in cells if not one.played and not one.why.startswith("senseless")]
    return ExitStatus.GUEST if failed else ExitStatus.CLEAN


def guests() -> list[str]:
    """The recipes of guests."""
    return list(recipe_names())


def play_kernel(
    table: Table, kernel: str, prepared: Prepared, screen: Screen, only: Sequence[str] = ()
) -> Iterator[Answer]:
    """All cells of one kernel, in as few boots as the guest lives through."""
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
                yield Answer(cell, table.expected(cell), why=f"senseless: {reason}")
                continue
            screen.live(f"{cell.name} (guest {stage.boots})")
            yield play_cell(table, cell, chosen[cell.driver], stage)


def play_cell(table: Table, cell: Cell, variant: str | None, stage: Stage) -> Answer:
    """One cell, with the driver of that name among the stage's, None for the kernel's own."""
    scene = Lookalike(table.scene(cell, variant), (), (), modules=table.modules(cell))
    return judge(table, cell, stage.run_scene(with_modules(scene, stage.prepared)))


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


def judge(table: Table, cell: Cell, outcome: Outcome) -> Answer:
    """What came of a cell."""
    expected, program, counts = table.expected(cell), outcome.program, evidence(outcome)
    if program is not None and program.status == NOT_OFFERED:
        event = next((e for e in program.events if e.get("event") == "not-offered"), {})
        return Answer(cell, expected, f"{event.get('what')}: {event.get('text')}", refused=True)
    why = _trouble(cell, outcome)
    oddities = _given_up(outcome)
    back, after = _group(counts, "read_back"), _group(counts, "after_close")
    return Answer(
        cell, expected, why,
        wrong=_wrong(outcome.rules, oddities),
        data=_data(back, after),
        rules=tuple(sorted(outcome.rules)),
        oddities=oddities, read_back=back, after_close=after, passed=_passed(counts),
        frames=outcome.frames.captured, pages=outcome.pages_checked, seconds=outcome.seconds,
        explanation=table.explanation(cell),
    )  # fmt: skip


def _trouble(cell: Cell, outcome: Outcome) -> str:
    """Why a cell shows nothing, "" when it does."""
    program, counts = outcome.program, evidence(outcome)
    acts = [name for name in counts if name.startswith("acts.")]
    if outcome.trouble:
        return outcome.trouble
    if not outcome.status.get("attached"):
        return f"the checker was not attached: {outcome.status.get('why_not')}"
    if program is not None and program.status not in (0, 1):
        said = (program.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"the program ended with status {program.status}: {said}"
    if acts and not any(counts[name] for name in acts) and cell.event != "exit":
        return "the act was never done"
    return "" if _group(counts, "read_back") else "no frame was read back"


def _given_up(outcome: Outcome) -> dict[str, int]:
    """Harmless oddities, and what has become of the buffers' addresses."""
    mapping = (outcome.status.get("contract") or {}).get("mapping") or {}
    found = (outcome.status.get("oddities") or {}) | mapping
    return {str(name): int(count) for name, count in found.items()}


def _wrong(rules: frozenset[str], oddities: Mapping[str, int]) -> str:
    if rules & (GIVEN | COPIED):
        return "yes"
    return "own" if any(oddities.get(name) for name in _OWN) else "no"


def _data(back: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Whether what the device wrote was read: at once, and once more after the close."""
    if back.get("partial", 0) + back.get("lost", 0):
        return "lost"
    return "later" if after.get("partial", 0) + after.get("lost", 0) else "kept"


def _group(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.partition(".")[2]: n for name, n in counts.items() if name.startswith(f"{prefix}.") and n}


def _passed(counts: Mapping[str, int]) -> dict[str, int]:
    """What the pages went through, as pagemap, kpageflags and /proc/vmstat tell."""
    names = (
        *("before.swapped", "queued.swapcache", "acted.swapped", "acted.moved", "done.moved"),
        *("device.mmap", "device.present", "vmstat.pswpout", "vmstat.pswpin", "vmstat.pgmigrate_success"),
    )
    return {name: counts[name] for name in names if counts.get(name)}
