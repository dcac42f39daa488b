# SPDX-License-Identifier: GPL-2.0-or-later
"""All programs that are remembered: those that may run, and for a while those that are gone."""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np

from vcapdev.dma import Batch, Program
from vcapdev.dmacheck.ledger import Reach, Record
from vcapdev.guestmm.pages import Pfns, among
from vcapdev.recall import Recall, keep

_MAX_PROGRAMS = 4096
_MAX_RETIRED = 64  # kept to name them when their pages are released
_MAX_REACHES = 128  # a driver writes its programs anew for each frame, often to the same memory


class Books:
    """Records by program id, at most so many: the oldest is forgotten."""

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}
        self._retired: deque[Record] = deque(maxlen=_MAX_RETIRED)
        self._reaches: dict[bytes, Reach] = {}
        self._shared: Recall[bool] = Recall()

    def __len__(self) -> int:
        return len(self._records)

    def open(self, program: Program) -> Record:
        """Begin a record."""
        if len(self._records) >= _MAX_PROGRAMS:
            self._records.pop(next(iter(self._records)))
        record = self._records[program.id] = Record(program, self._reach(program))
        return record

    def _reach(self, program: Program) -> Reach:
        """What a program writes to, as it was found out for another one that writes to the same."""
        ranges = np.asarray(program.ranges, np.uint64).reshape(-1, 2)
        key = ranges.tobytes()
        reach = self._reaches.get(key)
        if reach is None:
            reach = Reach(ranges)
            keep(self._reaches, key, reach, _MAX_REACHES)
        return reach

    def retire(self, program_id: int) -> None:
        """The program will not run again; its pages stay watched for their release."""
        record = self._records.pop(program_id, None)
        if record is not None:
            record.pages = None  # it is kept for its name only
            self._retired.append(record)

    def of(self, batch: Batch) -> Record:
        """A batch's record. Of a device that announces no programs, what it writes now is its program."""
        record = self._records.get(batch.program)
        if record is None:
            ranges = np.stack([batch.addr, batch.length.astype(np.uint64)], axis=1)
            address = int(batch.addr[0]) if len(batch.addr) else 0
            record = self.open(Program(batch.program, address, ranges, b""))
        return record

    def forget(self, *, kind: bool) -> None:
        """Have every program learnt anew at its next write; see :meth:`Record.forget`."""
        for record in self._records.values():
            record.forget(kind=kind)

    def released(self, pfns: Pfns) -> None:
        """The promise of programs that write to these pages has ended."""
        for record in self._records.values():
            if record.learned and self._shared(partial(_any_of, pfns, record.pfns), pfns, record.pfns):
                record.forget(kind=False)

    def latest(self) -> list[Record]:
        """All programs that are remembered, the latest first."""
        return [*reversed(self._records.values()), *reversed(self._retired)]

    def clear(self) -> None:
        """Forget all."""
        self._records.clear()
        self._retired.clear()


def _any_of(some: Pfns, pfns: Pfns) -> bool:
    return bool(among(some, pfns).any())
