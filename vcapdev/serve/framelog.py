# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of late with the pages they went to, while somebody wants to ask for one by its number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from vcapdev.bt878.chip import Bt878
from vcapdev.bt878.frame import Moved, SentFrame, sent_frame
from vcapdev.dma import Batch, Checkpoint, DmaObserver, NullObserver

_LENGTH = (
    256  # frames: 10 s at field rate, 0.6 s on the fast clock; a program holds them 0.2 s before it looks
)

States = Mapping[int, str]


class FrameLog(NullObserver):
    """A bounded ring of frames; an observer, behind the one that judges pages.

    Nothing stands in the card's way until :meth:`keep`, and no more once a frame was asked for by number.

    :param sight: what was seen of the pages of the last frame, as something that stays as it is.
    :param states: the states of pages that such a sight shows.
    """

    def __init__(
        self,
        chip: Bt878,
        observers: list[DmaObserver],
        sight: Callable[[], Any],
        states: Callable[[Any], States],
    ) -> None:
        self._chip, self._observers, self._sight, self._states = chip, observers, sight, states
        self._ring: deque[tuple[int, Moved, Any]] = deque(maxlen=_LENGTH)

    def __len__(self) -> int:
        return len(self._ring)

    def keep(self, wanted: bool) -> None:
        """Keep frames from now on, or no more."""
        self._ring.clear()
        if self in self._observers:
            self._observers.remove(self)
        if wanted:
            self._observers.append(self)

    def last(self) -> tuple[SentFrame, States] | None:
        """The last frame, and the states of its pages; None when none has been sent yet."""
        frame = self._chip.last_frame()
        return None if frame is None else (frame, self._states(self._sight()))

    def find(self, number: int) -> tuple[SentFrame, States] | None:
        """The frame of that number; None where it is not kept, or no more."""
        for known, moved, sight in self._ring:
            if known == number:
                return sent_frame(number, moved), self._states(sight)
        return None

    def checkpoint(self, what: Checkpoint) -> None:
        last = self._chip.last_moved
        if what is Checkpoint.FIELD and last is not None and (not self._ring or self._ring[-1][0] != last[0]):
            number, moved = last
            self._ring.append((number, [(block, _bare(batch)) for block, batch in moved], self._sight()))


def _bare(batch: Batch) -> Batch:
    """The same without what others have derived from it, which is large and would outlive its program."""
    return Batch(batch.addr, batch.length, batch.source, batch.origin, batch.program)
