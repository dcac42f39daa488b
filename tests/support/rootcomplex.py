# SPDX-License-Identifier: GPL-2.0-or-later
"""A fake root complex: memory, a clock and an observer, so that device tests need no guest."""

from __future__ import annotations

import heapq
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.board import load_board
from vcapdev.bt878.chip import Bt878
from vcapdev.dma import Abort, Batch, Checkpoint, Program
from vcapdev.pci.busmaster import BusMaster

PAGE = 4096
RAM = 0x0010_0000  # where the tests' memory begins
POISON = 0xA5


@dataclass(eq=False)
class Segment:
    """A range of guest memory over a memfd; see :class:`vcapdev.dma.MemorySegment`."""

    start: int
    size: int
    writable: bool = True
    fd_offset: int = 0
    fd: int = -1
    data: NDArray[np.uint8] = field(init=False)
    map: mmap.mmap = field(init=False)

    def __post_init__(self) -> None:
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self.map = mmap.mmap(self.fd, self.size)
        self.data = np.frombuffer(self.map, np.uint8)
        self.data[:] = POISON

    def __del__(self) -> None:
        os.close(self.fd)


class Memory:
    """A :class:`vcapdev.dma.MemoryMap` that a test changes."""

    def __init__(self, *segments: Segment) -> None:
        self.generation = 1
        self.segments: Sequence[Segment] = sorted(segments, key=lambda s: s.start)

    def add(self, segment: Segment) -> Segment:
        self.segments = sorted([*self.segments, segment], key=lambda s: s.start)
        self.generation += 1
        return segment

    def remove(self, segment: Segment) -> None:
        self.segments = [each for each in self.segments if each is not segment]
        self.generation += 1

    def at(self, address: int, length: int) -> NDArray[np.uint8]:
        """The bytes at a bus address, as a view."""
        for segment in self.segments:
            if segment.start <= address and address + length <= segment.start + segment.size:
                return segment.data[address - segment.start : address - segment.start + length]
        raise AssertionError(f"the test has no memory at {address:#x}")


class Recorder:
    """A DMA observer that keeps what it was told.

    ``calls`` are names in order; a batch's bytes are looked at both before and after.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.programs: dict[int, Program] = {}
        self.gone_ids: list[int] = []
        self.batches: list[Batch] = []
        self.reads: list[tuple[int, int]] = []
        self.aborts: list[tuple[int, int, bool, Abort]] = []
        self.checkpoints: list[Checkpoint] = []
        self.during: Callable[[Batch], None] | None = None

    def program(self, program: Program) -> None:
        self.calls.append("program")
        self.programs[program.id] = program

    def gone(self, program_id: int) -> None:
        self.calls.append("gone")
        self.gone_ids.append(program_id)

    def before_write(self, batch: Batch) -> None:
        self.calls.append("before")
        self.batches.append(batch)
        if self.during is not None:
            self.during(batch)

    def after_write(self, batch: Batch) -> None:
        self.calls.append("after")

    def device_read(self, addr: int, length: int, origin: int) -> None:
        self.reads.append((addr, length))

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        self.calls.append("aborted")
        self.aborts.append((addr, length, write, why))

    def checkpoint(self, what: Checkpoint) -> None:
        self.checkpoints.append(what)


class FakeTimer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeTime:
    """A :class:`vcapdev.bt878.clock.Scheduler` whose time passes only in :meth:`advance`."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._order = count()
        self._queue: list[tuple[float, int, FakeTimer, Callable[[], None]]] = []

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, fn: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer()
        heapq.heappush(self._queue, (when, next(self._order), timer, fn))
        return timer

    def call_later(self, delay: float, fn: Callable[[], None]) -> FakeTimer:
        return self.call_at(self.time + delay, fn)

    def advance(self, seconds: float) -> None:
        """Let time pass; what falls due runs at its moment."""
        end = self.time + seconds
        while self._queue and self._queue[0][0] <= end + 1e-9:
            when, _, timer, fn = heapq.heappop(self._queue)
            if not timer.cancelled:
                self.time = max(self.time, when)
                fn()
        self.time = max(self.time, end)

    def run_due(self, limit: int = 1) -> None:
        """Run up to ``limit`` timers that are due now."""
        while limit and self._queue and self._queue[0][0] <= self.time:
            _, _, timer, fn = heapq.heappop(self._queue)
            if not timer.cancelled:
                fn()
                limit -= 1


class RootComplex:
    """Memory, bus master and recorder; with :meth:`chip` a whole card."""

    def __init__(self, size: int = 8 << 20) -> None:
        self.ram = Segment(RAM, size)
        self.memory = Memory(self.ram)
        self.master = True
        self.recorder = Recorder()
        self.on_drain: list[Callable[[], None]] = []
        self.bus = BusMaster(self.memory, lambda: self.master, self._drain)
        self.bus.observers.append(self.recorder)
        self.time = FakeTime()
        self.levels: list[bool] = []
        self._next = RAM

    def _drain(self) -> None:
        while self.on_drain:
            self.on_drain.pop(0)()

    def allocate(self, size: int) -> int:
        """Page-aligned memory, never given twice."""
        address, self._next = self._next, self._next + -(-size // PAGE) * PAGE
        assert self._next <= RAM + self.ram.size, "the test's memory is used up"
        return address

    def scattered(self, size: int, seed: int = 1) -> list[int]:
        """Addresses of pages for ``size`` bytes, shuffled, never two in a row where that can be."""
        first = self.allocate(size)
        order = np.random.default_rng(seed).permutation(-(-size // PAGE))
        return [first + int(page) * PAGE for page in order]

    def put(self, address: int, words: Sequence[int]) -> int:
        """Store dwords; returns the address behind them."""
        data = struct.pack(f"<{len(words)}I", *words)
        self.memory.at(address, len(data))[:] = np.frombuffer(data, np.uint8)
        return address + len(data)

    def program(self, *words: int) -> int:
        """A program in memory of its own; returns its address."""
        address = self.allocate(max(4, len(words) * 4))
        self.put(address, words)
        return address

    def gather(self, pages: Sequence[int], offset: int, length: int) -> bytes:
        """Bytes of a scattered buffer."""
        whole = b"".join(self.memory.at(page, PAGE).tobytes() for page in pages)
        return whole[offset : offset + length]

    def chip(self, norm: str = "PAL", clock: str = "step", board: str = "pv143") -> Bt878:
        """A card on this bus."""
        return Bt878(self.bus, self.levels.append, self.time, load_board(board), norm=norm, clock=clock)
