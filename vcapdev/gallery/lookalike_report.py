# SPDX-License-Identifier: GPL-2.0-or-later
"""The matrix of look-alikes: scenes by kernels, as JSON and as markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vcapdev.errors import UsageError
from vcapdev.gallery.lookalike import AUDITED, Lookalike, Played, Result
from vcapdev.gallery.provenance import told

#: The legitimate states of a page that a device writes to.
STATES = {
    "L0": "pinned anonymous page, mapped",
    "L1": "the same in the swap cache",
    "L2": "with transient holders: isolated by reclaim or migration, in a per-CPU batch, under a short pin",
    "L3": "pinned, and unmapped by reclaim: the page table has a swap entry (5.10)",
    "L4": "pinned, and no longer the program's: unmapped, thrown away, or the program has ended",
    "L5": "pinned more than once: by two buffers, two queues, or another subsystem",
    "L6": "pinned when its owner forked",
    "L7": "page of shmem, tmpfs or a file, mapped shared",
    "L8": "part of a large folio (transparent huge page)",
    "L9": "page of hugetlbfs",
    "L10": "page of a buffer of the driver's own, mapped into the program",
    "L11": "coherent memory of the kernel's: buffers of read(), RISC programs",
    "L12": "page inside an allocation of several pages that is no compound page",
    "L13": "slot of the bounce buffer (swiotlb)",
    "L14": "coherent memory from a contiguous memory area",
    "L15": "locked into memory",
    "L16": "dequeued, and still pinned",
    "L17": "no RAM at all: another card's frame buffer",
    "L18": "clean, dirty, or charged to a control group that is gone",
}

#: Between these lines of docs/audit.md are the figures of the look-alikes.
AUDIT_BEGIN, AUDIT_END = "<!-- look-alikes: figures -->", "<!-- end of figures -->"

_HEAD = """\
# Look-alikes

Legitimate scenes that come near a violation. The checker has to be silent about every one of them, and each
proves that the state it is for was really there: by what the program sees of its pages in pagemap and
kpageflags, by counters of the kernel's, by the checker's own. Made by `make lookalikes REPORT=docs`, of the
table vcapdev/gallery/lookalikes.yaml.
"""


def write_report(directory: Path, scenes: Sequence[Lookalike], played: Sequence[Played]) -> None:
    """Write lookalikes.json and lookalikes.md; what they say of other scenes and kernels is kept.

    :raise UsageError: the directory holds another file of that name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "lookalikes.json"
    names = {one.name for one in scenes}
    known = {(one.lookalike, one.kernel): one for one in read_report(path) if one.lookalike in names}
    known |= {(one.lookalike, one.kernel): one for one in played}
    order = [one.name for one in scenes]
    every = sorted(known.values(), key=lambda one: (one.kernel, order.index(one.lookalike)))
    path.write_text(json.dumps(to_json(scenes, every), indent=1, sort_keys=True) + "\n")
    path.with_suffix(".md").write_text(markdown(scenes, every))
    _write_audit(directory / "audit.md", every)


def read_report(path: Path) -> list[Played]:
    """What an earlier run has written; nothing when there is none.

    :raise UsageError: the file is something else.
    """
    if not path.is_file():
        return []
    try:
        data = json.loads(path.read_text())
        return [_played(entry, data.get("runs", [])) for entry in data["played"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no report of look-alikes ({error}); remove it, or choose another"
        ) from None


def _played(entry: dict[str, Any], runs: list[dict[str, Any]]) -> Played:
    kernel = str(entry["kernel"])
    return Played(
        entry["scene"], "", kernel, Result(entry["result"]), entry["why"], entry["pages"], entry["frames"],
        frozenset((kernel, state) for state in entry["states"]),
        audit=entry.get("audit", {}), made=runs[entry["run"]] if "run" in entry else {},
    )  # fmt: skip


def to_json(chosen: Sequence[Lookalike], played: Sequence[Played]) -> dict[str, Any]:
    """Plain values."""
    runs = runs_of(played)
    return {
        "runs": runs,
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
                "audit": dict(one.audit),
                **({"run": runs.index(dict(one.made))} if one.made else {}),
            }
            for one in played
        ],
        "totals": totals(played),
    }


def runs_of(played: Sequence[Played]) -> list[dict[str, Any]]:
    """The runs that something is kept of, each once."""
    runs: list[dict[str, Any]] = []
    for one in played:
        if one.made and dict(one.made) not in runs:
            runs.append(dict(one.made))
    return runs


def audited(played: Sequence[Played]) -> Counter[str]:
    """The audit's figures of all scenes together."""
    return sum((Counter(dict(one.audit)) for one in played), Counter())


def audit_page(played: Sequence[Played]) -> str:
    """The part of docs/audit.md that comes from the look-alikes, a row a kernel."""
    heads = ("kernel", *AUDITED)
    lines = [f"| {' | '.join(head.replace('_', ' ') for head in heads)} |", "|---" * len(heads) + "|"]
    kernels = {one.kernel: [each for each in played if each.kernel == one.kernel] for one in played}
    for kernel, ones in [*kernels.items(), ("together", list(played))]:
        figures = audited(ones)
        lines.append(f"| {kernel} | {' | '.join(str(figures[name]) for name in AUDITED)} |")
    figures = audited(played)
    rate = f"{figures['disagreed']} of {figures['pages']} pages were judged otherwise with the vCPUs stopped."
    return "\n".join([rate, "", *lines, "", *_made(played)])


def _made(played: Sequence[Played]) -> list[str]:
    return [f"- {told(made)}" for made in runs_of(played)]


def _write_audit(path: Path, played: Sequence[Played]) -> None:
    """Put the figures into docs/audit.md, between its marks; no page, no marks or no audit: nothing."""
    text = path.read_text() if path.is_file() else ""
    if not audited(played) or AUDIT_BEGIN not in text or AUDIT_END not in text:
        return
    before, _, rest = text.partition(AUDIT_BEGIN)
    path.write_text(f"{before}{AUDIT_BEGIN}\n{audit_page(played)}\n{AUDIT_END}{rest.partition(AUDIT_END)[2]}")


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
    states = [f"| {name} | {text} |" for name, text in STATES.items()]
    parts = [
        _HEAD,
        summary(played) + ".",
        "",
        *(["Made by:", "", *_made(played), ""] if runs_of(played) else []),
        *lines,
        "",
        "## Scenes",
        "",
        *_sentences(chosen, cells, kernels),
    ]
    parts += ["", "## States", "", "| state | the page |", "|---|---|", *states]
    return "\n".join(parts) + "\n"


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
