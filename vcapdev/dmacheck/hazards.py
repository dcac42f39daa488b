# SPDX-License-Identifier: GPL-2.0-or-later
"""Hazards: no bug of the driver, but they may cost its user data all the same. Reported, never a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vcapdev.dma import Batch, Origin
from vcapdev.dmacheck.breach import Breach
from vcapdev.dmacheck.look import BatchPages
from vcapdev.dmacheck.rules import STABLE_PAGE
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT
from vcapdev.guestmm.pages import Bools, PageFacts
from vcapdev.guestmm.pageview import view_page


@dataclass
class Hazard:
    """One kind of hazard: how many pages were written so, and the first of them."""

    rule: str
    id: str
    sentence: str
    pages: int
    field: int
    pfn: int
    instruction: dict[str, Any] | None
    page: str


class Hazards:
    """What was found, by rule.

    :param explain: explains an origin while its batch is being moved.
    """

    def __init__(self, explain: Callable[[int], Origin | None]) -> None:
        self._explain = explain
        self._found: dict[str, Hazard] = {}

    def wrote(self, kernel: Kernel, batch: Batch, pages: BatchPages, field: int) -> None:
        """Bytes were moved: were their pages being written to disk, before and after?"""
        facts, first = pages.facts, pages.first
        if facts is None:
            return
        if not facts.has(kernel.flags.bit("writeback")).any():
            pages.pages.calm = facts
            return
        busy = _being_written(kernel, facts)
        if busy.any() and first is not None and len(first.pfn) == len(facts.pfn):
            rows = np.flatnonzero(busy & _being_written(kernel, first))
            if len(rows):
                self.add(kernel, Breach(STABLE_PAGE, "", rows), batch, facts, field)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values."""
        return [asdict(hazard) for hazard in self._found.values()]

    def add(self, kernel: Kernel, breach: Breach, batch: Batch, facts: PageFacts, field: int) -> None:
        """What was found at a write, while that can be explained."""
        rule, rows = breach.rule, breach.rows.tolist()
        known = self._found.get(rule.name)
        if known is not None:
            known.pages += len(rows)
            return
        pfn = int(facts.pfn[rows[0]])
        hits = np.flatnonzero(batch.addr >> np.uint64(PAGE_SHIFT) == pfn)
        origin = self._explain(int(batch.origin[hits[0]])) if len(hits) else None
        self._found[rule.name] = Hazard(
            rule.name,
            rule.id,
            rule.sentence,
            len(rows),
            field,
            pfn,
            None if origin is None else asdict(origin),
            str(view_page(kernel, facts, rows[0])),
        )


def _being_written(kernel: Kernel, facts: PageFacts) -> Bools:
    """Pinned pages of files, not of shmem, that are under writeback."""
    bit = kernel.flags.bit
    busy = facts.has(bit("writeback")) & facts.pinned & facts.present & ~facts.torn
    file = ((facts.mapping & np.uint64(3)) == 0) & (facts.mapping != 0) & ~facts.has(bit("swapbacked"))
    result: Bools = busy & file
    return result
