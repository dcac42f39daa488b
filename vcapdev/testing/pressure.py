# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory pressure in the guest for as long as a ``with`` block lasts."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from vcapdev.errors import GuestError, UsageError
from vcapdev.testing.config import did_you_mean
from vcapdev.vm.agent import GuestTimeoutError, Process

#: What can be asked for: words of the pressure program.
KINDS = {
    "pageout": "--pageout",  # the memory of every program that has a capture device open is swapped out
    "hog": "--fill",  # a program takes more memory than there is, and keeps touching it
    "compact": "--compact",  # the kernel moves pages to make large free areas
    "drop-caches": "--drop-caches",  # the kernel lets go of page cache and slabs
    "sync": "--sync",  # dirty pages are written back
}
NEEDS_SWAP = ("pageout", "hog")
_HOG_PERCENT = 100  # of the available memory: the rest of it has to be swapped
_EVERY = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)\Z")
_SCALE = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_MOST = 2000  # of what it told, the newest
_BEGIN, _END = 30.0, 20.0  # seconds for the program to begin, and to end when told to

Json = dict[str, Any]


def seconds(text: str | float) -> float:
    """A time such as ``"50ms"``, ``"1s"`` or a number of seconds.

    :raise UsageError: when it is none.
    """
    if isinstance(text, int | float) and not isinstance(text, bool) and text > 0:
        return float(text)
    found = _EVERY.match(text.strip()) if isinstance(text, str) else None
    if not found or not float(found[1]):
        raise UsageError(f"every={text!r}: give a time such as '50ms' or '1s'")
    return float(found[1]) * _SCALE[found[2]]


def command(kind: str, every: str | float | None, percent: int, swap: str) -> list[str]:
    """The words that start the pressure program.

    :raise UsageError: no such kind, or one that the guest cannot have.
    """
    if kind not in KINDS:
        raise UsageError(f"pressure({kind!r}): there is no such kind{did_you_mean(str(kind), list(KINDS))}")
    if kind in NEEDS_SWAP and swap == "none":
        raise UsageError(
            f"pressure({kind!r}) needs swap to push pages to; ask for @vcapdev.guest(swap='disk') or 'zram'"
        )
    if kind == "hog":
        if every is not None:
            raise UsageError("pressure('hog') is always there; every= is for the others")
        return ["vcap-pressure", "--fill", str(percent)]
    period = max(1, round(seconds("50ms" if every is None else every) * 1000))
    return ["vcap-pressure", KINDS[kind], "--every", str(period)]


class Pressure:
    """Pressure that is on; made by ``guest.pressure(...)``.

    :param spawn: starts the program in the guest; ``turn`` lets guest and card speak once.
    :param swapped: the guest's count of pages swapped out since its boot.
    :ivar rounds: how often it has acted so far; for "hog" how often it went over its memory.
    :ivar told: what the program said of itself and when, in seconds of the monotonic clock.
    :ivar pages_out: pages that were swapped out while it was on, once it is off.
    """

    def __init__(
        self,
        words: list[str],
        spawn: Callable[[list[str], Callable[[str], None]], Process],
        turn: Callable[[], None],
        swapped: Callable[[], int],
    ) -> None:
        self._words, self._spawn, self._turn, self._swapped = words, spawn, turn, swapped
        self._process: Process | None = None
        self._before = 0
        self._told = False
        self.told: deque[tuple[float, str]] = deque(maxlen=_MOST)
        self.rounds = 0
        self.pages_out = 0

    def __enter__(self) -> Pressure:
        self._before = self._swapped()
        process = self._process = self._spawn(self._words, self._line)
        end = time.monotonic() + _BEGIN
        while not self._told:
            self._turn()
            if process.status is not None:
                raise GuestError(self._ended_early(process))
            if time.monotonic() > end:
                process.kill(signal.SIGKILL)
                raise GuestTimeoutError(f"{' '.join(self._words)} did not begin within {_BEGIN:g} s")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kind is not None:
            with suppress(GuestError):
                self._end(process)
                self.pages_out = self._swapped() - self._before
            return
        early = process.status is not None
        self._end(process)
        if early:  # then there was less pressure than the test claims
            raise GuestError(self._ended_early(process))
        self.pages_out = self._swapped() - self._before

    def _end(self, process: Process) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            process.kill(number)
            end = time.monotonic() + _END
            while process.status is None and time.monotonic() < end:
                self._turn()

    def _line(self, text: str) -> None:
        with suppress(ValueError, TypeError, RecursionError):
            event = json.loads(text)
            self._told = True
            words = (f"{name} {value}" for name, value in event.items() if name != "event")
            self.told.append((time.monotonic(), f"{event.get('event')}: {', '.join(words)}"[:200]))
            self.rounds = max(self.rounds, int(event.get("rounds", event.get("passes", 0))))

    def _ended_early(self, process: Process) -> str:
        said = (process.stderr or process.stdout).strip().splitlines()
        why = said[-1] if said else "it said nothing"
        return (
            f"the memory pressure ({' '.join(self._words)}) ended early with status {process.status}: {why}"
        )
