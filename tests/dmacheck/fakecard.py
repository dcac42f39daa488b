# SPDX-License-Identifier: GPL-2.0-or-later
"""A device and a virtual machine manager for the checker's tests: writes, checkpoints, pause, stop."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from synthetic import PAGE, STYLES, SyntheticGuest

from vcapdev.dma import Batch, Checkpoint, Origin, Program
from vcapdev.dmacheck import Checker, Verdict


class FakeCard:
    """Drives a checker as a card would. ``pages`` of the guest are given as page frame numbers.

    ``during`` is called between the two looks of a write; ``on_drain`` when the checker drains messages;
    ``on_pause`` when the vCPUs stand.
    """

    def __init__(self, guest: SyntheticGuest, *, start: bool = True) -> None:
        self.guest = guest
        self.running = True
        self.can_pause = True
        self.pauses = 0
        self.found: list[Verdict] = []
        self.during = self.on_drain = self.on_pause = lambda: None
        self.checker = Checker(guest.memory, self.describe, self.pause, self.dma_running, self.found.append)
        self._programs = 0
        if start:
            self.checker.checkpoint(Checkpoint.DMA_START)
            assert self.checker.attached, self.checker.status()["why_not"]

    def describe(self, origin: int) -> Origin:
        return Origin(f"WRITE {origin}", 0x5000 + 8 * origin, 7, "odd", origin, 0)

    @contextmanager
    def pause(self):
        self.pauses += 1
        self.on_pause()
        yield self.can_pause

    def dma_running(self) -> bool:
        self.on_drain()
        return self.running

    def program(self, *pfns: int, announce: bool = True) -> Batch:
        """A program that writes these pages, a whole page a piece."""
        self._programs += 1
        address = np.array(pfns, dtype=np.uint64) * np.uint64(PAGE)
        ranges = np.stack([address, np.full(len(pfns), PAGE, dtype=np.uint64)], axis=1)
        if announce:
            self.checker.program(Program(self._programs, 0x5000, ranges, b"code"))
        count = np.arange(len(pfns))
        size = np.full(len(pfns), PAGE, dtype=np.uint32)
        return Batch(address, size, count.astype(np.uint32) * PAGE, count.astype(np.int64), self._programs)

    def write(self, batch: Batch) -> None:
        self.checker.before_write(batch)
        self.during()
        self.checker.after_write(batch)

    def field(self) -> None:
        self.checker.checkpoint(Checkpoint.FIELD)

    def register_write(self) -> None:
        self.checker.checkpoint(Checkpoint.REGISTER_WRITE)

    @property
    def rules(self) -> list[str]:
        """Names of the rules that were broken, in order; and the checker itself must be sound."""
        assert not self.checker.status()["defects"], self.checker.status()["defects"]
        return [verdict.rule.name for verdict in self.found]

    @property
    def oddities(self) -> dict[str, int]:
        return self.checker.status()["oddities"]


def cards(styles: object = tuple(STYLES)):
    """A fixture that gives a card in a guest of each of these layouts."""

    @pytest.fixture(params=sorted(styles))
    def card(request):
        guest = SyntheticGuest(request.param)
        yield FakeCard(guest)
        guest.close()

    return card
