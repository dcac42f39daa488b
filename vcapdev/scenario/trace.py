# SPDX-License-Identifier: GPL-2.0-or-later
"""The timelines as one trace that Perfetto and Chrome's about:tracing open (the JSON "Trace Event Format").

A test is a process, a track a thread of it; times are microseconds since the test's begin. Perfetto gives
what has one name one colour: a transfer is named after its verdict, or the state of its page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from vcapdev.scenario.plain import line
from vcapdev.scenario.results import Results, TestResult

Json = dict[str, Any]


def write(results: Results) -> str:
    """The JSON document."""
    events = [event for number, test in enumerate(results.tests, 1) for event in _test(number, test)]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, indent=None) + "\n"


def _test(number: int, test: TestResult) -> Iterator[Json]:
    yield _meta(number, 0, "process_name", line(test.id))
    tracks = {"steps": 1}
    for step in test.steps:
        span = {"ts": round(step.begin * 1e6), "dur": max(1, round(step.seconds * 1e6))}
        name, args = line(step.title, 120), {"status": step.status}
        yield {"ph": "X", "pid": number, "tid": 1, "name": name, **span, "args": args}
    for event in test.timeline:
        tid = tracks.setdefault(event.track, len(tracks) + 1)
        judged = event.track == "DMA" and event.colour
        name = (event.detail if event.colour == "fail" else event.colour) if judged else event.name
        one: Json = {"pid": number, "tid": tid, "name": line(name, 120), "ts": event.begin}
        one["cat"] = event.track
        one |= {"ph": "X", "dur": event.length} if event.length else {"ph": "i", "s": "t"}
        if event.detail or event.colour:
            one["args"] = {"detail": line(event.detail), "state": event.colour}
        if judged:
            one["args"]["transfer"] = line(event.name)
            one["cname"] = "terrible" if event.colour == "fail" else "good"  # Chrome's own names of colours
        yield one
    for name, tid in tracks.items():
        yield _meta(number, tid, "thread_name", line(name))


def _meta(pid: int, tid: int, what: str, name: str) -> Json:
    return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": {"name": name}}
