# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as KTAP version 1 (Documentation/dev-tools/ktap.rst of Linux): strict, every level with its plan.

::

    KTAP version 1
    1..2
      KTAP version 1
      1..1
      ok 1 VIDIOC_QUERYCAP
    ok 1 compliance@bookworm-6.1
    not ok 2 reload@bookworm-6.1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vcapdev.scenario.plain import line, plain
from vcapdev.scenario.results import Results, Status, Subtest, TestResult

VERSION = "KTAP version 1"
_MOST_LINES = 60  # of a failure's text
_DIRECTIVE = {Status.SKIP: "SKIP", Status.KNOWN: "XFAIL", Status.ERROR: "ERROR", Status.USAGE: "ERROR"}
_BAD = (Status.FAIL, Status.ERROR, Status.USAGE)


def write(results: Results) -> str:
    """The whole output."""
    lines = [VERSION, f"1..{len(results.tests)}"]
    for number, test in enumerate(results.tests, 1):
        lines += _test(number, test)
    return "\n".join(lines) + "\n"


def _test(number: int, test: TestResult) -> Iterator[str]:
    if test.subtests:
        yield from _below(test.subtests, "  ")
    if test.status in _BAD:
        yield from _diagnosis(test)
    yield _result(number, test.id, test.status, test.message)


def _below(subtests: Sequence[Subtest], indent: str) -> Iterator[str]:
    yield f"{indent}{VERSION}"
    yield f"{indent}1..{len(subtests)}"
    for number, one in enumerate(subtests, 1):
        if one.subtests:
            yield from _below(one.subtests, indent + "  ")
        yield indent + _result(number, one.name, one.status, one.message)


def _diagnosis(test: TestResult) -> Iterator[str]:
    text = "\n".join(failure.text for failure in test.failures) or test.message
    lines = plain(text).split("\n")
    for one in lines[:_MOST_LINES]:
        yield f"# {one}".rstrip()
    if len(lines) > _MOST_LINES:
        yield f"# ({len(lines) - _MOST_LINES} more lines)"


def _result(number: int, name: str, status: str, message: str) -> str:
    good = Status(status) not in _BAD
    directive = _DIRECTIVE.get(Status(status))
    text = f"{'ok' if good else 'not ok'} {number} {_description(name)}"
    if directive:
        text += f" # {directive} {line(message, 200)}".rstrip()
    return text


def _description(name: str) -> str:
    """A description cannot hold the character that begins a directive."""
    return line(name, 200).replace("#", "_").strip() or "_"
