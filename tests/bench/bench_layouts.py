# SPDX-License-Identifier: GPL-2.0-or-later
"""What the full rule set costs on a clean field of 432 pages, for each layout of struct page.

The floor is two bare gathers of the same struct pages: reading them once before and once after the bytes
move is the least that a check can do. The field is one batch, as the card makes it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dmacheck"))

from synthetic import PAGE, STYLES, SyntheticGuest

from vcapdev.dma import Batch, Checkpoint, Origin, Program
from vcapdev.dmacheck import Checker
from vcapdev.guestmm.vmemmap import Rows

PAGES = 432
FIRST = 1024  # page frame of the first buffer page
ROUNDS = 400


def measure() -> dict[str, float]:
    """Median CPU times of the check, as multiples of two bare gathers that are timed in turn with it."""
    return {f"ratio_{style}": ratio(style) for style in sorted(STYLES)}


def ratio(style: str) -> float:
    guest = SyntheticGuest(style)
    frames = np.random.default_rng(1).permutation(PAGES) + FIRST
    for pfn in frames.tolist():
        guest.anon(pfn)
    checker, batch = ready(guest, frames)
    kernel = checker.kernel
    assert kernel is not None, checker.status()
    gather = kernel.vmemmap.gather(frames.astype(np.int64))

    def bare() -> Rows:
        gather.read()
        return gather.read()

    def check() -> None:
        checker.before_write(batch)
        checker.after_write(batch)

    floors, costs = [], []
    for _ in range(ROUNDS):
        floors.append(timed(bare))
        costs.append(timed(check))
    status = checker.status()
    assert not status["verdicts"], status
    assert not status["defects"], status
    assert status["distinct_pages"] == PAGES, status
    guest.close()
    return float(np.median(costs) / np.median(floors))


def ready(guest: SyntheticGuest, frames: np.ndarray) -> tuple[Checker, Batch]:
    """A checker that knows the program, and the field as a batch: half of every page."""
    addresses = frames.astype(np.uint64) * np.uint64(PAGE)
    ranges = np.column_stack([addresses, np.full(PAGES, PAGE // 2, dtype=np.uint64)])
    checker = Checker(guest.memory, describe, lambda: nullcontext(False), lambda: True, lambda verdict: None)
    checker.checkpoint(Checkpoint.DMA_START)
    checker.program(Program(1, 0x5000, ranges, b""))
    lengths = np.full(PAGES, PAGE // 2, dtype=np.uint32)
    offsets = np.arange(PAGES, dtype=np.uint32) * np.uint32(PAGE // 2)
    return checker, Batch(addresses, lengths, offsets, np.arange(PAGES), 1)


def describe(origin: int) -> Origin:
    return Origin(f"WRITE {origin}", origin)


def timed(step: Callable[[], object]) -> float:
    """Nanoseconds of this thread's CPU time that a step takes."""
    start = time.thread_time_ns()
    step()
    return time.thread_time_ns() - start


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:16} {value:8.2f}")
