# SPDX-License-Identifier: GPL-2.0-or-later
"""The screen of ``vcapdev watch``: what was built, how each test went, and the first finding in full."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

from vcapdev.scenario.plain import line, plain
from vcapdev.scenario.results import Status, TestResult
from vcapdev.watch.build import Outcome
from vcapdev.watch.options import WatchOptions

_CLEAR = "\033[2J\033[3J\033[H"
_RED, _GREEN, _YELLOW, _PLAIN = "\033[31m", "\033[32m", "\033[33m", "\033[0m"
_MARKS = {
    Status.PASS: ("ok", _GREEN),
    Status.FAIL: ("FAIL", _RED),
    Status.KNOWN: ("known", _YELLOW),
    Status.SKIP: ("skip", _YELLOW),
    Status.ERROR: ("ERROR", _YELLOW),
    Status.USAGE: ("USAGE", _YELLOW),
}
_FRAME = 6  # lines of the screen that are not a finding's


class Show:
    """Draws on ``stream``: anew each time on a terminal, one below the other elsewhere."""

    def __init__(self, options: WatchOptions, release: str, stream: TextIO | None = None) -> None:
        self._options, self._release = options, release
        self._stream = stream if stream is not None else sys.stdout
        self._terminal = self._stream.isatty()

    def begin(self, outcome: Outcome) -> None:
        """A round begins with what was built."""
        where = f"{self._options.module} for {self._release}, {datetime.now():%H:%M:%S}"
        self._write((_CLEAR if self._terminal else "") + f"{where}\n")
        if outcome.good:
            names = " ".join(path.name for path in outcome.modules)
            self._line("built", _GREEN, f"{names} of {outcome.sources} files in {outcome.seconds:.1f} s")
        else:
            below = next((f": {told}" for told in outcome.lines if outcome.error.endswith(f": {told}")), "")
            self._line("BUILD", _RED, line(outcome.error.removesuffix(below)))
        for each in outcome.lines:
            self._write(f"      {line(each)}\n")

    def told(self, test: TestResult) -> None:
        """A test has ended."""
        mark, colour = _MARKS[Status(test.status)]
        text = f"{line(test.name, 40):<40} {test.seconds:5.1f} s  {line(test.message, 100)}"
        self._line(mark, colour, text.rstrip())

    def end(self, tests: Sequence[TestResult], seconds: float) -> None:
        """All have: the first finding, and what is awaited now."""
        failed = next((test for test in tests if test.failures), None)
        if failed is not None:
            lines = plain(failed.failures[0].text).splitlines()
            room = max(shutil.get_terminal_size((80, 40)).lines - _FRAME - len(tests), 8)
            self._write("\n" + "\n".join(lines[:room]) + "\n")
            if len(lines) > room:
                self._write(f"({len(lines) - room} more lines: {line(failed.repeat)})\n")
        self._write(f"\n{seconds:.1f} s from the change to here\n" if tests else "\n")

    def waiting(self, files: int) -> None:
        """Nothing to do until a source changes."""
        self._write(f"watching {files} files; Ctrl-C ends it\n")

    def _line(self, mark: str, colour: str, text: str) -> None:
        shown = f"{colour}{mark:<5}{_PLAIN}" if self._terminal else f"{mark:<5}"
        self._write(f"{shown} {text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
