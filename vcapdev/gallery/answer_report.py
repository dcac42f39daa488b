# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer in words, each sentence held against its cells; the cells as tables and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vcapdev import __version__
from vcapdev.errors import SetupError
from vcapdev.gallery.answer import Answer
from vcapdev.gallery.answer_table import Sentence, Table

SCHEMA_VERSION = 1
_QUESTION = (
    "In July 2009 the author of a video driver asked the kernel list: is get_user_pages() enough to keep"
    " pages from being swapped out while my card does DMA into them?"
)
_LEGEND = (
    "Each cell says two things. Did the device write to a page that was no longer the buffer's? **own**: the"
    " program itself had given the page away, and the driver still held it. And did the program read what the"
    " device had written? **later**: at once, but not any more after the device was closed. **!** marks what"
    " came otherwise than was written down before the run."
)

Json = dict[str, Any]


def line(one: Answer) -> str:
    """One cell for the terminal."""
    mark = "!" if one.surprise else " "
    return f"{mark} {one.cell.kernel:<14} {one.cell.name:<36} {_short(one)} {', '.join(one.rules)}"


def _short(one: Answer) -> str:
    if one.refused:
        return "refused"
    return one.why or f"{one.wrong:<4}{one.data}"


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


def _where(sentence: Sentence) -> str:
    return "; ".join(
        ", ".join(f"{axis} {value.replace('|', ' or ')}" for axis, value in shown.cells.items())
        for shown in sentence.shown
    )


def write(
    directory: Path, table: Table, cells: Sequence[Answer], packages: Mapping[str, list[dict[str, str]]]
) -> None:
    """Write answer.md and answer.json. :raise SetupError: when that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "answer.md").write_text(markdown(table, cells), encoding="utf-8")
        (directory / "answer.json").write_text(to_json(table, cells, packages), encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"--report {directory}: {error.strerror}; name a directory that can be written"
        ) from None


def to_json(table: Table, cells: Sequence[Answer], packages: Mapping[str, list[dict[str, str]]]) -> str:
    """Everything."""
    content = {
        "schema": SCHEMA_VERSION,
        "vcapdev": __version__,
        "packages": packages,
        "answer": list(_sentences(table, cells)),
        "cells": [asdict(one) | {"played": one.played, "surprise": one.surprise} for one in cells],
    }
    return json.dumps(content, indent=1) + "\n"


def markdown(table: Table, cells: Sequence[Answer]) -> str:
    """docs/answer.md."""
    lines = ["# Is get_user_pages() enough?", "", _QUESTION, "", spoken(table, cells)]
    lines += ["## What was done", "", *_legend(table), ""]
    kernels = list(dict.fromkeys(one.cell.kernel for one in cells))
    for kernel in kernels:
        lines += [f"## {kernel}", "", counts(cells, kernel) + ".", "", _LEGEND, ""]
        for driver in table.drivers:
            lines += [
                f"### {driver}: {table.drivers[driver]['says']}",
                "",
                *_grid(table, cells, kernel, driver),
                "",
            ]
    lines += _differences(cells)
    return "\n".join(lines) + "\n"


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
        return one.why.removeprefix("senseless: ")
    text = "refused" if one.refused else f"{one.wrong}, {one.data}"
    if one.rules:
        text += f" ({', '.join(one.rules)})"
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
        expected = "refused" if one.expected.refused else f"{one.expected.wrong}, {one.expected.data}"
        lines.append(
            f"| {one.cell.kernel} | {one.cell.name} | {expected.replace('|', ' or ')} | {_short(one)}"
            f" | {one.explanation or 'not explained yet'} |"
        )
    kinds = Counter(bool(one.explanation) for one in odd)
    return [*lines, "", f"{kinds[True]} of {len(odd)} differences are explained."]
