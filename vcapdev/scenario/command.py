# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev scenario`` and ``vcapdev matrix``: play, tell, write, exit."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from vcapdev.errors import ExitStatus, SetupError, UsageError
from vcapdev.scenario import grid, html, junit, known, ktap, suite, trace
from vcapdev.scenario.options import ScenarioOptions
from vcapdev.scenario.plain import line, plain
from vcapdev.scenario.results import Results, Status, TestResult, merged

_SHOWN = 30  # lines of a failure on the terminal
_MARKS = {
    Status.PASS: "ok",
    Status.FAIL: "FAIL",
    Status.KNOWN: "known",
    Status.SKIP: "skip",
    Status.ERROR: "ERROR",
    Status.USAGE: "USAGE",
}
_BISECT = {ExitStatus.CLEAN: 0, ExitStatus.FINDINGS: 1}
_CANNOT_TELL = 125

_WRITERS: dict[str, Callable[[Results], str]] = {
    "junit": junit.write,
    "ktap": ktap.write,
    "html": html.write,
    "trace": trace.write,
    "grid": grid.markdown,
    "json": lambda results: json.dumps(results.to_json(), indent=1) + "\n",
}


def run(options: ScenarioOptions) -> int:
    """Everything; the exit status.

    :raise VcapdevError: what kept it from happening at all.
    """
    today = datetime.date.today()
    listed = [entry for path in options.known for entry in known.read(path)]

    def told(test: TestResult) -> None:
        known.apply(test, listed, today)
        _tell(test)

    if options.merge:
        results = merged([_read(path) for path in options.files])
        for test in results.tests:
            told(test)
    else:
        tests = suite.selected(options)
        if options.listing:
            for one in tests:
                print(f"{one.id:<48} {f'skipped: {one.skip}' if one.skip else one.title}")
            return ExitStatus.CLEAN
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        results = Results(command=shlex.join(["vcapdev", *sys.argv[1:]]), when=when)
        results.tests = suite.run(tests, options, told)
    _finish(results, options)
    return _status(results, options)


def _finish(results: Results, options: ScenarioOptions) -> None:
    if options.matrix or len(results.kernels()) > 1:
        print("\n" + "\n".join(grid.table(results)))
        for text in grid.first_bad(results):
            print(text)
    counts = results.counts()
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    print(f"{len(results.tests)} tests: {told}", flush=True)
    for name, path in options.outputs.items():
        write(path, _WRITERS[name](results), name)


def _status(results: Results, options: ScenarioOptions) -> int:
    status = results.exit_status()
    if not options.exit_bisect:
        return status
    if status == ExitStatus.CLEAN and not any(
        test.status in (Status.PASS, Status.KNOWN) for test in results.tests
    ):
        return _CANNOT_TELL  # all were skipped
    return _BISECT.get(status, _CANNOT_TELL)


def _tell(test: TestResult) -> None:
    """A line for what went well, more for what did not."""
    message = "" if test.status == Status.FAIL else f"  {line(test.message, 160)}" if test.message else ""
    print(f"{_MARKS[Status(test.status)]:<5} {line(test.id):<44} {test.seconds:6.1f} s{message}", flush=True)
    if test.status not in (Status.FAIL, Status.ERROR, Status.USAGE):
        return
    for failure in test.failures:
        lines = plain(failure.text).splitlines()
        for each in lines[:_SHOWN]:
            print(f"      {each}")
        if len(lines) > _SHOWN:
            print(f"      ({len(lines) - _SHOWN} more lines: --html or --json)")
        print(
            f"      key: {line(failure.key)}" + (f" (known: {line(failure.known)})" if failure.known else "")
        )
    print(f"      again: {line(test.repeat)}", flush=True)


def _read(path: Path) -> Results:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--merge {path}: {' '.join(str(error).split())}") from None
    return Results.from_json(data, str(path))


def write(path: Path, text: str, name: str) -> None:
    """Write all of a file or nothing.

    :raise SetupError: when the disk is full or the place not writable.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(draft, path)
    except OSError as error:
        raise SetupError(
            f"--{name} {path}: cannot be written ({error.strerror}); name another place"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
