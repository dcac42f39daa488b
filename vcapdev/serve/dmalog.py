# SPDX-License-Identifier: GPL-2.0-or-later
"""The last transfers of the card, one entry a batch, for the control channel."""

from __future__ import annotations

from collections import deque
from typing import Any

from vcapdev.dma import Abort, Batch, Checkpoint, NullObserver, Program

_LENGTH = 1024


class DmaLog(NullObserver):
    """A bounded ring. An entry is a tuple until somebody looks."""

    def __init__(self) -> None:
        self._ring: deque[tuple[str, int, int, Any]] = deque(maxlen=_LENGTH)

    def lines(self, last: int) -> list[str]:
        """The newest ``last`` entries, oldest first."""
        entries = list(self._ring)
        return [_line(*entry) for entry in entries[max(0, len(entries) - last) :]]

    def program(self, program: Program) -> None:
        self._ring.append(("program", program.id, program.address, len(program.ranges)))

    def gone(self, program_id: int) -> None:
        self._ring.append(("gone", program_id, 0, None))

    def after_write(self, batch: Batch) -> None:
        # Batches come again and again: what is told of one is made once, and the batch itself not kept alive.
        entry = batch.cache.get(self)
        if entry is None:
            detail = f"{len(batch.addr)} pieces, {int(batch.length.sum())} bytes"
            entry = batch.cache[self] = "write", batch.program, int(batch.addr[0]), detail
        self._ring.append(entry)

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        self._ring.append(("aborted write" if write else "aborted read", length, addr, why.value))

    def checkpoint(self, what: Checkpoint) -> None:
        if what not in (Checkpoint.REGISTER_WRITE, Checkpoint.FIELD):
            self._ring.append((what.value, 0, 0, None))


def _line(kind: str, number: int, address: int, detail: Any) -> str:
    if kind == "write":
        return f"write: program {number}, {detail}, first at {address:#x}"
    if kind == "program":
        return f"program {number} at {address:#x}, {detail} pieces"
    if kind == "gone":
        return f"program {number} is gone"
    if kind.startswith("aborted"):
        return f"{kind}: {number} bytes at {address:#x}: {detail}"
    return kind
