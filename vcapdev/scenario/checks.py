# SPDX-License-Identifier: GPL-2.0-or-later
"""Expectations of single steps, compared with what came. Pure: what was seen goes in, complaints come out."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vcapdev.scenario.plain import line
from vcapdev.testing.capture import CaptureResult

_COMPARE = re.compile(r"(<=|>=|<|>|==|!=)?\s*(\d+)\Z")
_OPERATORS: Mapping[str, Callable[[int, int], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
COUNTS = ("captured", "intact", "torn", "damaged", "dropped", "failed", "swapped_pages")
_SHOWN = 12  # lines of an output

Json = Mapping[str, Any]


def fits(value: int, wanted: str) -> bool:
    """Whether a count is as ``5``, ``>= 5``, ... says."""
    found = _COMPARE.match(wanted.strip())
    return found is not None and _OPERATORS[found[1] or "=="](value, int(found[2]))


def of_capture(result: CaptureResult, expect: Json) -> list[str]:
    """What a capture lacks; without an expectation every frame has to be intact."""
    found = _of_end(result, expect)
    any_end = expect.get("ends") == "any" or "failure" in expect
    wanted = {"torn": "0", "damaged": "0"}
    if not any_end:
        wanted |= {"intact": str(result.wanted)}
    wanted |= {name: str(expect[name]) for name in COUNTS if name in expect}
    for name, text in wanted.items():
        value = int(getattr(result, name))
        if not fits(value, text):
            found.append(f"{name} {value}, not {text} (of {result.wanted} frames wanted)")
    if any(not fits(int(getattr(result, name)), wanted.get(name, "0")) for name in ("torn", "damaged")):
        found += [f"  {_told(place)}" for place in result.bad[:3]]
    return found


def _of_end(result: CaptureResult, expect: Json) -> list[str]:
    failure = result.failure
    if "failure" in expect:
        if failure is None:
            return [f"it came to its end, but had to fail with {expect['failure']!r}"]
        if not re.search(expect["failure"], failure):
            return [f"it failed with {line(failure)!r}, not {expect['failure']!r}"]
        return []
    return [line(failure)] if failure is not None and expect.get("ends") != "any" else []


def _told(place: Mapping[str, Any]) -> str:
    return line(", ".join(f"{key} {value}" for key, value in place.items()), 200)


def of_command(status: int, stdout: str, stderr: str, expect: Json) -> list[str]:
    """What a command lacks; without an expectation it has to end with status 0."""
    found = _of_status(status, stdout, stderr, expect)
    for name, text in (("stdout", stdout), ("stderr", stderr)):
        found += [
            f"its {'output' if name == 'stdout' else 'complaints'} lack {pattern!r}:\n{tail(text)}"
            for pattern in expect.get(name, ())
            if not re.search(pattern, text, re.MULTILINE)
        ]
    for pattern in expect.get("lacks", ()):
        hit = re.search(pattern, f"{stdout}\n{stderr}", re.MULTILINE)
        if hit:
            found.append(f"it said {line(hit[0])!r}, which it must not ({pattern!r})")
    return found


def _of_status(status: int, stdout: str, stderr: str, expect: Json) -> list[str]:
    wanted = expect.get("status", 0)
    if wanted == "any":
        return []
    allowed: Sequence[int] = wanted if isinstance(wanted, tuple) else (wanted,)
    if status in allowed:
        return []
    said = tail(stderr.strip() or stdout.strip() or "it said nothing")
    return [f"it ended with status {status}, not {' or '.join(map(str, allowed))}:\n{said}"]


def tail(text: str) -> str:
    """The last lines of an output."""
    lines = text.strip().splitlines()
    return "\n".join(f"  {each}" for each in lines[-_SHOWN:])


def of_log(log: str, has: Sequence[str], lacks: Sequence[str]) -> list[str]:
    """What the guest's kernel log lacks, or has and must not."""
    found = [f"the kernel log lacks {one!r}" for one in has if not re.search(one, log, re.MULTILINE)]
    for one in lacks:
        hit = re.search(f"^.*(?:{one}).*$", log, re.MULTILINE)
        if hit:
            found.append(f"the kernel log has {line(hit[0])!r}, which it must not ({one!r})")
    return found
