# SPDX-License-Identifier: GPL-2.0-or-later
"""What the full rule set costs on a clean field of 432 pages, for each layout of struct page.

The floor is two bare gathers of the same struct pages: reading them once before and once after the bytes
move is the least that a check can do. The field is one batch, as the card makes it, of a program that lies in
the guest and is fetched; the media framework's buffer behind it is known, and its pages are followed in their
owner's memory. ``full`` is all of that with the look for released pins at the end of the field, ``ratio``
what the batch costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dmacheck"))

from frameworks import MediaGuest
from synthetic import PAGE, STYLES

from vcapdev.dma import Batch, Checkpoint, Origin, Program
from vcapdev.dmacheck import Checker
from vcapdev.guestmm.vmemmap import Rows

PAGES = 432
FIRST = 1024  # page frame of the first buffer page
CODE = 700  # page frame of the program, which is fetched in so many pieces
PIECES = 9
ROUNDS = 400


def measure() -> dict[str, float]:
    """Median CPU times of the check, as multiples of two bare gathers that are timed in turn with it."""
    figures: dict[str, float] = {}
    for style in sorted(STYLES):
        batch, full = ratios(style)
        figures |= {f"ratio_{style}": batch, f"full_{style}": full}
    return figures


def ratios(style: str) -> tuple[float, float]:
    guest = MediaGuest(style, "videobuf" if style in ("5.10", "6.1") else "vb2")
    frames = np.random.default_rng(1).permutation(PAGES) + FIRST
    for row, pfn in enumerate(frames.tolist()):
        guest.own(row, pfn)
    guest.buffer(frames.tolist())
    guest.page(CODE)
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

    def fetch() -> None:
        for piece in range(PIECES):
            checker.device_read(CODE * PAGE + piece * 400, 400, 3)

    floors, costs, others = [], [], []
    for _ in range(ROUNDS):
        floors.append(timed(bare))
        others.append(timed(fetch))
        costs.append(timed(check))
        others[-1] += timed(lambda: checker.checkpoint(Checkpoint.FIELD))
    status = checker.status()
    assert not status["verdicts"], status
    assert not status["defects"], status
    assert status["distinct_pages"] == PAGES, status
    assert status["contract"]["buffers_found"] == 1, status
    guest.close()
    floor = np.median(floors)
    full = np.median(np.array(costs) + np.array(others))
    return float(np.median(costs) / floor), float(full / floor)


def ready(guest: MediaGuest, frames: np.ndarray) -> tuple[Checker, Batch]:
    """A checker that knows the program, and the field as a batch: half of every page."""
    addresses = frames.astype(np.uint64) * np.uint64(PAGE)
    ranges = np.column_stack([addresses, np.full(PAGES, PAGE // 2, dtype=np.uint64)])
    checker = Checker(guest.memory, describe, lambda: nullcontext(False), lambda: True, lambda verdict: None)
    checker.checkpoint(Checkpoint.DMA_START)
    checker.program(Program(1, CODE * PAGE, ranges, bytes(PIECES * 400)))
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
