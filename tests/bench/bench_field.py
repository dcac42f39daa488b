# SPDX-License-Identifier: GPL-2.0-or-later
"""One RGB32 field of 768x576 executed from its RISC program and checked, against bare copies of its bytes.

Two floors, both taken in turn with the field, so that whatever else the machine does falls on all three:

``scattered``   the same bytes into the same places in guest memory, out of one stretch of ours: the 576
                pieces copied by four calls of numpy, prepared; a loop over memcpy in C takes a tenth less.
                This is the floor that the field is judged by: less than this cannot be.
``contiguous``  as many bytes into one stretch of guest memory, which no capture does: what the scatter costs
                over one memcpy. Told, not judged.

The field's time is that of everything the device process does for it: the end of the field before, registers,
content, fetching and comparing the program, every page looked at before and after it is written, moving,
interrupt. Buffers rotate as a driver's do. The guest is one made by hand, whose pages are pinned.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from dmacheck.synthetic import SyntheticGuest
from support.bttv import Driver, packed_writes
from support.rootcomplex import PAGE, FakeTime, RootComplex

from vcapdev.dmacheck import Checker
from vcapdev.pci.busmaster import BusMaster

ROUNDS = 160
BUFFERS = 4  # that the driver rotates, as it does: nobody captures twice into the same pages in a row
LINE, LINES = 768 * 4, 288
SIZE = LINE * LINES


FREE = 32 << 20  # guest memory from here on holds neither kernel nor struct pages


class Guest(RootComplex):
    """A root complex whose memory is that of a guest, so that the checker finds a kernel."""

    def __init__(self, mib: int) -> None:
        self.guest = SyntheticGuest(mib=mib)
        self.memory = self.guest.memory
        self.bus = BusMaster(self.memory, lambda: True, lambda: None)
        self.time, self.levels = FakeTime(), []
        self._next = FREE

    def allocate(self, size: int) -> int:
        address, self._next = self._next, self._next + -(-size // PAGE) * PAGE
        assert self._next <= len(self.guest.ram), "the guest's memory is used up"
        return address

    def put(self, address: int, words: Sequence[int]) -> int:
        data = np.array(words, "<u4").view(np.uint8)
        self.at(address, len(data))[:] = data
        return address + len(data)

    def at(self, address: int, size: int) -> np.ndarray:
        """Guest memory, as a view."""
        return self.guest.ram[address : address + size]


class Field:
    """A card that has been set up for bottom fields of interlaced RGB32 buffers at offset 0x10."""

    def __init__(self) -> None:
        self.rc = Guest(128)
        self.chip = self.rc.chip()
        self.checker = Checker(
            self.rc.memory, self.chip.describe, lambda: nullcontext(False), lambda: True, lambda verdict: None
        )
        self.rc.bus.observers.append(self.checker)
        self.driver = Driver(self.rc, self.chip)
        self.floors = [self.rc.at(self.rc.allocate(SIZE), SIZE) for _ in range(BUFFERS)]
        size = 0x10 + LINE * 576
        pages = self.rc.scattered(64 << 20)
        for page in pages:
            self.rc.guest.anon(page // PAGE, flags="dirty")
        self.programs = [self._program(pages[at * size // PAGE + at :]) for at in range(BUFFERS)]
        self.driver.geometry(768, 576)
        self.driver.format(0)
        self.driver.start()
        for at in range(2 * BUFFERS):
            self.once(at)

    def _program(self, pages: list[int]) -> int:
        code = packed_writes(pages, 0x10 + LINE, LINE, LINE, LINES)
        return self.driver.hook(Driver.E_FIELD, code, 1)

    def once(self, at: int) -> float:
        """Seconds from the odd field's end to the even field's interrupt, its lines in between."""
        self.rc.put(self.driver.main + 4 * Driver.E_FIELD + 4, [self.programs[at % BUFFERS]])
        self.chip.clock.step()
        self.driver.handle()
        taken = timed(self.chip.clock.step)
        self.driver.handle()
        return taken

    def pieces(self, at: int, source: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each length of pieces: guest memory as such pieces, where a field's go in it, and what."""
        self.once(at)
        batches = [batch for _, batch in self.chip.engine.moved]
        addr, length = (
            np.concatenate([getattr(each, name) for each in batches]) for name in ("addr", "length")
        )
        assert length.sum() == SIZE
        start = np.cumsum(length) - length
        segment, found = self.rc.guest.memory.segments[1], []
        for size in np.unique(length).tolist():
            rows = np.flatnonzero(length == size)
            item, begin = f"V{size}", start[rows]
            assert len(set(np.diff(begin).tolist())) == 1, "pieces of a length are evenly spaced"
            where = np.ndarray(segment.size - size + 1, item, segment.data, 0, (1,))
            what = np.ndarray(len(rows), item, source, int(begin[0]), (int(begin[1] - begin[0]),))
            found.append((where, (addr[rows] - segment.start).astype(np.intp), what))
        return found


def timed(fn: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


def scatter(pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """The bare copies."""
    for memory, where, what in pieces:
        memory[where] = what


def measure() -> dict[str, float]:
    """Microseconds (medians) of both floors and the field, and the field as a multiple of each floor."""
    field = Field()
    source = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    pieces = [field.pieces(at, source) for at in range(BUFFERS)]
    taken: dict[str, list[float]] = {"contiguous": [], "scattered": [], "field": []}
    for at in range(ROUNDS):
        taken["contiguous"].append(timed(partial(np.copyto, field.floors[at % BUFFERS], source)))
        taken["field"].append(field.once(at))
        # Two buffers on: neither floor nor field finds its pages warm from the other.
        ahead = pieces[(at + 2) % BUFFERS]
        taken["scattered"].append(timed(partial(scatter, ahead)))
    status = field.checker.status()
    assert not status["verdicts"], status
    assert not status["defects"], status
    assert status["pages_checked"] >= ROUNDS * 432, status
    median = {name: statistics.median(values) for name, values in taken.items()}
    return {
        **{f"{name}_us": value * 1e6 for name, value in median.items()},
        "field_ratio": median["field"] / median["scattered"],
        "field_ratio_contiguous": median["field"] / median["contiguous"],
    }


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:24} {value:8.2f}")
