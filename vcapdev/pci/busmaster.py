# SPDX-License-Identifier: GPL-2.0-or-later
"""The only code that touches guest RAM on a device's behalf.

It asks the bus-master bit, translates bus addresses through the DMA map, refuses what no memory answers, and
lets its observers see every transfer::

    device --Batch--> gate --> translate --> before_write --> move --> after_write
                       |           |
                    refused     aborted   (master abort: nothing of that piece is moved, nor any later one)

How the bytes are moved. One RGB32 field of 768x576 is 576 pieces of about 1.5 KB scattered over as many
pages. Measured on one core with warm caches, as multiples of one contiguous copy of the same 882 KB into the
same memory (with cold pages every way of scattering costs about twice as much, TLB misses above all):

====================================================================  =========
memoryview slice assignment, slices and source views made beforehand  1.35
the same, destination views made beforehand as well                   1.47
numpy fancy index over 16-byte elements (needs aligned pieces)        1.6
process_vm_readv from prepared iovecs (a system call for every batch)   2.0
preadv from a memfd into prepared iovecs or views                     3.0, 3.5
slice assignment with everything made on the spot                     3.2
numpy slice assignment or copyto, one call a piece                    4.3, 5.5
ctypes.memmove, one call a piece                                      8.4
====================================================================  =========

Pieces of regular lines are faster still, all of a kind in one call (:mod:`vcapdev.pci.evenly`): 0.57 of the
time of the first, where a loop over memcpy in C takes 0.51. For all others a batch keeps, in its cache, a
slice of its segment and a view of the source for each piece. Only the slices name guest memory; the one view
of each segment is held here and dropped when the segment goes. With a vIOMMU there are thousands of segments,
one for each page: who watches the map with the bus master (see :meth:`BusMaster.mapped`) saves it from
looking at all of them after each change.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Abort, Batch, Checkpoint, DmaObserver, MemoryMap, MemorySegment, Program
from vcapdev.pci.evenly import Items, Kind, Places, apart, kinds, put
from vcapdev.recall import Recall

# Of pieces in one segment: which, where there each goes, and what it is.
Run = tuple[int, list[slice], list[memoryview]]
_PLAN = "busmaster"
_SOURCES = 32  # two fields, and lines that cross pages at so many different places


class BusAbort(Exception):  # noqa: N818 - the PCI word for it
    """A transfer was refused. Observers have been told; earlier pieces of the batch have been moved.

    :ivar index: of the refused piece in its batch; 0 for a read.
    """

    def __init__(self, addr: int, length: int, origin: int, write: bool, why: Abort, index: int = 0) -> None:
        what = "write" if write else "read"
        super().__init__(f"{what} of {length} bytes at {addr:#x}: {why.value}")
        self.addr, self.length, self.origin = addr, length, origin
        self.write, self.why, self.index = write, why, index


@dataclass(slots=True)
class _Plan:
    """A batch translated: for each stretch of pieces in one segment, where each piece goes and comes from."""

    generation: int
    data: NDArray[np.uint8]
    runs: list[Run]
    moved: Batch  # the batch, or what precedes its first refused piece
    fault: tuple[int, Abort] | None
    # All pieces in one segment, of few kinds: its index, and where in it the pieces of each kind go.
    even: tuple[int, list[tuple[Places, Items]]] | None = None
    # All pieces in one segment: its index, and offsets there, lengths, offsets in the data. Runs are made of
    # them only when the batch comes again: a driver that builds a program for every buffer moves each once.
    single: tuple[int, NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]] | None = None
    moves: int = 0


class BusMaster:
    """Reads and writes guest memory for one PCI function.

    :param memory: what the device can reach.
    :param enabled: the bus-master bit of the function's command register.
    :param drain: handles pending messages of the guest, so that a posted "stop" is seen in time.
    """

    def __init__(
        self, memory: MemoryMap, enabled: Callable[[], bool], drain: Callable[[], None] | None = None
    ) -> None:
        self.memory, self.enabled, self.on_drain = memory, enabled, drain
        self.observers: list[DmaObserver] = []
        self.on_abort: Callable[[Abort], None] | None = None
        """Told of every master abort, for the status bits of config space."""
        self._generation: int | None = None
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._views: list[memoryview] = []
        self._writable: list[bool] = []
        self._arrays: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]] | None = None
        # Batches of programs that differ in their addresses only share the arrays that say where the bytes
        # come from: for all of them the kinds of pieces are found once, and the views made once.
        self._kinds: Recall[list[Kind]] = Recall(_SOURCES)
        self._sources: Recall[list[memoryview]] = Recall(_SOURCES)

    def drain(self) -> None:
        """Handle what the guest has sent up to now."""
        if self.on_drain is not None:
            self.on_drain()

    def forget(self) -> None:
        """Let go of all guest memory; the map is looked at again with the next transfer."""
        self._generation = None
        self._views.clear()

    def mapped(self, segment: MemorySegment) -> None:
        """One segment has come, and nothing else has changed since the generation before."""
        if self._generation is None or self._generation + 1 != self.memory.generation:
            return  # the whole map will be looked at
        at = bisect_left(self._starts, segment.start)
        self._starts.insert(at, segment.start)
        self._ends.insert(at, segment.start + segment.size)
        self._views.insert(at, segment.data.data)
        self._writable.insert(at, segment.writable)
        self._generation, self._arrays = self.memory.generation, None

    def unmapped(self, segments: Sequence[MemorySegment]) -> None:
        """Neighbouring segments have gone, and nothing else has changed since the generation before."""
        if self._generation is None or self._generation + 1 != self.memory.generation:
            self.forget()
            return
        if segments:
            first = bisect_left(self._starts, segments[0].start)
            gone = slice(first, first + len(segments))
            for column in (self._starts, self._ends, self._views, self._writable):
                del column[gone]
        self._generation, self._arrays = self.memory.generation, None

    # Reading.

    def read(self, addr: int, length: int, origin: int = 0) -> bytes:
        """Fetch ``length`` bytes at bus address ``addr``; observers are told.

        :raise BusAbort: bus mastering is off, or part of the range is not mapped.
        """
        if not self.enabled():
            self._refuse(BusAbort(addr, length, origin, False, Abort.MASTER_DISABLED))
        data = self.peek(addr, length)
        if len(data) < length:
            self._refuse(BusAbort(addr, length, origin, False, Abort.UNMAPPED))
        for observer in self.observers:
            observer.device_read(addr, length, origin)
        return data

    def fetch(self, addr: int, longest: int, measure: Callable[[bytes], int], origin: int = 0) -> bytes:
        """As :meth:`read`, of something that tells its own length.

        :param measure: gets up to ``longest`` bytes, and says how many of them are wanted.
        """
        ahead = self.peek(addr, longest)
        length = measure(ahead)
        if len(ahead) < length or not self.enabled():
            return self.read(addr, length, origin)
        for observer in self.observers:
            observer.device_read(addr, length, origin)
        return ahead[:length]

    def peek(self, addr: int, length: int) -> bytes:
        """What is in memory now, up to the end of the mapped range; no bus cycle, no observer."""
        if self._generation != self.memory.generation:
            self._follow_map()
        index = bisect_right(self._starts, addr) - 1
        if index < 0 or addr >= self._ends[index]:
            return b""
        offset = addr - self._starts[index]
        data = bytes(self._views[index][offset : offset + length])
        if (
            len(data) < length
            and index + 1 < len(self._starts)
            and self._starts[index + 1] == addr + len(data)
        ):
            data += self.peek(addr + len(data), length - len(data))
        return data

    # Writing.

    def reaches(self, addr: int, length: int) -> bool:
        """Whether a write there would find writable memory all along, as the map is now."""
        self._follow_map()
        index, end = bisect_right(self._starts, addr) - 1, addr + length
        if index < 0 or addr >= self._ends[index] or not self._writable[index]:
            return False
        while end > self._ends[index]:  # with a vIOMMU each page is a segment
            seam, index = self._ends[index], index + 1
            if index == len(self._starts) or self._starts[index] != seam or not self._writable[index]:
                return False
        return True

    def write(self, batch: Batch, data: NDArray[np.uint8], wanted: Callable[[], bool] | None = None) -> bool:
        """Move a batch's pieces out of ``data`` (shape ``(n,)``), in order.

        Keep ``data`` the same object from one field to the next: views of it are cached with the batch.

        :param wanted: asked once more when the observers have looked, who may have let the guest speak.
        :return: whether anything was moved; not if it was no longer wanted.
        :raise BusAbort: a piece was refused; those before it have been moved.
        :raise ValueError: a piece reaches outside ``data``.
        """
        if not self.enabled():
            self.refuse_piece(batch, 0, Abort.MASTER_DISABLED)
        plan = self._planned(batch, data)
        if len(plan.moved.addr) and self.observers:
            for observer in self.observers:
                observer.before_write(plan.moved)
            # An observer may have paused the guest and served its messages meanwhile, an unmap among them.
            plan = self._planned(batch, data)
            if wanted is not None and not wanted():
                return False
        self._move(plan)
        if len(plan.moved.addr):
            for observer in self.observers:
                observer.after_write(plan.moved)
        if plan.fault is not None:
            self.refuse_piece(batch, *plan.fault)
        return True

    def _move(self, plan: _Plan) -> None:
        plan.moves += 1
        if plan.even is not None:
            home, parts = plan.even
            for where, items in parts:
                put(self._views[home], where, items)
            return
        if plan.single is not None:
            self._move_once(plan, *plan.single)
        for segment, slices, pieces in plan.runs:
            view = self._views[segment]
            for place, what in zip(slices, pieces, strict=True):
                view[place] = what

    def _move_once(
        self,
        plan: _Plan,
        segment: int,
        offset: NDArray[np.uint64],
        length: NDArray[np.uint64],
        source: NDArray[np.uint64],
    ) -> None:
        view, data = self._views[segment], plan.data.data
        ends = (offset + length).tolist(), (source + length).tolist()
        for start, end, first, last in zip(offset.tolist(), ends[0], source.tolist(), ends[1], strict=True):
            view[start:end] = data[first:last]

    def _planned(self, batch: Batch, data: NDArray[np.uint8]) -> _Plan:
        plan: _Plan | None = batch.cache.get(_PLAN)
        if plan is None or plan.data is not data or plan.generation != self.memory.generation:
            plan = batch.cache[_PLAN] = self._translate(batch, data)
        elif self._generation != plan.generation:
            self._follow_map()
        if plan.single is not None and plan.moves:
            segment, offset, length, source = plan.single
            views = self._sources(lambda: _views(data, source, length), data, batch.source, batch.length)
            plan.runs.append((segment, _slices(offset, length), views))
            plan.single = None
        return plan

    def _translate(self, batch: Batch, data: NDArray[np.uint8]) -> _Plan:
        self._follow_map()
        length = batch.length.astype(np.uint64)
        source = batch.source.astype(np.uint64)
        if len(length) and int((source + length).max()) > len(data):
            raise ValueError("a piece of the batch reaches outside the data")
        assert self._generation is not None
        plan = _Plan(self._generation, data, [], batch, None)
        home = self._home(batch.addr, length)
        if home >= 0:
            offset = batch.addr - np.uint64(self._starts[home])
            places = offset.astype(np.intp)
            found = self._kinds(lambda: kinds(data, source, length), data, batch.source, batch.length)
            if found and apart(places, length):
                plan.even = home, [(places[kind.rows], kind.items) for kind in found]
            else:
                plan.single = home, offset, length, source
            return plan
        segment, offset, whole = self._locate(batch.addr, length)
        targets, sources = _slices(offset, length), _views(data, source, length)
        for index, (home, fits) in enumerate(zip(segment.tolist(), whole.tolist(), strict=True)):
            if fits:
                _append(plan.runs, home, targets[index], sources[index])
                continue
            why = self._split(int(batch.addr[index]), sources[index], plan.runs)
            if why is not None:
                plan.fault = (index, why)
                plan.moved = _head(batch, index)
                break
        return plan

    def _home(self, addr: NDArray[np.uint64], length: NDArray[np.uint64]) -> int:
        """The writable segment that all pieces are in; -1 for none, or where that takes a closer look."""
        if not len(addr):
            return -1
        first, end = int(addr.min()), int(addr.max()) + int(length.max())
        home = bisect_right(self._starts, first) - 1
        return home if home >= 0 and end <= self._ends[home] and self._writable[home] else -1

    def _locate(
        self, addr: NDArray[np.uint64], length: NDArray[np.uint64]
    ) -> tuple[NDArray[np.intp], NDArray[np.uint64], NDArray[np.bool_]]:
        """For each piece: its segment, its offset there, and whether it fits there and may be written."""
        starts, ends, writable = self._columns()
        segment = np.searchsorted(starts, addr, side="right") - 1
        if not len(starts):
            return segment, addr, np.zeros(len(addr), np.bool_)
        offset = addr - starts[segment]
        room = ends[segment] - starts[segment]
        # "offset <= room" first: a bus address is 64 bits wide here and a sum could wrap around.
        fits = (segment >= 0) & (offset <= room) & (length <= room - np.minimum(offset, room))
        return segment, offset, fits & writable[segment]

    def _columns(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
        """Starts, ends and write rights of all segments as arrays, made when asked for."""
        if self._arrays is None:
            self._arrays = (
                np.array(self._starts, np.uint64),
                np.array(self._ends, np.uint64),
                np.array(self._writable, np.bool_),
            )
        return self._arrays

    def _split(self, addr: int, what: memoryview, runs: list[Run]) -> Abort | None:
        """A piece that is not inside one writable segment: cut at the seams, or say why it is refused."""
        parts: list[tuple[int, slice, memoryview]] = []
        done, length = 0, len(what)
        while done < length:
            index = bisect_right(self._starts, addr + done) - 1
            if index < 0 or addr + done >= self._ends[index]:
                return Abort.UNMAPPED
            if not self._writable[index]:
                return Abort.READ_ONLY
            offset = addr + done - self._starts[index]
            count = min(length - done, self._ends[index] - addr - done)
            parts.append((index, slice(offset, offset + count), what[done : done + count]))
            done += count
        for part in parts:
            _append(runs, *part)
        return None

    def refuse_piece(self, batch: Batch, index: int, why: Abort) -> NoReturn:
        """End a batch at one of its pieces, as a bridge would. :raise BusAbort: always."""
        rows = (batch.addr, batch.length, batch.origin)
        addr, length, origin = (int(row[index]) if index < len(row) else 0 for row in rows)
        self._refuse(BusAbort(addr, length, origin, True, why, index))

    def _refuse(self, abort: BusAbort) -> NoReturn:
        for observer in self.observers:
            observer.aborted(abort.addr, abort.length, abort.origin, abort.write, abort.why)
        if self.on_abort is not None and abort.why is not Abort.MASTER_DISABLED:
            self.on_abort(abort.why)
        raise abort

    def _follow_map(self) -> None:
        if self._generation == self.memory.generation:
            return
        segments = list(self.memory.segments)
        self._generation = self.memory.generation
        self._starts = [segment.start for segment in segments]
        self._ends = [segment.start + segment.size for segment in segments]
        self._views = [segment.data.data for segment in segments]
        self._writable = [segment.writable for segment in segments]
        self._arrays = None

    # What a device tells its observers besides transfers.

    def program(self, program: Program) -> None:
        """Announce a program that was decoded."""
        for observer in self.observers:
            observer.program(program)

    def gone(self, program_id: int) -> None:
        """Announce that a program will not run again."""
        for observer in self.observers:
            observer.gone(program_id)

    def checkpoint(self, what: Checkpoint) -> None:
        """Announce a moment."""
        for observer in self.observers:
            observer.checkpoint(what)


def _slices(start: NDArray[np.uint64], length: NDArray[np.uint64]) -> list[slice]:
    return list(map(slice, start.tolist(), (start + length).tolist()))


def _views(
    data: NDArray[np.uint8], start: NDArray[np.uint64], length: NDArray[np.uint64]
) -> list[memoryview]:
    view = data.data
    return [view[part] for part in _slices(start, length)]


def _append(runs: list[Run], segment: int, where: slice, what: memoryview) -> None:
    if not runs or runs[-1][0] != segment:
        runs.append((segment, [], []))
    runs[-1][1].append(where)
    runs[-1][2].append(what)


def _head(batch: Batch, count: int) -> Batch:
    """The first ``count`` pieces of a batch, for observers of a batch that is cut short."""
    return Batch(
        batch.addr[:count], batch.length[:count], batch.source[:count], batch.origin[:count], batch.program
    )
