# SPDX-License-Identifier: GPL-2.0-or-later
"""The ground that judgements stand on: which kernel runs, what was learnt of it, and what makes that void.

A reset of the device, a kernel that follows another, a changed memory map, a stop of DMA: each voids
something else. Whatever was prepared before ``epoch`` changed must not be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from vcapdev.dma import MemoryMap
from vcapdev.dmacheck.attachment import Attachment
from vcapdev.dmacheck.books import Books
from vcapdev.dmacheck.contract import Contract
from vcapdev.dmacheck.fetches import Fetches
from vcapdev.dmacheck.guard import Guard
from vcapdev.dmacheck.history import History
from vcapdev.dmacheck.oddities import Oddities
from vcapdev.dmacheck.recent import RecentFields, RecentSets
from vcapdev.dmacheck.releases import Releases
from vcapdev.dmacheck.suspects import Suspects
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import PageSet

if TYPE_CHECKING:
    from vcapdev.dmacheck.court import Court


class Ground:
    """What is known of the guest.

    :param dma_running: handles pending register writes, then says whether DMA is still on.
    :ivar court: to be set before anything is learnt.
    :ivar running: whether DMA is on by what was told; None while nothing was.
    :ivar judging: whether a verdict is being made: what is handled meanwhile must not stop the vCPUs again.
    """

    court: Court

    def __init__(self, memory: MemoryMap, dma_running: Callable[[], bool]) -> None:
        self._dma_running = dma_running
        self.attachment = Attachment(memory)
        self.history, self.oddities, self.books = History(), Oddities(), Books()
        self.guard = Guard(self.oddities)
        self.recent, self.sets = RecentFields(), RecentSets()
        self.pins: Releases | None = None
        self.contract: Contract | None = None
        self.fetches: Fetches | None = None
        self.suspects: Suspects | None = None
        self.fields = self.stops = 0
        self.running: bool | None = None
        self.judging = False
        self.seen = np.zeros(0, dtype=bool)  # by page frame: those that were ever written to
        self._doubt = False  # whether the kernel may have been followed by another

    @property
    def kernel(self) -> Kernel | None:
        """The kernel that is attached, if any."""
        return self.attachment.kernel

    @property
    def epoch(self) -> object:
        """Another object whenever everything derived from guest memory has become void."""
        return self.attachment.epoch

    @property
    def attached(self) -> bool:
        """Whether the guest's kernel is known at this moment, beyond doubt."""
        return self.kernel is not None and not self._doubt

    def count(self, pages: PageSet) -> None:
        """Note that these pages are written to."""
        if pages.counted is not self.seen:
            pages.counted = self.seen
            self.seen[pages.pfns[: np.searchsorted(pages.pfns, len(self.seen))]] = True

    def ready(self) -> bool:
        """Whether a kernel is attached, with the memory map as it is now."""
        if self.attachment.stale:
            self.guard(self.follow_map)
        return self.kernel is not None

    def still_running(self) -> bool:
        """Whether DMA goes on, once pending register writes are handled, and was not stopped in between."""
        stops = self.stops
        return self._dma_running() and self.stops == stops

    @contextmanager
    def judgement(self) -> Iterator[None]:
        """While a verdict is made."""
        self.judging = True
        try:
            yield
        finally:
            self.judging = False

    # Coming.

    def find_kernel(self, *, restored: bool = False) -> None:
        """Look for the guest's kernel, and begin with it."""
        if self.attachment.under_way:
            return  # DMA was switched on again meanwhile: whoever looks has not found it yet
        old = self.kernel
        if not self.attachment.attach(self._breathe, restored=restored) or self.kernel is None:
            if old is not None and old is self.kernel:
                self.attachment.drop(f"a former kernel is no more: {self.attachment.why_not}")
                self.forget()
            return
        if old is not None and old.identity != self.kernel.identity and self.pins is not None:
            self.pins.drop()
        self.take_up(self.kernel)

    def take_up(self, kernel: Kernel) -> None:
        """Begin with a kernel that the attachment knows."""
        self._doubt = False
        self._renew()
        if len(self.seen) < kernel.vmemmap.pages:
            self.seen = np.zeros(kernel.vmemmap.pages, dtype=bool)
        self.books.forget(kind=True)

    def inherit(self, other: Ground) -> None:
        """Take over the kernel and the programs that another has known."""
        self.attachment, self.books, self.running = other.attachment, other.books, other.running
        kernel = self.kernel
        if kernel is not None:
            self.guard(lambda: self.take_up(kernel))
            self._doubt = other._doubt

    def doubt(self) -> None:
        """The guest may start another kernel without a device reset."""
        self._doubt = self.kernel is not None

    def _renew(self) -> None:
        """Begin to watch pins anew, and to collect the pages of a frame."""
        if self.kernel is not None and self.attachment.setting is not None:
            self.pins = Releases(self.kernel, self.court, self.oddities, self.pins, lambda: self.fields)
            self.contract = Contract(self.kernel, self.oddities, self.contract)
            self.suspects = Suspects(self.kernel)
            self.fetches = Fetches(self.kernel, self.attachment.setting, self.fetches)
        self.recent.clear()
        self.sets.clear()

    def _breathe(self) -> None:
        self._dma_running()

    # Going.

    def follow_map(self) -> None:
        """The map of guest memory, or that of struct pages, has changed: build what rests on it again."""
        if self.attachment.follow():
            self._renew()
            self.books.forget(kind=False)
        elif self.kernel is None:
            self.forget()

    def forget(self) -> None:
        """Forget what was learnt of the guest; figures and findings stay."""
        self.stops += 1
        self._doubt = False
        self._renew()
        self.books.forget(kind=True)
        self.history.clear()
        self.oddities.forget()
        if self.fetches is not None:
            self.fetches.forget()
        if self.pins is not None:
            self.pins.drop()

    def reset(self) -> None:
        """The device was reset."""
        self.books.clear()
        self.attachment.drop("the device was reset and DMA has not been switched on since")
        self.running = False
        self.forget()

    def started(self) -> None:
        """DMA was switched on."""
        self.running = True

    def stopped(self) -> None:
        """Buffers may be given back while DMA is off, and their pages may come again in another role."""
        self.stops += 1
        self.running = False
        self.books.forget(kind=True)
        if self.fetches is not None:
            self.fetches.forget()

    def next_field(self) -> None:
        """A field has ended."""
        self.fields += 1
        self.recent.next_field()
        if self.fetches is not None:
            self.fetches.next_field()
