# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest RAM by physical address, for whom the guest's IOMMU does not concern.

Behind a vIOMMU the DMA map holds only what a driver has mapped, at bus addresses of the kernel's choice. RAM
itself is one file all the same, which every map names: it is held whole from the first map on, and laid out
as the launcher of the virtual machine says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vcapdev.vfiouser.dmamap import DmaMap, Segment, WholeFile


class RamPiece(NamedTuple):
    """A stretch of RAM: ``size`` bytes at guest physical ``start``, from ``offset`` on in the RAM file."""

    start: int
    size: int
    offset: int


class RamMap:
    """Guest RAM; satisfies ``vcapdev.dma.MemoryMap`` and watches a :class:`DmaMap`.

    :param layout: where RAM lies, ascending.
    :param on_change: told when RAM has come or gone.
    :param log: takes a line for a person.
    """

    def __init__(
        self,
        memory: DmaMap,
        layout: Sequence[RamPiece],
        on_change: Callable[[], None] = lambda: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._memory = memory
        self._layout = tuple(layout)
        self._needed = max(piece.offset + piece.size for piece in layout)
        self._on_change = on_change
        self._log = log
        self._file: WholeFile | None = None
        self._complained = False
        self._generation = 0
        self._segments: list[Segment] = []

    @property
    def generation(self) -> int:
        """Grows when RAM comes or goes, not with a driver's maps."""
        return self._generation

    @property
    def segments(self) -> Sequence[Segment]:
        """RAM by guest physical address, ascending; empty while no client has mapped any of it."""
        return self._segments

    def physical(self, fd: int, offset: int, size: int) -> int | None:
        """The guest physical address of ``size`` bytes of a segment's file; None where they are not RAM."""
        if self._file is None or fd != self._file.fd:
            return None
        for piece in self._layout:
            into = offset - piece.offset
            if into >= 0 and into + size <= piece.size:
                return piece.start + into
        return None

    def drop(self) -> None:
        """Let go of RAM: the client that shared it is gone."""
        if self._file is not None:
            self._segments, file, self._file = [], self._file, None
            self._changed()
            file.release()
        self._complained = False

    # What a DmaMap tells its watchers.

    def mapped(self, segment: Segment) -> None:
        """Take hold of RAM with the first map of it that may be written."""
        if self._file is not None or not segment.writable:
            return
        file = self._memory.hold(segment)
        if file.size < self._needed:
            file.release()
            if not self._complained:
                self._complained = True
                self._log(f"the guest's RAM file has {file.size:#x} bytes, but {self._needed:#x} are told of")
            return
        self._file = file
        self._segments = [
            Segment(start, size, True, file.data[offset : offset + size], file.fd, offset)
            for start, size, offset in self._layout
        ]
        self._changed()

    def unmapped(self, segments: Sequence[Segment]) -> None:
        """RAM stays, whatever a driver unmaps."""

    def _changed(self) -> None:
        self._generation += 1
        self._on_change()
