# SPDX-License-Identifier: GPL-2.0-or-later
"""The card's own record of what it did when: bounded, out of the way while nobody wants it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from vcapdev.bt878.registers import IntStat
from vcapdev.dma import Abort, Batch, Checkpoint
from vcapdev.regs import RegisterFile
from vcapdev.serve.timeline import Timeline


class Stand:
    """A chip, a list of observers, a clock and page states, all by hand."""

    def __init__(self) -> None:
        self.levels: list[bool] = []
        self.registers = RegisterFile([IntStat])
        self.chip: Any = SimpleNamespace(
            drive=self.levels.append, stats=SimpleNamespace(fields=7), registers=self.registers
        )
        self.tally: dict[str, int] = {}
        self.observers: list[Any] = []
        self.time = 5.0
        self.timeline = Timeline(
            self.chip, self.observers, lambda: self.time, self.state_of, lambda: dict(self.tally)
        )

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
    assert stand.observers[-1] is stand.timeline, "behind the checker"
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


def test_register_accesses_are_told_by_name() -> None:
    """And the log that people read meanwhile is the same as ever."""
    stand = Stand()
    stand.registers.write(0x100, 4, 1)
    stand.timeline.start()
    stand.time = 6.0
    stand.registers.write(0x100, 4, 0x800)
    stand.registers.read(0x100, 4)
    stand.timeline.stop()
    stand.registers.read(0x100, 4)
    told = [(one["at"], one["track"], one["name"]) for one in stand.timeline.events()]
    assert told == [
        (1_000_000, "registers", "W INT_STAT 0x00000800 RISCI"),
        (1_000_000, "registers", "R INT_STAT 0x00000000"),
    ]
    assert len(stand.registers.log) == 4


def test_a_transfer_bears_the_verdict_that_was_given_for_it() -> None:
    """Not one given before it, between two transfers; of fetches only the bad ones are kept."""
    stand = Stand()
    stand.tally = {"not-pinned": 3}
    stand.timeline.start()
    stand.tally = {"not-pinned": 3, "left-over": 1}  # by the checker's own look at pins
    for observer in stand.observers:
        observer.before_write(batch(0x10000))
    stand.timeline.after_write(batch(0x10000))
    stand.tally = {"not-pinned": 4, "left-over": 1, "free": 1}
    stand.timeline.after_write(batch(0x11000))
    stand.timeline.device_read(0x5000, 4, 0)
    stand.tally = stand.tally | {"program-free": 1}
    stand.timeline.device_read(0x5004, 4, 0)
    stand.tally = {"free": 1}  # the checker was made anew
    stand.timeline.after_write(batch(0x12000))
    told = [(one["name"].split(":")[0], one["verdict"]) for one in stand.timeline.events()]
    assert told == [
        ("program 3", ""), ("program 3", "not-pinned, free"), ("fetched", "program-free"), ("program 3", ""),
    ]  # fmt: skip


def test_the_record_is_bounded() -> None:
    """A long test keeps its newest events, and many of one kind leave those of others."""
    stand = Stand()
    stand.timeline.start()
    for _ in range(20_000):
        stand.registers.write(0x100, 4, 1)
    stand.timeline.checkpoint(Checkpoint.FIELD)
    assert 1000 < len(stand.timeline.events()) < 10_000
