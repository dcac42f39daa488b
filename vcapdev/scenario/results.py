# SPDX-License-Identifier: GPL-2.0-or-later
"""What came of scenarios: the one model that every writer reads, and that JSON carries between machines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from vcapdev import __version__
from vcapdev.errors import ExitStatus, UsageError

SCHEMA_VERSION = 1
_HEX = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8,16}\b")
_DIGITS = re.compile(r"\b\d+(\.\d+)?\b")
_LONGEST_KEY = 200

Json = dict[str, Any]


class Status(StrEnum):
    """How a test ended."""

    PASS = "pass"
    FAIL = "fail"
    KNOWN = "known"  # it failed, and all of its findings are listed as known
    SKIP = "skip"
    ERROR = "error"  # the infrastructure failed: says nothing about the driver
    USAGE = "usage"  # the scenario asks for what there is not: says nothing about the driver either


class What(StrEnum):
    """What a failure came from."""

    STEP = "step"
    VERDICT = "verdict"  # of the DMA checker
    KERNEL = "kernel"  # the guest's kernel complained
    EXPECTATION = "expectation"
    SUBTEST = "subtest"
    INFRASTRUCTURE = "infrastructure"
    USAGE = "usage"  # what the scenario asks for


@dataclass
class Failure:
    """One thing that was not as it must be.

    :ivar key: recognises the same failure in another run: no addresses, numbers or pids of the moment.
    :ivar text: what happened; the first line is the message.
    :ivar known: why it is put up with, "" when it is not.
    """

    what: str
    key: str
    text: str
    known: str = ""

    @property
    def message(self) -> str:
        """Its first line."""
        return self.text.strip().split("\n", 1)[0]


@dataclass
class StepResult:
    """One step, as reports list it. ``begin`` and ``seconds`` count from the test's begin."""

    title: str
    status: str
    begin: float = 0.0
    seconds: float = 0.0
    note: str = ""
    level: int = 0  # of nesting


@dataclass
class Event:
    """A moment or a span on the timeline: microseconds since the test's begin."""

    track: str
    name: str
    begin: int
    length: int = 0
    colour: str = ""  # a page state; "fail" of what was judged bad; or ""
    detail: str = ""


@dataclass
class Subtest:
    """A test inside a test: of a KTAP program, or of v4l2-compliance."""

    name: str
    status: str
    message: str = ""
    subtests: list[Subtest] = field(default_factory=list)


@dataclass
class Picture:
    """A frame: PNG bytes, base64."""

    title: str
    png: str
    legend: list[list[str]] = field(default_factory=list)  # state, share


@dataclass
class TestResult:
    """What came of one test.

    :ivar figures: counters: pages judged, fields, frames, interrupts, ....
    :ivar texts: title and text of what is attached: kernel log, register trace, findings.
    :ivar repeat: the one command that plays it again.
    :ivar exit_status: of an ERROR or USAGE, which kind of trouble it was.
    """

    __test__ = False  # none of pytest's

    name: str
    kernel: str
    title: str = ""
    file: str = ""
    status: str = Status.PASS
    message: str = ""
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    steps: list[StepResult] = field(default_factory=list)
    subtests: list[Subtest] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)
    texts: list[list[str]] = field(default_factory=list)
    splats: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    timeline: list[Event] = field(default_factory=list)
    repeat: str = ""
    release: str = ""
    exit_status: int = 0

    @property
    def id(self) -> str:
        """Unique in a run."""
        return f"{self.name}@{self.kernel}"


@dataclass
class Results:
    """What came of a run of scenarios."""

    tests: list[TestResult] = field(default_factory=list)
    command: str = ""
    when: str = ""  # begin, ISO 8601
    version: str = __version__
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many tests ended how."""
        found = Counter(str(test.status) for test in self.tests)
        return {str(status): found.get(status, 0) for status in Status}

    def kernels(self) -> list[str]:
        """In the order of their first test."""
        return list(dict.fromkeys(test.kernel for test in self.tests))

    def names(self) -> list[str]:
        """Of tests, in the order of their first result."""
        return list(dict.fromkeys(test.name for test in self.tests))

    def at(self, name: str, kernel: str) -> TestResult | None:
        """One cell of the grid."""
        return next((t for t in self.tests if t.name == name and t.kernel == kernel), None)

    def exit_status(self) -> ExitStatus:
        """A red driver wins over failed infrastructure: its evidence stands."""
        if any(test.status == Status.FAIL for test in self.tests):
            return ExitStatus.FINDINGS
        errors = {test.exit_status for test in self.tests if test.status in (Status.ERROR, Status.USAGE)}
        for status in (ExitStatus.DEFECT, ExitStatus.USAGE, ExitStatus.ENVIRONMENT):
            if status in errors:
                return status
        return ExitStatus.GUEST if errors else ExitStatus.CLEAN

    def to_json(self) -> Json:
        """Plain JSON values."""
        return {"schema": SCHEMA_VERSION, "counts": self.counts(), **asdict(self)}

    @classmethod
    def from_json(cls, data: Any, where: str) -> Self:
        """Read what :meth:`to_json` wrote, on whatever machine.

        :raise UsageError: it is something else.
        """
        try:
            if data["schema"] != SCHEMA_VERSION:
                raise UsageError(f"{where}: results of schema {data['schema']}; this is {SCHEMA_VERSION}")
            rest = {key: data[key] for key in ("command", "when", "version", "notes")}
            return cls(tests=[_test(one) for one in data["tests"]], **rest)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(f"{where}: no results of vcapdev scenario --json ({error!r})") from None


def _test(data: Json) -> TestResult:
    known = {item.name for item in fields(TestResult)}
    if set(data) - known:
        raise ValueError(f"unknown {sorted(set(data) - known)}")
    inner = {
        "failures": [Failure(**one) for one in data["failures"]],
        "steps": [StepResult(**one) for one in data["steps"]],
        "subtests": [_subtest(one) for one in data["subtests"]],
        "pictures": [Picture(**one) for one in data["pictures"]],
        "timeline": [Event(**one) for one in data["timeline"]],
    }
    Status(data["status"])
    return TestResult(**{**data, **inner})


def _subtest(data: Json) -> Subtest:
    Status(data["status"])
    return Subtest(**{**data, "subtests": [_subtest(one) for one in data["subtests"]]})


def merged(parts: Sequence[Results]) -> Results:
    """Results of shards as one. :raise UsageError: a test is in two of them."""
    tests: dict[str, TestResult] = {}
    for part in parts:
        for test in part.tests:
            if test.id in tests:
                raise UsageError(f"--merge: {test.id} is in two of the results; merge shards of one run")
            tests[test.id] = test
    first = parts[0] if parts else Results()
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    ordered = [tests[ident] for ident in sorted(tests)]
    return Results(ordered, first.command, min((p.when for p in parts), default=""), first.version, notes)


def key_of(what: str, text: str) -> str:
    """A key for a failure: its first line without what differs between runs."""
    line = text.strip().split("\n", 1)[0]
    line = _DIGITS.sub("N", _HEX.sub("X", line))
    return f"{what}: {line}"[:_LONGEST_KEY]


def all_subtests(subtests: Sequence[Subtest]) -> list[Subtest]:
    """Those and all below, leaves and knots."""
    found: list[Subtest] = []
    for one in subtests:
        found += [one, *all_subtests(one.subtests)]
    return found
