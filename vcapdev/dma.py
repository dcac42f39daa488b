# SPDX-License-Identifier: GPL-2.0-or-later
"""What a device and a checker share: guest memory, batches of DMA writes, and who watches them.

Nothing here knows of video or of page state. A device hands batches to its bus master (``vcapdev.pci``); the
bus master moves the bytes and tells its observers; a checker is an observer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class MemorySegment(Protocol):
    """One contiguous range of guest bus addresses that this process has mapped."""

    @property
    def start(self) -> int:
        """First bus address (equals the guest physical address without an IOMMU)."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    @property
    def writable(self) -> bool:
        """Whether a device may write to it."""

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes, shape ``(size,)``, a view of the shared mapping."""

    @property
    def fd(self) -> int:
        """Descriptor behind the mapping, for ``SEEK_DATA``; owned by the map, not to be closed."""

    @property
    def fd_offset(self) -> int:
        """Where the segment begins in the descriptor's file, in bytes."""


@dataclass(frozen=True, eq=False)
class StillSegment:
    """A :class:`MemorySegment` that is only looked at: of a guest that does not run, or of an image."""

    start: int
    size: int
    data: NDArray[np.uint8]
    fd: int
    fd_offset: int
    writable: bool = False


class MemoryMap(Protocol):
    """The guest memory a device can reach."""

    @property
    def generation(self) -> int:
        """Grows with every map and unmap: whoever caches a translation compares it."""

    @property
    def segments(self) -> Sequence[MemorySegment]:
        """All mapped segments, in ascending order of ``start``, never overlapping."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """DMA writes that are moved and judged together; the device re-uses the object for every field.

    Arrays have shape ``(n,)``, one row a piece, in the order in which the device writes.
    """

    addr: NDArray[np.uint64]  # bus address of each piece
    length: NDArray[np.uint32]  # bytes
    source: NDArray[np.uint32]  # offset of the piece in the data given to ``BusMaster.write``
    origin: NDArray[np.int64]  # opaque id, see ``Describe``
    program: int  # id of the program that the pieces belong to
    cache: dict[object, Any] = field(default_factory=dict)  # derived values of bus master and observers


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin explained, for people. What does not apply is None."""

    instruction: str  # decoded, for example "WRITE SOL 1008 bytes to 0x0a3c1010"
    address: int  # bus address of the instruction
    frame: int | None = None  # counted by the device since power-on
    field: str | None = None  # "odd" or "even"
    line: int | None = None  # of the field, from 0
    offset: int | None = None  # first byte of the piece in its line


@dataclass(frozen=True, slots=True)
class Program:
    """A device program that was decoded, and all the memory it can write."""

    id: int  # never re-used in the life of a device
    address: int  # bus address of its first instruction
    ranges: NDArray[np.uint64]  # shape (n, 2): first address and length of each piece
    code: bytes  # the program itself, as fetched


class Abort(Enum):
    """Why a transfer was refused by the bus."""

    MASTER_DISABLED = "bus mastering is off"
    UNMAPPED = "no memory answers at this address"
    READ_ONLY = "the memory is read-only for devices"


class Checkpoint(Enum):
    """A moment, other than a transfer, at which an observer may want to look."""

    REGISTER_WRITE = "register write"  # one by which a driver turns to other work, not each of many settings
    FIELD = "field boundary"
    DMA_START = "DMA switched on"
    DMA_STOP = "DMA switched off"
    RESET = "device reset"


class DmaObserver(Protocol):
    """Watches a bus master. Called in the device's own thread; must be quick and never raise."""

    def program(self, program: Program) -> None:
        """A program was decoded for the first time, or changed (then ``gone`` came for the old id)."""

    def gone(self, program_id: int) -> None:
        """A program will not run again under this id."""

    def before_write(self, batch: Batch) -> None:
        """The batch passed the bus gate and is about to be moved."""

    def after_write(self, batch: Batch) -> None:
        """The batch's bytes are in memory."""

    def device_read(self, addr: int, length: int, origin: int) -> None:
        """The device fetched memory (an instruction, a descriptor)."""

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        """A transfer, or one piece of a batch, was refused; nothing of it was moved."""

    def checkpoint(self, what: Checkpoint) -> None:
        """A register was written, a field ended, DMA was switched, or the device was reset."""


class NullObserver(DmaObserver):
    """Watches nothing: for observers that need only some of the calls."""

    def program(self, program: Program) -> None:
        return

    def gone(self, program_id: int) -> None:
        return

    def before_write(self, batch: Batch) -> None:
        return

    def after_write(self, batch: Batch) -> None:
        return

    def device_read(self, addr: int, length: int, origin: int) -> None:
        return

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        return

    def checkpoint(self, what: Checkpoint) -> None:
        return


class Describe(Protocol):
    """Explains an origin; valid while the batch that carries it is being moved."""

    def __call__(self, origin: int) -> Origin: ...
