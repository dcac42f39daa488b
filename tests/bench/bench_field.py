# SPDX-License-Identifier: GPL-2.0-or-later
"""One RGB32 field of 768x576 executed from its RISC program, against a bare copy of its bytes.

The floor is one contiguous copy of 882 KB into the same guest memory, taken in turn with the field, so that
whatever else the machine does falls on both.
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
from support.rootcomplex import PAGE, RootComplex

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
        began = time.perf_counter()
        self.chip.clock.step()
        taken = time.perf_counter() - began
        self.driver.handle()
        return taken


def measure() -> dict[str, float]:
    """Microseconds of floor and field (medians), and their ratio."""
    field = Field()
    source = np.random.default_rng(1).integers(0, 256, LINE * LINES, np.uint8)
    floor: list[float] = []
    fields: list[float] = []

    def timed(fn: Callable[[], None]) -> float:
        began = time.perf_counter()
        fn()
        return time.perf_counter() - began

    for at in range(ROUNDS):
        target = field.floors[at % BUFFERS]
        floor.append(timed(partial(np.copyto, target, source)))
        fields.append(field.once(at))
    bottom, top = statistics.median(floor), statistics.median(fields)
    return {"memcpy_us": bottom * 1e6, "field_us": top * 1e6, "field_ratio": top / bottom}


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:12} {value:8.2f}")
