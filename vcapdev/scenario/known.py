# SPDX-License-Identifier: GPL-2.0-or-later
"""Known findings: a list of keys that do not make a run red, each with a reason and a day on which that ends.

::

    - key: "not-pinned (V3): DMA write to a free page, *"
      why: reported to the list on 3 November, fixed in 6.13-rc4
      until: 2026-12-31
      kernel: "trixie-*"
      scenario: unbind-*
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from vcapdev.scenario.kinds import Key, ListOf, Section, Text
from vcapdev.scenario.nodes import Place, compose, read_text
from vcapdev.scenario.results import Failure, Status, TestResult, What

_DATE = Text(r"\d{4}-\d\d-\d\d", like="a date such as 2026-12-31")
_ENTRY = Section(
    {
        "key": Key(Text(), "of the failure, as reports print it; a glob", required=True),
        "why": Key(Text(), "why it is put up with", required=True),
        "until": Key(_DATE, "the last day on which it is", required=True),
        "kernel": Key(Text(), "recipes (a glob) that it is about"),
        "scenario": Key(Text(), "names of tests (a glob) that it is about"),
    },
    "in a known finding",
)


@dataclass(frozen=True)
class Known:
    """One entry of the list."""

    key: str
    why: str
    until: datetime.date
    kernel: str = "*"
    scenario: str = "*"

    def meets(self, test: TestResult, failure: Failure) -> bool:
        """Whether it is about this failure, on whatever day."""
        here = fnmatchcase(test.kernel, self.kernel) and fnmatchcase(test.name, self.scenario)
        return here and (failure.key == self.key or fnmatchcase(failure.key, self.key))


def read(path: Path) -> list[Known]:
    """Read a list. :raise ScenarioError: with line and column."""
    place = Place(str(path))
    node = compose(read_text(path), place)
    entries = ListOf(_ENTRY).read(node, place)
    found = []
    for one, each in zip(entries, node.value, strict=True):
        try:
            until = datetime.date.fromisoformat(one.pop("until"))
        except ValueError as error:
            raise place.wrong(each, f"until: {error}") from None
        found.append(Known(until=until, **one))
    return found


def apply(test: TestResult, known: Sequence[Known], today: datetime.date) -> None:
    """Mark what is known. A test whose failures are all known is not red any more."""
    for failure in test.failures:
        if failure.what in (What.INFRASTRUCTURE, What.USAGE):
            continue
        entries = [one for one in known if one.meets(test, failure)]
        valid = [one for one in entries if today <= one.until]
        if valid:
            failure.known = f"{valid[0].why} (until {valid[0].until})"
        elif entries:
            failure.text += f"\n(it was listed as known until {entries[0].until}: {entries[0].why})"
    if test.status == Status.FAIL and test.failures and all(failure.known for failure in test.failures):
        test.status, test.message = Status.KNOWN, test.failures[0].known


def template(test: TestResult, today: datetime.date) -> str:
    """An entry for each failure of a test, to be edited: in a month it is red again."""
    until = (today + datetime.timedelta(days=30)).isoformat()
    entries = [
        {
            "key": failure.key,
            "why": "to be filled in",
            "until": until,
            "kernel": test.kernel,
            "scenario": test.name,
        }
        for failure in test.failures
    ]
    return yaml.safe_dump(entries, sort_keys=False, width=110) if entries else ""
