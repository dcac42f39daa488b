# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs whose pages no queue lists, while the card fills buffers of a queue.

Pages that were a queue's buffer before, and are nobody's now, are written to by a program that should have
ended (V13). Pages that never were may be the driver's own business, a scratch buffer say: a hazard (S3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.dmacheck.breach import Breach
from vcapdev.dmacheck.ledger import Record
from vcapdev.dmacheck.look import BatchPages
from vcapdev.dmacheck.rules import NOT_THE_DEVICES, UNLISTED
from vcapdev.guestmm.media import Media
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.recall import keep

_FIELDS = 2  # at which no queue must list the pages: once may be a look amid a change of the queue
_AGAIN = 64  # fields after which a program that is known to be a stray is looked up again
_MAX_STRAYS = 1024
_MAX_FORMER = 256

Ints = NDArray[np.int64]


@dataclass
class Stray:
    """A program without a buffer, and at how many fields it was looked up, the last of them."""

    record: Record
    looks: int = 0
    field: int = -1


class Strays:
    """Looks them up again, and says which are suspicious."""

    def __init__(self, media: Media) -> None:
        self._media = media
        self._strays: dict[int, Stray] = {}
        self._former: dict[int, Ints] = {}  # pages of programs that had a buffer, by the identity of the list

    def __contains__(self, program: int) -> bool:
        return program in self._strays

    def had_buffer(self, record: Record) -> None:
        """A program's buffer was found."""
        self._strays.pop(record.id, None)
        keep(self._former, id(record.pfns), record.pfns, _MAX_FORMER)

    def add(self, record: Record) -> None:
        """A program's buffer was not found."""
        keep(self._strays, record.id, Stray(record), _MAX_STRAYS)

    def forget(self, program: int) -> None:
        """A program will not run again, or is learnt anew."""
        self._strays.pop(program, None)

    def to_look_up(self, program: int, field: int) -> Record | None:
        """Whose buffer should be looked for at this field: seldom, once that was in vain."""
        stray = self._strays.get(program)
        if stray is None or stray.field == field:
            return None
        if stray.looks >= _FIELDS and field - stray.field < _AGAIN:
            return None
        stray.field = field
        stray.looks += 1
        return stray.record

    def breaches(self, pages: BatchPages, queues: list[int]) -> list[Breach]:
        """What is suspicious of a program's write; ``queues`` are those whose buffers the card fills."""
        stray = self._strays.get(pages.record.id)
        if stray is None or stray.looks < _FIELDS or self._being_filled(queues) is None:
            return []
        rows = self._unlisted(pages)
        if not len(rows):
            return []
        if self._former.get(id(stray.record.pfns)) is stray.record.pfns:
            return [Breach(NOT_THE_DEVICES, "DMA write to a former buffer, which no queue lists", rows)]
        return [Breach(UNLISTED, "DMA write to pages that no queue lists", rows)]

    def confirm(self, breach: Breach, pages: BatchPages, queues: list[int]) -> str | None:
        """Look again: a line of evidence, or None if it is not so."""
        other, rows = self._being_filled(queues), self._unlisted(pages)
        if other is None or not np.isin(breach.rows, rows).any():
            return None
        return f"no buffer of any queue lists these pages; the device's is {other.text()}"

    def _being_filled(self, queues: list[int]) -> MediaBuffer | None:
        """A buffer that is the device's; None, too, where the books are not all readable."""
        if self._media.why_not:
            return None
        found = [buffer for queue in queues for buffer in self._media.of_queue(queue) if buffer.owned]
        return found[0] if found and all(buffer.complete for buffer in found) else None

    def _unlisted(self, pages: BatchPages) -> NDArray[np.intp]:
        """Rows of pages of RAM that are in no buffer's list, and where the kernel does not bounce."""
        pfns, facts = pages.pages.pfns, pages.facts
        if facts is None:
            return np.zeros(0, dtype=np.intp)
        listed = [buffer.targets() for buffer in self._media.buffers(anew=False)]
        known = np.isin(pfns, np.concatenate(listed)) if listed else np.zeros(len(pfns), dtype=bool)
        free: NDArray[np.intp] = np.flatnonzero(~known & facts.present & ~pages.setting.bounced(facts))
        return free
