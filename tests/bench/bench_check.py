# SPDX-License-Identifier: GPL-2.0-or-later
"""What the check of one RGB32 field costs, as a multiple of a bare copy of the same bytes into the same RAM.

One field of 768x576 RGB32 is 288 lines of 3072 bytes, interlaced over a buffer of 432 pages: every line
lands in other pages, and the field touches them all. The check is two looks at all of them, one before and
one after the bytes move. Two figures: ``quiet``, where nothing changes between looks, and ``stirred``, where
the reference counts of 2 % of the pages have changed between any two (as reclaim does under a memory hog).

``stirred`` has no goal, as it measures no fixed work: pages that did change are read, decoded and judged
anew in each look, so it grows with how much the guest stirs, and 2 % is a choice of ours. What matters then
is that a field's time is kept: it takes about a hundredth of those 20 ms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dmacheck"))

from synthetic import PAGE, SyntheticGuest

from vcapdev.dma import Batch, Checkpoint, Origin, Program
from vcapdev.dmacheck import Checker

LINES, LINE, PITCH = 288, 3072, 6144
PAGES = 432
FIRST = 1024  # page frame of the first buffer page
SLICE = 256 * 1024  # bytes in a batch, as the card slices a field
ROUNDS = 300


def measure() -> dict[str, float]:
    """Median times in microseconds and their ratios to the copy; the floor is taken in the same run."""
    guest = SyntheticGuest()
    frames = np.random.default_rng(1).permutation(PAGES) + FIRST
    for pfn in frames.tolist():
        guest.anon(pfn)
    batches, ranges = field_batches(frames)
    checker = Checker(guest.memory, describe, lambda: nullcontext(False), lambda: True, lambda verdict: None)
    checker.checkpoint(Checkpoint.DMA_START)
    checker.program(Program(1, 0x5000, ranges, b""))
    looks = check_all(checker, batches)
    for _ in range(3):
        looks()
    source = np.random.default_rng(2).integers(0, 256, LINES * LINE, dtype=np.uint8)
    target = guest.ram[FIRST * PAGE : FIRST * PAGE + len(source)]
    floors, quiet, stirred = [], [], []
    for _ in range(ROUNDS):
        floors.append(timed(lambda: np.copyto(target, source)))
        quiet.append(timed(looks))
    for round_ in range(ROUNDS):
        floors.append(timed(lambda: np.copyto(target, source)))
        stirred.append(sum(timed(step) for step in stirred_steps(guest, checker, batches, frames, round_)))
    status = checker.status()
    assert not status["verdicts"], status
    assert not status["defects"], status
    assert status["distinct_pages"] == PAGES, status
    floor = float(np.median(floors))
    return {
        "copy_us": floor,
        "quiet_us": float(np.median(quiet)),
        "stirred_us": float(np.median(stirred)),
        "quiet_ratio": float(np.median(quiet)) / floor,
        "stirred_ratio": float(np.median(stirred)) / floor,
    }


def describe(origin: int) -> Origin:
    return Origin(f"WRITE {origin}", origin)


def field_batches(frames: np.ndarray) -> tuple[list[Batch], np.ndarray]:
    """The pieces of the field, split at page borders and sliced; and all of them as ranges."""
    pieces = []
    for line in range(LINES):
        offset, end = line * PITCH, line * PITCH + LINE
        while offset < end:
            length = min(end - offset, PAGE - offset % PAGE)
            pieces.append((int(frames[offset // PAGE]) * PAGE + offset % PAGE, length))
            offset += length
    ranges = np.array(pieces, dtype=np.uint64)
    batches, start, size = [], 0, 0
    for i, (_, length) in enumerate([*pieces, (0, SLICE)]):
        if size + length > SLICE:
            part = ranges[start:i]
            count = np.arange(start, i)
            source = np.cumsum(part[:, 1]) - part[:, 1]
            batches.append(
                Batch(part[:, 0].copy(), part[:, 1].astype(np.uint32), source.astype(np.uint32), count, 1)
            )
            start, size = i, 0
        size += length
    return batches, ranges


def check_all(checker: Checker, batches: list[Batch]) -> Callable[[], None]:
    def looks() -> None:
        for batch in batches:
            checker.before_write(batch)
            checker.after_write(batch)

    return looks


def stirred_steps(
    guest: SyntheticGuest, checker: Checker, batches: list[Batch], frames: np.ndarray, round_: int
) -> list[Callable[[], None]]:
    """The looks one by one, each after another 2 % of the pages have gained or lost a reference."""
    steps = []
    random = np.random.default_rng(round_)
    for batch in batches:
        for look in (checker.before_write, checker.after_write):

            def step(look: Callable[[Batch], None] = look, batch: Batch = batch) -> None:
                look(batch)

            chosen = frames[random.integers(0, PAGES, PAGES // 50)].tolist()
            steps.append(Stir(guest, chosen, 1025 + int(random.integers(0, 2)), step))
    return steps


class Stir:
    """Changes some pages when it is made ready, then looks; only the look is timed."""

    def __init__(
        self, guest: SyntheticGuest, pfns: list[int], refcount: int, look: Callable[[], None]
    ) -> None:
        self.change = lambda: [guest.field(pfn, 52, refcount) for pfn in pfns]
        self.look = look

    def __call__(self) -> None:
        self.look()


def timed(step: Callable[[], None]) -> float:
    """Microseconds that a step takes."""
    if isinstance(step, Stir):
        step.change()
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e6


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:16} {value:8.2f}")
