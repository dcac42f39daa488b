# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer in words, each sentence held against its cells; the cells as tables and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vcapdev import __version__
from vcapdev.errors import SetupError
from vcapdev.gallery.answer import Played
from vcapdev.gallery.answer_judge import Answer
from vcapdev.gallery.answer_table import Sentence, Table

SCHEMA_VERSION = 2
_LIMIT = 60  # minutes for everything, on 2 cores
_QUESTION = (
    "In July 2009 the author of a video driver asked the kernel list: is get_user_pages() enough to keep"
    " pages from being swapped out while my card does DMA into them?"
)
_LEGEND = (
    "Each cell says two things. Did the device write to a page that was no longer the buffer's? **own**: the"
    " program itself had given the page away, and the driver still held it. **away**: the program's address"
    " led elsewhere, and the program had not asked for that. **yes**: the program had been given a copy, or"
    " the page was somebody else's. And did the program read what the device had written? **later**: at once,"
    " but not any more after the device was closed. The rules that fired are in brackets; **escaped**: none"
    " did, and data was lost. **!** marks what came otherwise than was written down before the run. A cell is"
    " an answer only if its proof was seen: that what it is about really happened, during DMA (answer.json"
    " has it for each)."
)

Json = dict[str, Any]


def line(one: Answer) -> str:
    """One cell for the terminal."""
    mark = "!" if one.surprise else " "
    return f"{mark} {one.cell.kernel:<14} {one.cell.name:<36} {_short(one)} {', '.join(one.rules)}"


def _short(one: Answer) -> str:
    if one.refused:
        return "refused"
    return one.why or f"{one.wrong}, {one.data}{' (escaped)' if one.escaped else ''}"


def counts(cells: Sequence[Answer], kernel: str) -> str:
    """A kernel's sums."""
    mine = [one for one in cells if one.cell.kernel == kernel and one.played]
    pages, frames = sum(one.pages for one in mine), sum(one.frames for one in mine)
    odd = sum(one.surprise for one in mine)
    return f"{len(mine)} cells, {frames} frames, {pages} pages judged, {odd} not as expected"


def bearing(sentence: Sentence, cells: Sequence[Answer]) -> tuple[list[Answer], list[Answer]]:
    """The cells that a sentence is about and that were played: those that bear it out, and the others."""
    good: list[Answer] = []
    bad: list[Answer] = []
    for shown in sentence.shown:
        for one in cells:
            if one.played and one.cell.fits(shown.cells) and ("refused" in shown.claim or not one.refused):
                borne = all(one.value(name) == value for name, value in shown.claim.items())
                (good if borne else bad).append(one)
    return good, bad


def spoken(table: Table, cells: Sequence[Answer]) -> str:
    """The sentences, each with how many cells bear it out."""
    return "".join(f"{number}. {text}\n" for number, text in enumerate(_sentences(table, cells), 1))


def _sentences(table: Table, cells: Sequence[Answer]) -> Iterator[str]:
    for sentence in table.sentences:
        good, bad = bearing(sentence, cells)
        if not good and not bad:
            yield f"(not played) {sentence.says}"
        elif bad:
            names = ", ".join(f"{one.cell.kernel} {one.cell.name}" for one in bad[:6])
            more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
            share = f"{len(bad)} of {len(good) + len(bad)} cells ({names}{more})"
            yield f"**Not borne out** by {share}: {sentence.says}"
        else:
            yield f"{sentence.says} ({_where(sentence)}: {len(good)} of {len(good)} cells)"


def shortfalls(table: Table, cells: Sequence[Answer], *, whole: bool) -> Iterator[str]:
    """What keeps the answer from being one, a line each."""
    if table.verdict is not None and bearing(table.verdict, cells)[1]:
        yield f"the verdict: {len(bearing(table.verdict, cells)[1])} cells do not bear it out"
    for number, sentence in enumerate(table.sentences, 1):
        good, bad = bearing(sentence, cells)
        if bad:
            yield f"sentence {number}: {len(bad)} cells do not bear it out"
        elif whole and not good:
            yield f"sentence {number}: no cell is about it"
    for one in cells:
        where = f"{one.cell.kernel} {one.cell.name}"
        if not one.played and not one.left_out:
            yield f"{where}: {one.why}"
        elif one.accused:
            yield f"{where}: {', '.join(sorted(one.accused))} fired, and the driver is the kernel's own"
        elif one.surprise and not one.explanation:
            yield f"{where}: {_short(one)}, expected {_expected(one)}, and nobody has explained it"
        elif one.escaped and not one.escape:
            yield f"{where}: data lost, no rule fired, and nobody has explained it"


def _where(sentence: Sentence) -> str:
    return "; ".join(
        ", ".join(f"{axis} {value.replace('|', ' or ')}" for axis, value in shown.cells.items())
        for shown in sentence.shown
    )


def write(directory: Path, table: Table, cells: Sequence[Answer], runs: Sequence[Played]) -> None:
    """Write answer.md and answer.json. :raise SetupError: when that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "answer.md").write_text(markdown(table, cells, runs), encoding="utf-8")
        (directory / "answer.json").write_text(to_json(table, cells, runs), encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"--report {directory}: {error.strerror}; name a directory that can be written"
        ) from None


def to_json(table: Table, cells: Sequence[Answer], runs: Sequence[Played]) -> str:
    """Everything."""
    content = {
        "schema": SCHEMA_VERSION,
        "vcapdev": __version__,
        "started": runs[0].started if runs else None,
        "seconds": round(sum(run.seconds for run in runs), 1),
        "kernels": [
            {"kernel": run.kernel, "started": run.started, "seconds": run.seconds, "boots": run.boots}
            for run in runs
        ],
        "packages": {run.kernel: run.packages for run in runs},
        "verdict": None if table.verdict is None else table.verdict.says,
        "answer": list(_sentences(table, cells)),
        "limits": table.limits,
        "cells": [
            asdict(one) | {"played": one.played, "surprise": one.surprise, "escaped": one.escaped}
            for one in cells
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def markdown(table: Table, cells: Sequence[Answer], runs: Sequence[Played]) -> str:
    """docs/answer.md."""
    lines = [
        "# Is get_user_pages() enough?",
        "",
        *_verdict(table, cells),
        _QUESTION,
        "",
        spoken(table, cells),
    ]
    lines += [
        *_run(cells, runs),
        "## What was done",
        "",
        *_legend(table),
        "",
        "## How to read it",
        "",
        _LEGEND,
    ]
    lines += ["", "## What these cells cannot show", "", *(f"- {text}" for text in table.limits), ""]
    kernels = list(dict.fromkeys(one.cell.kernel for one in cells))
    for kernel in kernels:
        lines += [f"## {kernel}", "", counts(cells, kernel) + ".", ""]
        for driver in table.drivers:
            lines += [
                f"### {driver}: {table.drivers[driver]['says']}",
                "",
                *_grid(table, cells, kernel, driver),
                "",
            ]
    return "\n".join([*lines, *_differences(cells), "", *_escapes(cells), *_nothing(cells)]) + "\n"


def _verdict(table: Table, cells: Sequence[Answer]) -> Iterator[str]:
    """The answer for who reads one paragraph, and what it rests on."""
    if table.verdict is None:
        return
    good, bad = bearing(table.verdict, cells)
    yield table.verdict.says if good and not bad else f"**Not borne out by this run:** {table.verdict.says}"
    yield ""
    played = [one for one in cells if one.played]
    about = {one.cell for one in (*good, *bad)}
    borne = about - {one.cell for one in bad}
    odd = [one for one in played if one.surprise]
    explained = sum(bool(one.explanation) for one in odd)
    yield (
        f"Shown by {len(borne)} of the {len(about)} cells that this is about. In all"
        f" {len(played)} cells were played on {len({one.cell.kernel for one in played})} kernels, with"
        f" {sum(one.frames for one in played)} frames and {sum(one.pages for one in played)} pages judged;"
        f" {len(odd)} came otherwise than was written down before the first run, and {explained} of those are"
        " explained."
    )
    yield ""


def _run(cells: Sequence[Answer], runs: Sequence[Played]) -> Iterator[str]:
    """When this was played, with what, and how long it took."""
    if not runs:
        return
    whole = sum(run.seconds for run in runs)
    yield "## The run"
    yield ""
    yield (
        f"Played by vcapdev {__version__}, from {_clock(runs[0].started)} on: {_minutes(whole)} in all, boots"
        f" and builds of altered drivers included ({_LIMIT} minutes on two cores is the limit). The packages"
        " that hold the kernels are named here, all others, with their hashes, in answer.json."
    )
    yield ""
    yield "| kernel | packages | from | took | boots | cells | frames | pages judged |"
    yield "|---|---|---|---|---|---|---|---|"
    for run in runs:
        mine = [one for one in cells if one.cell.kernel == run.kernel and one.played]
        frames, pages = sum(one.frames for one in mine), sum(one.pages for one in mine)
        yield (
            f"| {run.kernel} | {_kernel_packages(run)} | {_clock(run.started)} | {_minutes(run.seconds)}"
            f" | {run.boots} | {len(mine)} | {frames} | {pages} |"
        )
    yield f"| all | | | {_minutes(whole)} | {sum(run.boots for run in runs)} | | | |"
    yield ""


def _kernel_packages(run: Played) -> str:
    names = [p for p in run.packages if p.get("name", "").startswith("linux-image")]
    return ", ".join(f"{p['name']} {p.get('version', '')}" for p in names)


def _clock(iso: str) -> str:
    return iso[:16].replace("T", " ") + " UTC"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _legend(table: Table) -> list[str]:
    lines = ["| event | what happens |", "|---|---|"]
    return lines + [f"| {name} | {event['says']} |" for name, event in table.events.items()]


def _grid(table: Table, cells: Sequence[Answer], kernel: str, driver: str) -> list[str]:
    mine = {(one.cell.memory, one.cell.event): one for one in cells
            if (one.cell.kernel, one.cell.driver) == (kernel, driver)}  # fmt: skip
    lines = ["| event | " + " | ".join(table.memories) + " |", "|---" * (len(table.memories) + 1) + "|"]
    for event in table.events:
        row = [_box(mine.get((memory, event))) for memory in table.memories]
        lines.append(f"| {event} | {' | '.join(row)} |")
    return lines


def _box(one: Answer | None) -> str:
    if one is None:
        return ""
    if not one.played:
        return one.why if one.left_out else "**not shown**"
    text = "refused" if one.refused else f"{one.wrong}, {one.data}"
    if one.rules:
        text += f" ({', '.join(one.rules)})"
    if one.escaped:
        text += " (**escaped**)"
    return f"**!** {text}" if one.surprise else text


def _differences(cells: Sequence[Answer]) -> list[str]:
    """What came otherwise than expected, with the explanation where there is one."""
    odd = [one for one in cells if one.surprise]
    if not odd:
        return ["Every cell came as it was written down before the run."]
    lines = [
        "## Where reality differs from what was expected",
        "",
        "| kernel | cell | expected | seen | why |",
    ]
    lines.append("|---|---|---|---|---|")
    for one in odd:
        lines.append(
            f"| {one.cell.kernel} | {one.cell.name} | {_expected(one)} | {_short(one)}"
            f" | {one.explanation or 'not explained yet'} |"
        )
    kinds = Counter(bool(one.explanation) for one in odd)
    return [*lines, "", f"{kinds[True]} of {len(odd)} differences are explained."]


def _expected(one: Answer) -> str:
    text = "refused" if one.expected.refused else f"{one.expected.wrong}, {one.expected.data}"
    return text.replace("|", " or ")


def _escapes(cells: Sequence[Answer]) -> Iterator[str]:
    """What an altered driver lost without a word of any rule."""
    found = [one for one in cells if one.escaped]
    if not found:
        return
    yield "## Losses of which no rule tells"
    yield ""
    yield "| kernel | cell | pages released, seen too late to judge | why |"
    yield "|---|---|---|---|"
    for one in found:
        late = one.oddities.get("release-seen-late", 0)
        yield f"| {one.cell.kernel} | {one.cell.name} | {late} | {one.escape or 'not explained yet'} |"
    yield ""


def _nothing(cells: Sequence[Answer]) -> Iterator[str]:
    """Cells that were played and show nothing."""
    found = [one for one in cells if not one.played and not one.left_out]
    if not found:
        return
    yield "## Cells that show nothing"
    yield ""
    yield "| kernel | cell | tries | why |"
    yield "|---|---|---|---|"
    for one in found:
        why = one.why.replace("|", "\\|")
        yield f"| {one.cell.kernel} | {one.cell.name} | {one.tries} | {why} |"
    yield ""
