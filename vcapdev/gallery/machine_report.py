# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of mutants by machine: a line each, sums with their denominators, JSON, Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vcapdev import __version__
from vcapdev.errors import SetupError, UsageError
from vcapdev.gallery.machine import Caught, Fate
from vcapdev.gallery.mutate import KINDS, Mutation

SCHEMA_VERSION = 1
REPORT = "machine.json"
MEANING = {
    Caught.RULE: "caught by a rule of the checker",
    Caught.GUEST: "caught by the guest's kernel (oops, WARNING, a module that does not load)",
    Caught.FRAMES: "caught by the program: damaged frames or none, wrong answers or settings, lost memory",
    Caught.ESCAPED: "escaped",
    Caught.EQUIVALENT: "equivalent: nothing is different",
    Caught.UNREACHED: "in a statement that no act runs: nothing can be said",
    Caught.BROKEN: "do not compile",
}

Json = dict[str, Any]

_CLIP = 110  # letters of what noticed a change, in the page


def line(fate: Fate) -> str:
    """One mutant for the terminal."""
    by = f": {fate.by}" if fate.by else ""
    return f"{fate.caught.value:<17} {fate.mutation.name} ({fate.mutation.title}){by} [{fate.seconds:g} s]"


def totals(fates: Sequence[Fate]) -> Json:
    """Counts by fate; ``compiled`` and ``could_be_caught`` are the denominators."""
    counts = Counter(fate.caught for fate in fates)
    return {
        "made": len(fates),
        "compiled": len(fates) - counts[Caught.BROKEN],
        "could_be_caught": sum(count for caught, count in counts.items() if caught.counts),
        **{caught.value: counts[caught] for caught in Caught},
    }


def totals_text(fates: Sequence[Fate]) -> str:
    """The sums in words."""
    counts = totals(fates)
    lines = [f"{counts[caught.value]:5} {MEANING[caught]}" for caught in MEANING]
    could, escaped = counts["could_be_caught"], counts[Caught.ESCAPED.value]
    return "\n".join(lines) + f"\n{could - escaped} of {could} that could be caught were caught\n"


def write(directory: Path, fates: Sequence[Fate], about: Json) -> None:
    """Write machine.json and machine.md, each whole or not at all. :raise SetupError: when that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("json", to_json(fates, about)), ("md", markdown(fates, about))):
            new = directory / f"machine.{name}.new"
            new.write_text(text, encoding="utf-8")
            new.replace(directory / f"machine.{name}")
    except OSError as error:
        raise SetupError(
            f"--report {directory}: {error.strerror}; name a directory that can be written"
        ) from None


def read(directory: Path) -> tuple[list[Fate], Json]:
    """The fates of a run, and what is said about it. :raise UsageError: a directory holds no report."""
    path = directory / REPORT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        fates = [
            Fate(**row | {"mutation": Mutation(**row["mutation"]), "caught": Caught(row["caught"])})
            for row in about.pop("mutants")
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path} is no report ({error}); make one: make mutants KIND=machine REPORT={directory}"
        ) from None
    return fates, about


def to_json(fates: Sequence[Fate], about: Json) -> str:
    """Everything."""
    rows = [asdict(fate) | {"caught": fate.caught.value} for fate in fates]
    content = {
        "schema": SCHEMA_VERSION,
        "vcapdev": __version__,
        **about,
        "totals": totals(fates),
        "mutants": rows,
    }
    return json.dumps(content, indent=1) + "\n"


def markdown(fates: Sequence[Fate], about: Json) -> str:
    """A section of docs/mutants-machine.md."""
    counts = totals(fates)
    could, caught = counts["could_be_caught"], counts["could_be_caught"] - counts[Caught.ESCAPED.value]
    said = f"{counts['made']} changes were made, {counts['compiled']} compiled, {could} could be caught."
    if could:
        said += f" Of these {caught} were caught ({100 * caught / could:.1f} %)."
    lines = [f"## {about.get('kernel', '')}: {about.get('release', '')}", "", *_how(about), *_ground(about)]
    lines += [said, "", *_by(fates, "kind", KINDS, lambda one: one.kind), ""]
    lines += [*_by(fates, "file", sorted({_file(fate) for fate in fates}), _file_of), "", *_rules(fates)]
    for kind, title, why in (
        (Caught.ESCAPED, "Escaped", "why"),
        (Caught.EQUIVALENT, "Equivalent", "why"),
        (Caught.UNREACHED, "Not run", "why"),
    ):
        lines += _table([fate for fate in fates if fate.caught is kind], title, why)
    noticed = [fate for fate in fates if fate.caught in (Caught.RULE, Caught.GUEST, Caught.FRAMES)]
    return "\n".join([*lines, *_table(noticed, "Caught", "by what, in which act")])


def _table(fates: Sequence[Fate], title: str, why: str) -> list[str]:
    if not fates:
        return []
    head = [f"### {title}", "", f"| place | function | change | {why} |", "|---|---|---|---|"]
    return [*head, *map(_row, fates), ""]


def _rules(fates: Sequence[Fate]) -> list[str]:
    """How many changes each rule noticed."""
    counts = Counter(rule for fate in fates if fate.caught is Caught.RULE for rule in fate.by.split(", "))
    if not counts:
        return []
    found = ", ".join(f"{rule} {count}" for rule, count in sorted(counts.items(), key=lambda p: (-p[1], p)))
    return [f"Rules that fired, and at how many changes: {found}.", ""]


def _how(about: Json) -> list[str]:
    """When, where, and how long."""
    if "when" not in about:
        return []
    took = about.get("took", {})
    times = ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in took.items())
    load = about.get("load")
    busy = f"; load average {load['before']:.1f} before, {load['median']:.1f} meanwhile" if load else ""
    sittings = f" in {about['sittings']} sittings" if about.get("sittings", 1) > 1 else ""
    return [
        f"{about['when']}, QEMU {about.get('qemu', '')} with {about.get('accelerator', '')},"
        f" {about.get('boots', 0)} boots; {times}{sittings} on {about.get('cpus', '?')} CPUs{busy}.",
        "",
    ]


def _ground(about: Json) -> list[str]:
    """What can be changed at all."""
    if "can_be_made" not in about:
        return []
    never = ", ".join(f"`{one['function']}` {one['changes']}" for one in about["never_run"])
    return [
        f"{about['can_be_made']} changes can be made. The acts run {about['statements_run']} of the"
        f" {about['statements']} statements; {about['in_statements_never_run']} changes are in the others,"
        f" and were not tried ({never or 'none'}). From the rest a choice was made, spread evenly.",
        "",
    ]


def _by(fates: Sequence[Fate], title: str, rows: Sequence[str], of: Callable[[Mutation], str]) -> list[str]:
    """Changes of each kind, or in each file, by what caught them."""
    columns = [caught for caught in MEANING if caught is not Caught.BROKEN]
    lines = [f"| {title} | " + " | ".join(caught.value for caught in columns) + " | compiled |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for row in (*rows, "all"):
        counts = Counter(fate.caught for fate in fates if row in (of(fate.mutation), "all"))
        cells = [str(counts[caught]) for caught in columns]
        lines.append(f"| {row} | {' | '.join(cells)} | {sum(counts[caught] for caught in columns)} |")
    return lines


def _file(fate: Fate) -> str:
    return _file_of(fate.mutation)


def _file_of(mutation: Mutation) -> str:
    return mutation.file.rpartition("/")[2]


def _row(fate: Fate) -> str:
    one = fate.mutation
    place = f"{one.file.rpartition('/')[2]}:{one.line}"
    title = one.title.replace("|", "\\|")
    return f"| {place} | `{one.function}` | {one.kind}: `{title}` | {_why(fate)} |"


def _why(fate: Fate) -> str:
    """What noticed it, where; or what is known of it; or at least what it was played in."""
    said = fate.by.replace("|", "\\|")
    if fate.caught is Caught.ESCAPED:
        return said or f"not known; played in {fate.act}"
    if not fate.caught.counts:
        return said
    return f"{said if len(said) <= _CLIP else said[: _CLIP - 3] + '...'} ({fate.act})"
