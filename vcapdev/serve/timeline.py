# SPDX-License-Identifier: GPL-2.0-or-later
"""What the card did and when, while somebody wants to know: transfers and what was found in them, fields,
interrupts, register accesses, switches of DMA.

Nothing stands in the card's way until :meth:`Timeline.start`. Times are microseconds of the reactor's clock.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from itertools import count
from typing import Any

from vcapdev.bt878.chip import Bt878
from vcapdev.dma import Abort, Batch, Checkpoint, DmaObserver, NullObserver
from vcapdev.regs import Access

_LENGTH = 2000  # events of a track; the newest are kept

Json = dict[str, Any]


class Timeline(NullObserver):
    """A bounded ring of events for each track.

    :param state_of: the state of a batch's pages as they were judged, "" where they were not.
    :param tally: findings so far, by rule.
    """

    def __init__(
        self,
        chip: Bt878,
        observers: list[DmaObserver],
        now: Callable[[], float],
        state_of: Callable[[Batch], str],
        tally: Callable[[], dict[str, int]],
    ) -> None:
        self._chip, self._observers, self._now, self._state_of = chip, observers, now, state_of
        self._findings = _Findings(tally)
        self._rings: defaultdict[str, deque[tuple[float, int, str | Access, str, str]]]
        self._number = count()  # keeps the order of what is of one moment
        self._rings = defaultdict(lambda: deque(maxlen=_LENGTH))
        self._drive: Callable[[bool], None] | None = None
        self._log: Callable[[tuple[str, int, int, int]], None] | None = None
        self._began = 0.0

    def start(self) -> None:
        """Forget, and record from now on."""
        self.stop()
        self._rings.clear()
        self._began = self._now()
        self._findings.look()
        self._observers.insert(0, self._findings)
        self._observers.append(self)
        before = self._drive = self._chip.drive
        log = self._log = self._chip.registers.log.append
        accesses = self._rings["registers"]

        def drive(level: bool) -> None:
            if level:
                self._add("interrupts", "interrupt")
            before(level)

        def access(entry: tuple[str, int, int, int]) -> None:
            accesses.append((self._now(), next(self._number), Access(*entry), "", ""))
            log(entry)

        self._chip.drive = self._mine = drive
        self._chip.registers.log.append = access

    def stop(self) -> None:
        """Record no more. A fault that has come to stand in the interrupt's way meanwhile stays there."""
        for mine in (self, self._findings):
            if mine in self._observers:
                self._observers.remove(mine)
        if self._drive is not None and self._chip.drive is self._mine:
            self._chip.drive = self._drive
        if self._log is not None:
            self._chip.registers.log.append = self._log
        self._drive = self._log = None

    def events(self) -> list[Json]:
        """All events, oldest first: microseconds since the start, track, name, state of the first page, and
        the rules that a transfer broke.
        """
        found = [(*event[:2], track, *event[2:]) for track, ring in self._rings.items() for event in ring]
        found.sort(key=lambda event: event[:2])
        describe = self._chip.registers.describe
        return [
            {
                "at": round((at - self._began) * 1e6),
                "track": track,
                "name": describe(name) if isinstance(name, Access) else name,
                "state": state,
                "verdict": verdict,
            }
            for at, _, track, name, state, verdict in found
        ]

    def found(self, rule: str) -> None:
        """The checker has found something."""
        if self._drive is not None:
            self._add("findings", rule, "fail")

    def _add(self, track: str, name: str, state: str = "", verdict: str = "") -> None:
        self._rings[track].append((self._now(), next(self._number), name, state, verdict))

    def after_write(self, batch: Batch) -> None:
        first = int(batch.addr[0])
        state = self._state_of(batch) or "not judged"
        name = f"program {batch.program}: {int(batch.length.sum())} bytes from {first:#x}"
        self._add("DMA", name, state, self._findings.look())

    def device_read(self, addr: int, length: int, origin: int) -> None:
        broken = self._findings.look()
        if broken:  # of the many fetches only these are worth a mark
            self._add("DMA", f"fetched: {length} bytes at {addr:#x}", "", broken)

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        name = f"refused: {length} bytes at {addr:#x}: {why.value}"
        self._add("DMA", name, "", self._findings.look())

    def checkpoint(self, what: Checkpoint) -> None:
        if what is Checkpoint.FIELD:
            self._add("fields", f"field {self._chip.stats.fields}")
        elif what is not Checkpoint.REGISTER_WRITE:  # these are recorded where they are logged
            self._add("DMA switches", what.value)


class _Findings(NullObserver):
    """Which rules were broken since the last look. Stands before the checker, so that what it finds between
    two transfers (pins, releases) is not put down to the next one.
    """

    def __init__(self, tally: Callable[[], dict[str, int]]) -> None:
        self._tally = tally
        self._last: dict[str, int] = {}

    def look(self) -> str:
        """Names, with commas between them; "" where nothing was found."""
        now, last = self._tally(), self._last
        self._last = now
        return ", ".join(rule for rule, count in now.items() if count > last.get(rule, 0)) if now else ""

    def before_write(self, batch: Batch) -> None:
        self.look()

    def device_read(self, addr: int, length: int, origin: int) -> None:
        self.look()

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        self.look()
