# SPDX-License-Identifier: GPL-2.0-or-later
"""A card behind the guest's vIOMMU: what the driver has mapped, RAM as a whole, and what ties the two."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from vcapdev.dmacheck.checker import Checker
from vcapdev.dmacheck.domain import Domain, Moment
from vcapdev.dmacheck.iommu import BehindIommu
from vcapdev.regs import Access
from vcapdev.serve.ram import parse
from vcapdev.vfiouser.dmamap import DmaMap
from vcapdev.vfiouser.rammap import RamMap


class Behind:
    """Follows the DMA map of a card.

    :param ram: where RAM lies, see :mod:`vcapdev.serve.ram`.
    :param clock: the time in seconds.
    :param fields: how many fields have been sent.
    :param describe: a register access in words.
    :ivar ram: guest RAM by physical address, for the checker.
    :ivar observer: stands between bus master and checker; there once :meth:`observe` was called.
    """

    observer: BehindIommu

    def __init__(
        self,
        memory: DmaMap,
        ram: str,
        clock: Callable[[], float],
        fields: Callable[[], int],
        describe: Callable[[Access], str],
    ) -> None:
        self._clock, self._fields, self._describe = clock, fields, describe
        self._writes = 0
        self._last: tuple[int, int, int] | None = None
        self.ram = RamMap(memory, parse(ram), self._ram_changed, _say)
        self.domain = Domain(self.ram.physical, self._moment, lambda: self.observer.classify())
        memory.watch(self.ram)
        memory.watch(self.domain)

    def observe(self, checker: Checker) -> BehindIommu:
        """The observer for a bus master, in front of a checker of :attr:`ram`."""
        self.observer = BehindIommu(checker, self.domain, self._explain)
        return self.observer

    def wrote(self, offset: int, size: int, value: int) -> None:
        """The driver is about to write a register."""
        self._writes += 1
        self._last = offset, size, value

    def drop(self) -> None:
        """The client is gone: let go of its memory."""
        self.domain.clear()
        self.ram.drop()

    def _moment(self, number: int) -> Moment:
        return Moment(number, self._writes, self._last, self._clock(), self._fields())

    def _explain(self, last: Any) -> str:
        """Register and value; what its bits mean would be too much in a line about something else."""
        return " ".join(self._describe(Access("W", *last)).split()[1:3])

    def _ram_changed(self) -> None:
        self.observer.checker.memory_changed()


def _say(line: str) -> None:
    print(f"vcapdev: --iommu: {line}", file=sys.stderr, flush=True)
