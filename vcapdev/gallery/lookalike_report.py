# SPDX-License-Identifier: GPL-2.0-or-later
"""The matrix of look-alikes: scenes by kernels, as JSON and as markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vcapdev.gallery.lookalike import Lookalike, Played, Result

_FOOTNOTE = {Result.ABSENT: "cannot be had", Result.REFUSED: "refused"}


def write_report(directory: Path, chosen: Sequence[Lookalike], played: Sequence[Played]) -> None:
    """Write lookalikes.json and lookalikes.md."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_json(chosen, played), indent=1, sort_keys=True)
    (directory / "lookalikes.json").write_text(text + "\n")
    (directory / "lookalikes.md").write_text(markdown(chosen, played))


def to_json(chosen: Sequence[Lookalike], played: Sequence[Played]) -> dict[str, Any]:
    """Plain values."""
    return {
        "scenes": [
            {
                "name": one.name,
                "title": one.scene.title,
                "states": list(one.states),
                "program": list(one.scene.program),
                "proof": list(one.proof),
            }
            for one in chosen
        ],
        "played": [
            {
                "scene": one.lookalike,
                "kernel": one.kernel,
                "result": str(one.result),
                "why": one.why,
                "pages": one.pages,
                "frames": one.frames,
                "states": sorted(state for _, state in one.triples),
            }
            for one in played
        ],
        "totals": totals(played),
    }


def totals(played: Sequence[Played]) -> dict[str, int]:
    """Scenes by result, pages judged, and distinct triples of kernel, page state and transition."""
    counts: Counter[str] = Counter(str(one.result) for one in played)
    triples = {triple for one in played for triple in one.triples}
    return {
        **{str(result): counts[str(result)] for result in Result},
        "pages": sum(one.pages for one in played),
        "frames": sum(one.frames for one in played),
        "triples": len(triples),
    }


def summary(played: Sequence[Played]) -> str:
    """One line."""
    figures = totals(played)
    results = ", ".join(f"{figures[str(result)]} {result}" for result in Result if figures[str(result)])
    return (
        f"{len(played)} look-alikes: {results}; {figures['pages']} pages judged,"
        f" {figures['triples']} distinct triples of kernel, page state and transition"
    )


def markdown(chosen: Sequence[Lookalike], played: Sequence[Played]) -> str:
    """A table of scenes by kernels, then the sentences and the reasons."""
    kernels = list(dict.fromkeys(one.kernel for one in played))
    cells = {(one.lookalike, one.kernel): one for one in played}
    lines = [
        "| scene | states | " + " | ".join(kernels) + " |",
        "|---|---|" + "---|" * len(kernels),
    ]
    for lookalike in chosen:
        row = [_cell(cells.get((lookalike.name, kernel))) for kernel in kernels]
        lines.append(f"| {lookalike.name} | {' '.join(lookalike.states)} | " + " | ".join(row) + " |")
    return "\n".join([summary(played), "", *lines, "", *_sentences(chosen, cells, kernels)]) + "\n"


def _cell(one: Played | None) -> str:
    if one is None:
        return ""
    return f"silent, {one.pages} pages" if one.result is Result.SILENT else str(one.result)


def _sentences(
    chosen: Sequence[Lookalike], cells: dict[tuple[str, str], Played], kernels: Sequence[str]
) -> list[str]:
    lines = []
    for lookalike in chosen:
        lines.append(
            f"- **{lookalike.name}**: {lookalike.scene.title}. Reached when {', '.join(lookalike.proof)}."
        )
        reasons: dict[str, list[str]] = {}
        for kernel in kernels:
            one = cells.get((lookalike.name, kernel))
            if one is not None and one.result is not Result.SILENT:
                reasons.setdefault(f"{one.result}: {one.why}", []).append(kernel)
        lines += [f"  - {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return lines
