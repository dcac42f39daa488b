# SPDX-License-Identifier: GPL-2.0-or-later
"""One RGB32 field of 768x576 executed from its RISC program, against bare copies of its bytes.

Two floors, both taken in turn with the field, so that whatever else the machine does falls on all three:

``scattered``   the same bytes into the same places in guest memory: each of the 576 pieces copied to its
                page, with everything but the copy prepared. Less than this cannot be.
``contiguous``  as many bytes into one stretch of guest memory: what the scatter alone costs over a memcpy.

The field's time is that of everything the card does for it: the end of the field before, registers, content,
fetching and comparing the program, moving, interrupt. Buffers rotate as a driver's do.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.bttv import Driver, packed_writes
from support.rootcomplex import PAGE, RAM, RootComplex

ROUNDS = 160
BUFFERS = 4  # that the driver rotates, as it does: nobody captures twice into the same pages in a row
LINE, LINES = 768 * 4, 288
SIZE = LINE * LINES


class Field:
    """A card that has been set up for bottom fields of interlaced RGB32 buffers at offset 0x10."""

    def __init__(self) -> None:
        self.rc = RootComplex(96 << 20)
        self.rc.bus.observers.clear()
        self.chip = self.rc.chip()
        self.driver = Driver(self.rc, self.chip)
        self.floors = [self.rc.memory.at(self.rc.allocate(SIZE), SIZE) for _ in range(BUFFERS)]
        size = 0x10 + LINE * 576
        pages = self.rc.scattered(64 << 20)
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

    def pieces(self, at: int, source: memoryview) -> list[tuple[slice, memoryview]]:
        """Where each piece of a buffer's field goes in guest memory, and what goes there."""
        self.once(at)
        found: list[tuple[slice, memoryview]] = []
        done = 0
        for _, batch in self.chip.engine.moved:
            for addr, length in zip(batch.addr.tolist(), batch.length.tolist(), strict=True):
                found.append((slice(addr - RAM, addr - RAM + length), source[done : done + length]))
                done += length
        assert done == SIZE
        return found


def timed(fn: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


def scatter(memory: memoryview, pieces: list[tuple[slice, memoryview]]) -> None:
    """The bare copies."""
    for where, what in pieces:
        memory[where] = what


def measure() -> dict[str, float]:
    """Microseconds (medians) of both floors and the field, and the field as a multiple of each floor."""
    field = Field()
    source = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    pieces = [field.pieces(at, source.data) for at in range(BUFFERS)]
    taken: dict[str, list[float]] = {"contiguous": [], "scattered": [], "field": []}
    for at in range(ROUNDS):
        taken["contiguous"].append(timed(partial(np.copyto, field.floors[at % BUFFERS], source)))
        taken["field"].append(field.once(at))
        # Two buffers on: neither floor nor field finds its pages warm from the other.
        ahead = pieces[(at + 2) % BUFFERS]
        taken["scattered"].append(timed(partial(scatter, field.rc.ram.data.data, ahead)))
    median = {name: statistics.median(values) for name, values in taken.items()}
    return {
        **{f"{name}_us": value * 1e6 for name, value in median.items()},
        "field_ratio": median["field"] / median["scattered"],
        "field_ratio_contiguous": median["field"] / median["contiguous"],
    }


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:24} {value:8.2f}")
