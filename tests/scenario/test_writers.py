# SPDX-License-Identifier: GPL-2.0-or-later
"""Each writer against a golden file, a parser, and a guest that says what breaks formats.

``GOLDEN=write pytest tests/scenario/test_writers.py`` writes the golden files anew.
"""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scenario_samples import HOSTILE, hostile, sample

from vcapdev.errors import ExitStatus, UsageError
from vcapdev.scenario import html, junit, ktap, ktapread, svg, trace
from vcapdev.scenario.plain import line, plain
from vcapdev.scenario.results import Event, Results, Status, TestResult, key_of, merged
from vcapdev.scenario.timeline import thinned

GOLDEN = Path(__file__).parent / "golden"
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202e]")


def as_json(results: Results) -> str:
    return json.dumps(results.to_json(), indent=1) + "\n"


WRITERS: dict[str, Callable[[Results], str]] = {
    "sample.xml": junit.write,
    "sample.ktap": ktap.write,
    "sample.html": html.write,
    "sample.trace.json": trace.write,
    "sample.json": as_json,
}


@pytest.mark.parametrize("name", WRITERS)
def test_golden(name: str) -> None:
    """What people's tools have read so far does not change unnoticed."""
    text = WRITERS[name](sample())
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "sample.json"])
def test_no_writer_lets_a_control_character_through(name: str) -> None:
    """A terminal that shows a result obeys no guest."""
    assert not _FORBIDDEN.search(WRITERS[name](hostile()))


# -- JUnit


def test_junit_is_what_ci_servers_count() -> None:
    """GitLab and Jenkins take the sums from the attributes, and infrastructure trouble is no failure."""
    root = ET.fromstring(junit.write(sample()))
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors")) == (
        "testsuites",
        "10",
        "3",
        "1",
    )
    assert [suite.get("name") for suite in root] == ["bookworm-6.1", "trixie-6.12"]
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.get("tests", "")) == len(cases)
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(attribute, "")) == sum(case.find(tag) is not None for case in cases)
        assert all(float(case.get("time", "x")) >= 0 and case.get("classname") for case in cases)
    storm = next(case for case in root.iter("testcase") if case.get("name") == "storm")
    assert "second line" in (storm.find("failure").text or "")  # type: ignore[union-attr]
    assert "key: verdict: not-pinned" in (storm.findtext("system-out") or "")


def test_junit_keeps_hostile_text_as_text() -> None:
    """The document stays well-formed, its elements are ours alone, and what was said can still be read."""
    root = ET.fromstring(junit.write(hostile()))
    tags = {element.tag for element in root.iter()}
    assert tags == {"testsuites", "testsuite", "testcase", "failure", "error", "skipped", "system-out"}
    failed = next(root.iter("failure"))
    assert "]]> </script>" in (failed.text or "")
    assert "\\x1b[2J" in (failed.text or "")


# -- KTAP


def strict_ktap(text: str) -> list[str]:
    """A reader that takes nothing but KTAP 1: on every level a version, a plan, just as many results."""
    found: list[str] = []
    lines = text.split("\n")
    assert lines.pop() == ""
    at = _strict_level(lines, 0, "", found)
    assert at == len(lines), f"what is {lines[at]!r} there for?"
    return found


def _strict_level(lines: list[str], at: int, indent: str, found: list[str]) -> int:
    assert lines[at] == f"{indent}KTAP version 1"
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines[at + 1])
    assert plan, lines[at + 1]
    at += 2
    for number in range(1, int(plan[1]) + 1):
        while lines[at].startswith(f"{indent}#"):
            at += 1
        if lines[at] == f"{indent}  KTAP version 1":
            at = _strict_level(lines, at, indent + "  ", found)
        while lines[at].startswith(f"{indent}#"):
            at += 1
        result = re.fullmatch(
            rf"{indent}(ok|not ok) {number} ([^#]+?)( # (SKIP|XFAIL|ERROR|TODO|TIMEOUT)( .*)?)?", lines[at]
        )
        assert result, lines[at]
        found.append(f"{result[1]} {result[2]} {result[4] or ''}".strip())
        at += 1
    return at


def test_ktap_is_strict() -> None:
    """Every level with version, plan and numbers, directives as the document of the kernel names them."""
    assert strict_ktap(ktap.write(sample())) == [
        "ok capture@bookworm-6.1",
        "not ok storm@bookworm-6.1",
        "ok a",
        "not ok b",
        "ok c1 SKIP",
        "ok c2",
        "ok c",
        "not ok compliance@bookworm-6.1",
        "ok capture@trixie-6.12 XFAIL",
        "not ok storm@trixie-6.12 ERROR",
        "ok compliance@trixie-6.12 SKIP",
    ]


def test_ktap_cannot_be_forged() -> None:
    """A guest's text makes neither a result line nor a directive, nor a plan."""
    found = strict_ktap(ktap.write(hostile()))
    assert len(found) == 3 * len(Status)
    assert not any(entry.startswith(("ok forged", "not ok forged")) for entry in found)
    fails = [entry for entry in found if entry.startswith("not ok") and entry.endswith("SKIP")]
    assert not fails


def test_our_ktap_can_be_read_back() -> None:
    """Writer and reader agree: what was written comes back with its nesting."""
    back = ktapread.parse(ktap.write(sample()))
    assert [one.status for one in back] == ["pass", "fail", "fail", "known", "fail", "skip"]
    assert [one.name for one in back[2].subtests] == ["a", "b", "c"]
    assert [one.status for one in back[2].subtests[2].subtests] == ["skip", "pass"]


# -- HTML


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "img", "path", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing() -> None:
    """One file, no script, every tag closed, links into the page only."""
    for results in (sample(), hostile()):
        page = Page()
        page.feed(html.write(results))
        page.close()
        assert not page.open
        assert not page.tags & {"script", "link", "iframe", "object", "form", "base"}
        assert not page.handlers
        assert all(re.match(r"#t\d+$|data:image/png;base64,[A-Za-z0-9+/=]*$", a) for a in page.addresses)


def test_the_page_shows_what_a_reviewer_needs() -> None:
    """Grid, timeline, splat and the command that repeats it."""
    text = html.write(sample())
    assert '<td class="fail"><a href="#t2">failed</a></td>' in text
    assert "<svg" in text
    assert "frame 0 at 0.001500 s" in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "again: <code>vcapdev scenario storm.yaml</code>" in text
    assert 'fill="#d22"><title>program 1 at 0.001800 s not-pinned, page unpinned</title>' in text
    assert re.search(r'background:#d22"></span>judged bad<span class="box"[^>]*></span>pinned-anon', text)
    for track in ("fields", "DMA", "registers", "interrupts", "pressure"):
        assert re.search(rf'<text x="4" y="\d+">{track}</text>', text), track


def test_what_was_judged_bad_is_drawn_however_much_there_is() -> None:
    """A track of thousands of marks is thinned out; its red ones are not."""
    events = [Event("DMA", f"program {at}", at, 0, "pinned-anon") for at in range(9000)]
    for at in (1, 4501, 8998):
        events[at].colour, events[at].detail = "fail", "not-pinned"
    drawn = svg.timeline(TestResult("t", "k", timeline=events))
    assert drawn.count('fill="#d22"') == 3
    assert drawn.count("<rect") < 400
    kept = thinned([Event("registers", str(at), at) for at in range(50)] + events, 20)
    assert [event.name for event in kept if event.track == "registers"] == [str(at) for at in range(30, 50)]
    assert [event.begin for event in kept if event.track == "DMA"] == [1, 4501, *range(8980, 9000)]


# -- trace and JSON


def test_the_trace_is_what_perfetto_opens() -> None:
    """Complete events with times, instants with a scope, names for processes and threads."""
    of_dma = [
        one["name"] for one in json.loads(trace.write(sample()))["traceEvents"] if one.get("cat") == "DMA"
    ]
    assert of_dma == ["pinned-anon", "not-pinned, page unpinned"], "one name is one colour"
    for results in (sample(), hostile()):
        events = json.loads(trace.write(results))["traceEvents"]
        assert {event["ph"] for event in events} <= {"X", "i", "M"}
        for event in events:
            assert isinstance(event["pid"], int)
            assert isinstance(event["tid"], int)
            assert event["ph"] == "M" or event["ts"] >= 0
            assert event["ph"] != "X" or event["dur"] > 0
        named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
        assert {(e["pid"], e["tid"]) for e in events if e["ph"] != "M"} <= named


def test_json_comes_back() -> None:
    """A shard's file is read back as it was, hostile text and all."""
    for results in (sample(), hostile()):
        data = json.loads(as_json(results))
        assert Results.from_json(data, "x").to_json() == results.to_json()


@pytest.mark.parametrize(
    "broken",
    [None, [], {}, {"schema": 99}, {"schema": 1}, {"schema": 1, "tests": [{"name": 1}], "command": ""}],
)
def test_json_of_something_else_is_refused_in_one_line(broken: object) -> None:
    """--merge of a wrong file is a usage error, not a traceback."""
    with pytest.raises(UsageError, match=r"^results\.json: ") as caught:
        Results.from_json(broken, "results.json")
    assert "\n" not in str(caught.value)


def test_shards_merge_to_the_whole() -> None:
    """The order of shards does not matter, and no test may come twice."""
    whole = sample()
    parts = [Results(whole.tests[at::3], "c", "t") for at in range(3)]
    one, other = merged(parts), merged(parts[::-1])
    assert [t.id for t in one.tests] == [t.id for t in other.tests] == sorted(t.id for t in whole.tests)
    assert one.exit_status() == whole.exit_status()
    with pytest.raises(UsageError, match="is in two of the results"):
        merged([parts[0], parts[0]])


# -- statuses and keys


def test_infrastructure_is_never_a_red_driver() -> None:
    """The exit status tells the two apart; a red driver wins, its evidence stands."""

    def of(*pairs: tuple[str, int]) -> int:
        return Results(
            [TestResult("t", str(n), status=s, exit_status=e) for n, (s, e) in enumerate(pairs)]
        ).exit_status()

    assert of((Status.PASS, 0), (Status.SKIP, 0), (Status.KNOWN, 0)) == ExitStatus.CLEAN
    assert of((Status.PASS, 0), (Status.ERROR, 20)) == ExitStatus.ENVIRONMENT
    assert of((Status.ERROR, 30), (Status.PASS, 0)) == ExitStatus.GUEST
    assert of((Status.ERROR, 30), (Status.ERROR, 1)) == ExitStatus.DEFECT
    assert of((Status.ERROR, 20), (Status.FAIL, 0)) == ExitStatus.FINDINGS


def test_a_key_holds_nothing_of_the_moment() -> None:
    """Numbers, addresses and hashes differ between runs; the key does not."""
    one = key_of("kernel", "WARNING: CPU: 1 PID: 231 at mm/gup.c:12 try_grab+0x12/0x90\nmore")
    assert one == key_of("kernel", "WARNING: CPU: 0 PID: 9 at mm/gup.c:12 try_grab+0xff/0x90")
    assert "231" not in one


def test_plain_text() -> None:
    """What a terminal obeys is shown instead, and a flood is cut in the middle."""
    assert line(HOSTILE).count("\n") == 0
    assert plain("a\x1b[0m\u202eb\r\nc") == "a\\x1b[0m\\u202eb\nc"
    long = plain("x" * 5000 + "END", 1000)
    assert len(long) < 1100
    assert long.endswith("END")
