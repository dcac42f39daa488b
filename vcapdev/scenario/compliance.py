# SPDX-License-Identifier: GPL-2.0-or-later
"""v4l2-compliance held to a baseline: what has always failed may, what passed must go on passing.

A baseline is a file of ``baselines/`` beside the scenario, one for each kernel, since both the driver and
v4l2-compliance differ between releases::

    fails: {"Format ioctls (Input 0): VIDIOC_S_FMT": "fail: v4l2-test-formats.cpp(1110): ..."}
    passes: ["Required ioctls: VIDIOC_QUERYCAP", ...]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import UsageError
from vcapdev.scenario.plain import line
from vcapdev.scenario.results import Status, Subtest

DIRECTORY = "baselines"
_TEST = re.compile(r"\s*test (.{1,200}?): (OK|FAIL|OK \(Not Supported\)|OK \(Not Applicable\))\s*\Z")
_SECTION = re.compile(r"([A-Z][^\t]{1,120}):\s*\Z")
_DETAIL = re.compile(r"\s*(fail: .+)\Z")
_LINE_NUMBER = re.compile(r"\(\d+\)")
_TOTAL = re.compile(r"Total(?: for [^:]+)?: (\d+), Succeeded: (\d+), Failed: (\d+)")
_MOST = 5000  # tests

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What v4l2-compliance said: test: "" where it passed, else its complaint; how many by its own count."""

    tests: Mapping[str, str]
    total: int | None


def parse(text: str) -> Outcome:
    """Read its output. A test's name has its section in front, and a number where it comes again."""
    tests: dict[str, str] = {}
    section, detail, total = "", "", None
    for raw in text.splitlines():
        if found := _TEST.match(raw):
            name = f"{section}: {found[1].strip()}" if section else found[1].strip()
            complaint = (line(detail, 200) or "fail") if found[2] == "FAIL" else ""
            if len(tests) < _MOST:
                tests[_numbered(name, tests)] = complaint
            detail = ""
        elif found := _DETAIL.match(raw):
            detail = detail or _LINE_NUMBER.sub("", found[1].strip())
        elif found := _SECTION.match(raw):
            section = line(found[1], 120)
        elif found := _TOTAL.match(raw):
            total = int(found[1])
    return Outcome(tests, total)


def _numbered(name: str, known: Mapping[str, str]) -> str:
    count = 1
    while (each := name if count == 1 else f"{name} ({count})") in known:
        count += 1
    return each


def held(outcome: Outcome, baseline: Json) -> list[Subtest]:
    """Each test against the baseline."""
    fails, passes = baseline["fails"], frozenset(baseline["passes"])
    found = [
        _held(name, complaint, name in fails, name in passes) for name, complaint in outcome.tests.items()
    ]
    gone = [name for name in (*fails, *baseline["passes"]) if name not in outcome.tests]
    found += [Subtest(name, Status.FAIL, "it was not run; the baseline has it") for name in gone]
    if outcome.total is None:
        found.append(Subtest("end", Status.FAIL, "v4l2-compliance did not come to its end"))
    return found


def _held(name: str, complaint: str, may_fail: bool, known: bool) -> Subtest:
    if not complaint:
        return Subtest(
            name, Status.PASS, "the baseline has it as failing: record it anew" if may_fail else ""
        )
    if may_fail:
        return Subtest(name, Status.KNOWN, f"baseline: {complaint}")
    return Subtest(name, Status.FAIL, complaint if known else f"not in the baseline: {complaint}")


def path_of(file: Path, name: str, kernel: str) -> Path:
    """Where a scenario's baseline is."""
    return file.parent / DIRECTORY / f"{name}.{kernel}.yaml"


def read(path: Path) -> Json:
    """A baseline. :raise UsageError: there is none, or it is no such file."""
    try:
        data: Json = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no baseline; vcapdev scenario --record makes it") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from None
    good = isinstance(data, dict) and set(data) == {"fails", "passes"}
    if not good or not isinstance(data["fails"], dict) or not isinstance(data["passes"], list):
        raise UsageError(f"{path}: no baseline; it has 'fails', a mapping, and 'passes', a list")
    return data


def record(path: Path, outcome: Outcome, release: str) -> None:
    """Write what came as the baseline. :raise UsageError: it is not complete, or cannot be written."""
    if outcome.total is None or not outcome.tests:
        raise UsageError(f"{path}: v4l2-compliance did not come to its end; nothing was recorded")
    body = {
        "fails": {name: text for name, text in outcome.tests.items() if text},
        "passes": [name for name, text in outcome.tests.items() if not text],
    }
    head = "# SPDX-License-Identifier: GPL-2.0-or-later\n" + f"# Recorded on Linux {line(release, 60)}.\n"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(head + yaml.safe_dump(body, sort_keys=False, width=110), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
