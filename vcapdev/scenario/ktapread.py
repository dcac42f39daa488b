# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the KTAP (or TAP) that a program of the guest wrote: kselftest, KUnit, or anything else.

The guest is not trusted: depth and number of tests are bounded, and what is missing counts as failed: a plan
that is not kept, an output without any plan, a "Bail out!".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from vcapdev.scenario.results import Status, Subtest

_HEADER = re.compile(r"(KTAP version 1|TAP version 1[34])\s*\Z")
_SUBTEST = re.compile(r"# Subtest: (.*)\Z")
_PLAN = re.compile(r"1\.\.(\d{1,6})(\s*#.*)?\Z")
_RESULT = re.compile(r"(not ok|ok)(?:\s+(\d{1,6}))?(?:\s+(?:-\s+)?([^#]*?))?\s*(?:#\s*(.*))?\Z")
_DIRECTIVE = re.compile(r"(skip|todo|xfail|timeout|error)\S*\s*(.*)\Z", re.IGNORECASE)
_BAIL = re.compile(r"Bail out!\s*(.*)\Z")
_STAMP = re.compile(r"^(?:<\d>)?\[ *\d+\.\d{6}\] ")  # of a kernel log
_DEEPEST = 12
_MOST = 20_000  # tests


@dataclass
class _Level:
    """One test list while it is read."""

    indent: int
    plan: int | None = None
    tests: list[Subtest] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # diagnostics since the last result
    below: _Level | None = None  # a list that ended, whose result line has not come yet
    headed: bool = False


def parse(text: str) -> list[Subtest]:
    """The tests of an output, those inside others below them. Empty where it is no KTAP at all."""
    return _Parser().parse(text)


class _Parser:
    def __init__(self) -> None:
        self._levels = [_Level(0)]
        self._count = 0
        self._any = False

    def parse(self, text: str) -> list[Subtest]:
        for raw in text.splitlines():
            if self._line(_STAMP.sub("", raw.rstrip())):
                break
        while len(self._levels) > 1:
            self._close()
        top = self._levels[0]
        self._dangling(top)
        if self._any and top.tests:
            top.tests += _missing(top)
        elif self._any:
            top.tests += _missing(top) or [
                Subtest("plan", Status.FAIL, "no test was run, and none was planned")
            ]
        return top.tests

    def _line(self, line: str) -> bool:
        """Take in one line; whether the output ends here."""
        body = line.lstrip(" \t")
        indent = len(line) - len(body)
        if _HEADER.match(body) or _SUBTEST.match(body):
            self._header(indent, body)
        elif plan := _PLAN.match(body):
            self._level(indent).plan = int(plan[1])
            self._any = True
        elif result := _RESULT.match(body):
            return self._result(self._level(indent), result)
        elif bail := _BAIL.match(body):
            self._levels[-1].tests.append(Subtest("bail out", Status.FAIL, bail[1] or "Bail out!"))
            self._any = True
            return True
        elif body.startswith("#") and len(self._levels[-1].notes) < 20:
            self._levels[-1].notes.append(body.lstrip("# "))
        return False

    def _header(self, indent: int, body: str) -> None:
        self._any = True
        top = self._levels[-1]
        while indent < top.indent:
            self._close()
            top = self._levels[-1]
        if indent > top.indent and len(self._levels) < _DEEPEST:
            self._dangling(top)
            self._levels.append(_Level(indent, headed=True))
        elif indent == top.indent and body.startswith(("KTAP", "TAP")) and top.headed and top.tests:
            self._close()  # a new list beside a finished one
            self._dangling(self._levels[-1])
            self._levels.append(_Level(indent, headed=True))
        top.headed = True

    def _level(self, indent: int) -> _Level:
        """The list that a line of this indentation belongs to."""
        while len(self._levels) > 1 and indent < self._levels[-1].indent:
            self._close()
        top = self._levels[-1]
        if indent > top.indent and (top.headed or top.tests or top.plan) and len(self._levels) < _DEEPEST:
            self._dangling(top)
            self._levels.append(_Level(indent))
        return self._levels[-1]

    def _close(self) -> None:
        ended = self._levels.pop()
        self._dangling(ended)
        ended.tests += _missing(ended)
        self._levels[-1].below = ended

    def _dangling(self, level: _Level) -> None:
        """A list inside, whose own result line never came."""
        if level.below is not None:
            below, level.below = level.below, None
            level.tests.append(
                Subtest("without a result", Status.FAIL, "its result line is missing", below.tests)
            )

    def _result(self, level: _Level, found: re.Match[str]) -> bool:
        self._any = True
        self._count += 1
        if self._count > _MOST:
            level.tests.append(Subtest("too many tests", Status.FAIL, f"more than {_MOST} results"))
            return True
        below, level.below = level.below, None
        notes, level.notes = level.notes, []
        status, message = _status(found[1] == "ok", found[4] or "")
        name = (found[3] or "").strip() or f"test {found[2] or len(level.tests) + 1}"
        if status is Status.FAIL and not message:
            message = "; ".join(notes[-3:])
        inner = below.tests if below is not None else []
        if status is Status.PASS and any(one.status == Status.FAIL for one in inner):
            status, message = Status.FAIL, "it says ok, but a test inside failed"
        level.tests.append(Subtest(name, status, message, inner))
        return False


def _status(good: bool, behind: str) -> tuple[Status, str]:
    found = _DIRECTIVE.match(behind.strip())
    word, rest = (found[1].lower(), found[2].strip()) if found else ("", behind.strip())
    if word == "skip":
        return Status.SKIP, rest
    if word in ("todo", "xfail"):
        return Status.KNOWN, rest
    if word in ("timeout", "error"):
        return Status.FAIL, f"{word}: {rest}".rstrip(": ")
    return (Status.PASS if good else Status.FAIL), rest


def _missing(level: _Level) -> list[Subtest]:
    planned, came = level.plan, len(level.tests)
    if planned is None or planned == came:
        return []
    text = f"{planned} tests were planned, {came} have a result"
    return [Subtest("plan", Status.FAIL, text)]


def leaves(subtests: Sequence[Subtest]) -> list[Subtest]:
    """Those without others inside."""
    found: list[Subtest] = []
    for one in subtests:
        found += leaves(one.subtests) if one.subtests else [one]
    return found
