# SPDX-License-Identifier: GPL-2.0-or-later
"""A test's timeline: the card's own record, the guest's kernel log and the pressure that was on, in
microseconds since the test's begin.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from vcapdev.errors import GuestError
from vcapdev.scenario.results import Event
from vcapdev.testing.guest import Guest

_LINE = re.compile(r"\[ *(\d+)\.(\d{6})\] (.*)")
_MOST = 4000  # lines of the log
BAD = "fail"  # the colour of what was judged bad

Json = dict[str, Any]


def record(guest: Guest) -> None:
    """Have the card record from now on."""
    with suppress(GuestError):
        guest.card.call("timeline", record=True)


def collect(guest: Guest, pressed: Sequence[Event] = ()) -> list[Event]:
    """All that is known; less where the guest or the device has died. The card records no more.

    :param pressed: the memory pressure of the test.
    """
    found: list[Event] = []
    with suppress(GuestError):
        found += _card(guest.card.call("timeline", record=False)["events"])
    return [*found, *pressed, *_log(guest)]


def thinned(events: Sequence[Event], most: int) -> list[Event]:
    """The newest ``most`` events of each track, and all that tell of something bad, in the same order."""
    left = Counter(event.track for event in events)
    kept = []
    for event in events:
        if left[event.track] <= most or event.colour == BAD:
            kept.append(event)
        left[event.track] -= 1
    return kept


def _card(events: list[Json]) -> Iterator[Event]:
    for one in events:  # the card keeps no more of a track than it should
        state, broken = str(one["state"]), str(one.get("verdict", ""))
        detail = f"{broken}, page {state}" if broken and state else broken
        colour = BAD if broken else state
        yield Event(str(one["track"]), str(one["name"]), max(0, int(one["at"])), 0, colour, detail)


def _log(guest: Guest) -> Iterator[Event]:
    lines = guest.log_text(guest.since).splitlines()
    for each in lines[-_MOST:]:
        hit = _LINE.match(each)
        if hit:
            usec = int(hit[1]) * 1_000_000 + int(hit[2]) - max(0, guest.since)
            yield Event("guest log", hit[3][:200], max(0, usec))
