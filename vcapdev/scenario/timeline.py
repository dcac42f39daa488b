# SPDX-License-Identifier: GPL-2.0-or-later
"""A test's timeline: the card's own record and the guest's kernel log, in microseconds since its begin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from vcapdev.errors import GuestError
from vcapdev.scenario.results import Event
from vcapdev.testing.guest import Guest

_LINE = re.compile(r"\[ *(\d+)\.(\d{6})\] (.*)")
_MOST = 4000  # events of a track

Json = dict[str, Any]


def record(guest: Guest) -> None:
    """Have the card record from now on."""
    with suppress(GuestError):
        guest.card.call("timeline", record=True)


def collect(guest: Guest) -> list[Event]:
    """All that is known; less where the guest or the device has died. The card records no more."""
    found: list[Event] = []
    with suppress(GuestError):
        found += _card(guest.card.call("timeline", record=False)["events"])
    return [*found, *_log(guest)]


def _card(events: list[Json]) -> Iterator[Event]:
    for one in events[-_MOST:]:
        yield Event(str(one["track"]), str(one["name"]), max(0, int(one["at"])), 0, str(one["state"]))


def _log(guest: Guest) -> Iterator[Event]:
    lines = guest.log_text(guest.since).splitlines()
    for each in lines[-_MOST:]:
        hit = _LINE.match(each)
        if hit:
            usec = int(hit[1]) * 1_000_000 + int(hit[2]) - max(0, guest.since)
            yield Event("guest log", hit[3][:200], max(0, usec))
