# SPDX-License-Identifier: GPL-2.0-or-later
"""The card's own record of what it did when: bounded, out of the way while nobody wants it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from vcapdev.dma import Abort, Batch, Checkpoint
from vcapdev.serve.timeline import Timeline


class Stand:
    """A chip, a list of observers, a clock and page states, all by hand."""

    def __init__(self) -> None:
        self.levels: list[bool] = []
        self.chip: Any = SimpleNamespace(drive=self.levels.append, stats=SimpleNamespace(fields=7))
        self.observers: list[Any] = []
        self.time = 5.0
        self.timeline = Timeline(self.chip, self.observers, lambda: self.time, self.state_of)

    @staticmethod
    def state_of(batch: Batch) -> str:
        return "pinned-anon" if batch.addr[0] < 0x20000 else ""


def batch(address: int) -> Batch:
    return Batch(
        np.array([address], np.uint64),
        np.array([64], np.uint32),
        np.zeros(1, np.uint32),
        np.zeros(1, np.int64),
        3,
    )


def test_what_the_card_does_is_recorded_with_its_time() -> None:
    """Transfers with the state of their page, fields, interrupts, findings."""
    stand = Stand()
    stand.timeline.start()
    assert stand.observers == [stand.timeline]
    stand.time = 5.25
    stand.timeline.after_write(batch(0x10040))
    stand.timeline.after_write(batch(0x20000))
    stand.timeline.checkpoint(Checkpoint.FIELD)
    stand.timeline.checkpoint(Checkpoint.DMA_STOP)
    stand.timeline.aborted(0x30000, 4, 0, True, next(iter(Abort)))
    stand.timeline.found("not-pinned")
    stand.chip.drive(True)
    stand.chip.drive(False)
    events = stand.timeline.events()
    assert [(one["track"], one["state"]) for one in events] == [
        ("DMA", "pinned-anon"), ("DMA", "not judged"), ("fields", ""), ("DMA switches", ""), ("DMA", ""),
        ("findings", "fail"), ("interrupts", ""),
    ]  # fmt: skip
    assert {one["at"] for one in events} == {250_000}
    assert stand.levels == [True, False]


def test_nothing_stands_in_the_way_when_nobody_records() -> None:
    """After the end chip and bus are as before; what came in between can be read until the next start."""
    stand = Stand()
    drive = stand.chip.drive
    stand.timeline.start()
    stand.timeline.start()
    stand.timeline.checkpoint(Checkpoint.FIELD)
    stand.timeline.stop()
    stand.timeline.stop()
    assert not stand.observers
    assert stand.chip.drive == drive
    assert len(stand.timeline.events()) == 1
    stand.timeline.start()
    assert not stand.timeline.events()


def test_a_fault_in_the_interrupts_way_stays_there() -> None:
    """Whoever came later to stand in the line's way is not pushed out."""
    stand = Stand()
    stand.timeline.start()
    inner, seen = stand.chip.drive, []

    def fault(level: bool) -> None:
        seen.append(level)
        inner(level)

    stand.chip.drive = fault
    stand.timeline.stop()
    stand.chip.drive(True)
    assert seen == [True]
    assert stand.levels == [True]


def test_the_record_is_bounded() -> None:
    """A long test keeps its newest events."""
    stand = Stand()
    stand.timeline.start()
    for _ in range(20_000):
        stand.timeline.checkpoint(Checkpoint.REGISTER_WRITE)
    assert len(stand.timeline.events()) < 10_000
