# SPDX-License-Identifier: GPL-2.0-or-later
"""A program, the buffer behind it, and the few words that tell whether anything about it has changed."""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.ledger import Record
from vcapdev.dmacheck.userpages import UserPages
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.guestmm.memory import PAGE_SHIFT
from vcapdev.guestmm.pages import PageFacts, among
from vcapdev.guestmm.peeks import Spots
from vcapdev.guestmm.words import Reader, Words
from vcapdev.recall import Recall

Ints = NDArray[np.int64]


class Watch:
    """A program, the buffer behind it, and what of it was last found in order."""

    def __init__(self, kernel: Kernel, record: Record, buffer: MediaBuffer) -> None:
        self.record, self.buffer, self._kernel = record, buffer, kernel
        reader = Reader.of(kernel)
        self._identity = len(buffer.watch)
        self._words = Words(kernel, reader.physicals((*buffer.watch, buffer.state_at & ~7)))
        first = self._words.read()
        self._same = first[: self._identity].tobytes()
        self.good = first.tobytes() if buffer.owned else b""
        self.bad = False  # whether the look before the bytes moved found the buffer given back
        self.outside: bool | None = None  # whether the program writes beyond the buffer; None: not known yet
        self.claims: tuple[PageFacts, Ints] | None = None  # what pins were last compared with
        self.short = False  # whether there were fewer of them
        self.user: UserPages | None = None  # the same pages in their owner's memory
        self.astray = False  # whether they are not at the address that was queued

    def twin(self, record: Record) -> Watch:
        """The same buffer for another program with the same pages."""
        other = copy(self)
        other.record, other.outside, other.bad = record, None, False
        return other

    def all_inside(self) -> bool:
        """Whether the program writes to no other pages, and every byte of them is the buffer's."""
        buffer = self.buffer
        if buffer.extents is not None or buffer.offset or buffer.length != len(buffer.pfns) << PAGE_SHIFT:
            return False
        pfns = self.record.pfns
        return _within(self._kernel)(lambda: bool(among(pfns, np.sort(buffer.pfns)).all()), pfns, buffer.pfns)

    @property
    def spots(self) -> list[tuple[Spots | None, bytes]]:
        """Where all words are that it depends on, and what they were when nothing was wrong."""
        own = self._words.spots, self.good
        return [own] if self.user is None else [own, self.user.leaves.spots]

    def quiet(self) -> bool:
        """Whether all words are what they were when the buffer was last the device's."""
        return self._words.read().tobytes() == self.good

    def moved(self) -> bool:
        """Whether anything but the state has changed."""
        return self._words.read()[: self._identity].tobytes() != self._same


def _within(kernel: Kernel) -> Recall[bool]:
    """Which programs write to pages of their buffers only: by the pages of both."""
    found = kernel.cache.get("within")
    if not isinstance(found, Recall):
        found = kernel.cache["within"] = Recall()
    return found
