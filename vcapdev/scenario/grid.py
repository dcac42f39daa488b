# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests by kernels: the table, and for kernels in their order the first bad one."""

from __future__ import annotations

from vcapdev.scenario.plain import line
from vcapdev.scenario.results import Results, Status

_SHORT = {
    Status.PASS: "ok",
    Status.FAIL: "FAIL",
    Status.KNOWN: "known",
    Status.SKIP: "-",
    Status.ERROR: "error",
    Status.USAGE: "usage",
}


def table(results: Results) -> list[str]:
    """For a terminal."""
    kernels, names = results.kernels(), results.names()
    width = max([len(name) for name in names], default=4)
    lines = [f"{'':<{width}}  " + "  ".join(kernels)]
    for name in names:
        cells = [f"{_cell(results, name, kernel):<{len(kernel)}}" for kernel in kernels]
        lines.append(f"{line(name):<{width}}  " + "  ".join(cells).rstrip())
    return lines


def _cell(results: Results, name: str, kernel: str) -> str:
    test = results.at(name, kernel)
    return "" if test is None else _SHORT[Status(test.status)]


def markdown(results: Results) -> str:
    """The same for a page."""
    kernels = results.kernels()
    lines = [f"| | {' | '.join(kernels)} |", f"|---|{'---|' * len(kernels)}"]
    for name in results.names():
        cells = [_cell(results, name, kernel) for kernel in kernels]
        lines.append(f"| {line(name).replace('|', '_')} | {' | '.join(cells)} |")
    lines += ["", *(f"- {each}" for each in first_bad(results))]
    return "\n".join(lines).rstrip() + "\n"


def first_bad(results: Results) -> list[str]:
    """For each test that is red somewhere: on which kernel first, in the order given, and how it came.

    Cells that say nothing (skipped, infrastructure) are passed over, and said where they lie between.
    """
    found = []
    for name in results.names():
        cells = [(kernel, results.at(name, kernel)) for kernel in results.kernels()]
        known = [(kernel, test) for kernel, test in cells if test is not None and test.status in _TELLS]
        bad = [at for at, (_, test) in enumerate(known) if test.status == Status.FAIL]
        if not bad:
            continue
        kernel, test = known[bad[0]]
        text = f"{line(name)}: first bad on {kernel}"
        text += f", good on {known[bad[0] - 1][0]}" if bad[0] else ", no good one before it"
        between = _between(results, known[bad[0] - 1][0] if bad[0] else "", kernel, name)
        text += f" (nothing is known of {', '.join(between)})" if between else ""
        text += " (not the last one good: it comes and goes)" if len(bad) < len(known) - bad[0] else ""
        found.append(f"{text}: {line(test.message, 160)}")
    return found


_TELLS = (Status.PASS, Status.FAIL, Status.KNOWN)


def _between(results: Results, good: str, bad: str, name: str) -> list[str]:
    kernels = results.kernels()
    begin = kernels.index(good) + 1 if good else 0
    cells = [(kernel, results.at(name, kernel)) for kernel in kernels[begin : kernels.index(bad)]]
    return [kernel for kernel, test in cells if test is None or test.status not in _TELLS]
