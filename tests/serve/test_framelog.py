# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the report's two pictures from showing two frames: one is found by the number in its lines."""

from __future__ import annotations

import gc
import weakref

import pytest
from support.bttv import Driver, packed_writes
from support.rootcomplex import RootComplex

from vcapdev.bt878.chip import Bt878
from vcapdev.bt878.frame import SentFrame
from vcapdev.dma import Batch
from vcapdev.serve.framelog import FrameLog

WIDTH, HEIGHT = 64, 48


class Stand:
    """A card that captures into two buffers in turn, and what a checker sees of their pages."""

    def __init__(self) -> None:
        self.rc = RootComplex()
        self.chip: Bt878 = self.rc.chip("PAL")
        self.driver = Driver(self.rc, self.chip)
        self.driver.geometry(WIDTH, HEIGHT, sheight=576)
        self.driver.format(0x04, 0)
        self.buffers = [self.rc.scattered(WIDTH * HEIGHT * 2, seed) for seed in (1, 2)]
        self.turn = 0
        self.frames = FrameLog(
            self.chip, self.rc.bus.observers, lambda: self.turn, lambda sight: {sight: "seen then"}
        )
        self.capture()
        self.driver.start()

    def capture(self) -> None:
        """Another frame; the next one goes to the other buffer."""
        self.turn += 1
        pages, line = self.buffers[self.turn % 2], WIDTH * 2
        for program, start, last in ((Driver.O_FIELD, 0, 0), (Driver.E_FIELD, line, 1)):
            self.driver.hook(program, packed_writes(pages, start, line, line, HEIGHT // 2), last)

    def run(self, count: int) -> None:
        for _ in range(count):
            self.driver.frame()
            self.capture()


@pytest.fixture
def stand() -> Stand:
    return Stand()


def addresses(frame: SentFrame) -> set[int]:
    return {int(address) >> 12 for field in frame.fields for address in field.addr}


def test_a_frame_is_found_by_its_number_with_what_was_seen_of_it_then(stand: Stand) -> None:
    stand.frames.keep(True)
    stand.run(6)
    last = stand.frames.last()
    assert last is not None
    newest = last[0].number
    older, newer = stand.frames.find(newest - 1), stand.frames.find(newest)
    assert older is not None
    assert newer is not None
    assert (older[0].number, newer[0].number) == (newest - 1, newest)
    assert addresses(newer[0]) == addresses(last[0])
    assert not addresses(older[0]) & addresses(newer[0]), "each went to a buffer of its own"
    (seen_older,), (seen_newer,) = older[1], newer[1]
    assert seen_newer == seen_older + 1, "each with the sight of its own time"


def test_only_the_last_256_are_kept(stand: Stand) -> None:
    stand.frames.keep(True)
    stand.run(260)
    last = stand.frames.last()
    assert last is not None
    assert stand.frames.find(last[0].number - 255) is not None
    assert stand.frames.find(last[0].number - 256) is None


def test_nothing_stands_in_the_way_while_nobody_wants_it(stand: Stand) -> None:
    before = list(stand.rc.bus.observers)
    stand.run(3)
    last = stand.frames.last()
    assert last is not None, "the last one is known all the same"
    assert stand.frames.find(last[0].number) is None
    stand.frames.keep(True)
    stand.frames.keep(True)
    assert stand.rc.bus.observers == [*before, stand.frames]
    stand.run(3)
    stand.frames.keep(False)
    assert stand.rc.bus.observers == before
    assert stand.frames.find(last[0].number + 2) is None


class Derived:
    """What an observer hangs on a batch, as the checker does with all that it knows of its pages."""


def test_what_others_derived_from_a_frame_is_not_kept(stand: Stand) -> None:
    """A megabyte a frame: with programs that come and go that would be the memory of the device."""
    alive: weakref.WeakSet[Derived] = weakref.WeakSet()

    def derive(batch: Batch) -> None:
        derived = batch.cache["test"] = Derived()
        alive.add(derived)

    stand.frames.after_write = derive  # type: ignore[method-assign]
    stand.rc.bus.observers.clear()  # the stand's own record has every batch
    stand.frames.keep(True)
    stand.run(250)
    assert len(stand.frames) > 240
    gc.collect()
    assert len(alive) < 250, "of 500 fields: the engine knows its last programs, and nobody else does"
