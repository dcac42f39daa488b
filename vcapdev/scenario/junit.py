# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as JUnit XML, in the dialect that GitLab, Jenkins and pytest agree on.

One ``testsuite`` a kernel. A test of a guest's program becomes a ``testcase`` of its own, below its scenario
by ``classname``. Infrastructure trouble and wrong usage are an ``error``, everything else that is red a
``failure``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator

from vcapdev.scenario.plain import line, plain
from vcapdev.scenario.results import Results, Status, Subtest, TestResult

_MOST_TEXT = 60_000  # characters of system-out for a test


def write(results: Results) -> str:
    """The XML document."""
    suites = [_suite(results, kernel) for kernel in results.kernels()]
    root = ET.Element("testsuites", {"name": "vcapdev", **_sums(suites)})
    root.extend(suites)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _suite(results: Results, kernel: str) -> ET.Element:
    tests = [test for test in results.tests if test.kernel == kernel]
    cases = [case for test in tests for case in _cases(test)]
    suite = ET.Element(
        "testsuite",
        name=line(kernel),
        tests=str(len(cases)),
        failures=str(_count(cases, "failure")),
        errors=str(_count(cases, "error")),
        skipped=str(_count(cases, "skipped")),
        time=f"{sum(test.seconds for test in tests):.3f}",
    )
    if results.when:
        suite.set("timestamp", line(results.when))
    suite.extend(cases)
    return suite


def _sums(suites: list[ET.Element]) -> dict[str, str]:
    whole = ("tests", "failures", "errors", "skipped")
    sums = {name: str(sum(int(suite.get(name, "0")) for suite in suites)) for name in whole}
    return {**sums, "time": f"{sum(float(suite.get('time', '0')) for suite in suites):.3f}"}


def _count(cases: Iterable[ET.Element], tag: str) -> int:
    return sum(case.find(tag) is not None for case in cases)


def _cases(test: TestResult) -> Iterator[ET.Element]:
    yield _case(test)
    yield from _subcases(test.subtests, f"{test.kernel}.{test.name}")


def _case(test: TestResult) -> ET.Element:
    case = ET.Element(
        "testcase", classname=line(test.kernel), name=line(test.name), time=f"{test.seconds:.3f}"
    )
    if test.file:
        case.set("file", line(test.file))
    _mark(case, test.status, test.message, "\n\n".join(failure.text for failure in test.failures), test)
    said = _said(test)
    if said:
        ET.SubElement(case, "system-out").text = plain(said, _MOST_TEXT)
    return case


def _mark(case: ET.Element, status: str, message: str, text: str, test: TestResult | None = None) -> None:
    tag = {
        Status.FAIL: "failure",
        Status.ERROR: "error",
        Status.USAGE: "error",
        Status.SKIP: "skipped",
        Status.KNOWN: "skipped",
    }.get(Status(status))
    if tag is None:
        return
    told = f"known: {message}" if status == Status.KNOWN else message
    element = ET.SubElement(case, tag, message=line(told))
    if tag != "skipped":
        element.set("type", _type(test))
        element.text = plain(text or message, _MOST_TEXT)


def _type(test: TestResult | None) -> str:
    return line(test.failures[0].what) if test is not None and test.failures else "subtest"


def _said(test: TestResult) -> str:
    lines = [f"{step.status:<5} {'  ' * step.level}{step.title}" for step in test.steps]
    if test.status not in (Status.PASS, Status.SKIP):
        lines += [f"key: {failure.key}" for failure in test.failures]
        lines += [f"again: {test.repeat}"] if test.repeat else []
        lines += [f"\n== {title} ==\n{text}" for title, text in test.texts]
    return "\n".join(lines)


def _subcases(subtests: list[Subtest], above: str) -> Iterator[ET.Element]:
    for one in subtests:
        if one.subtests:
            yield from _subcases(one.subtests, f"{above}.{one.name}")
            continue
        case = ET.Element("testcase", classname=line(above), name=line(one.name), time="0.000")
        _mark(case, one.status, one.message, one.message)
        yield case
