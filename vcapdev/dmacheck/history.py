# SPDX-License-Identifier: GPL-2.0-or-later
"""What pages looked like at earlier looks: only changes are kept, in a ring of bounded size."""

from __future__ import annotations

from collections import deque

import numpy as np

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import PageFacts
from vcapdev.guestmm.pageview import state_labels

_EVENTS = 512
_MAX_ROWS = 1 << 17  # of all events together: some 8 MB
_LINES = 6


class History:
    """A ring of the last changes of page state."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, PageFacts]] = deque(maxlen=_EVENTS)
        self._rows = 0

    def record(self, when: str, facts: PageFacts) -> None:
        """Keep facts that hold only pages whose state has changed; ``when`` is for people."""
        if len(self._events) == _EVENTS:
            self._drop()
        self._events.append((when, facts))
        self._rows += len(facts.pfn)
        while self._rows > _MAX_ROWS and len(self._events) > 1:
            self._drop()

    def _drop(self) -> None:
        self._rows -= len(self._events.popleft()[1].pfn)

    def of(self, kernel: Kernel, pfn: int) -> list[tuple[str, str]]:
        """The last changes of one page, oldest first, as ``(when, state)``."""
        found: list[tuple[str, str]] = []
        for when, facts in reversed(self._events):
            for i in np.flatnonzero(facts.pfn == pfn).tolist():
                label = state_labels(kernel, facts.take(np.array([i], dtype=np.intp)))[0]
                text = f"{label}, refcount {facts.refcount[i]}, pins {facts.pins[i]}"
                if not found or found[-1][1] != text:
                    found.append((when, text))
            if len(found) >= _LINES:
                break
        return found[::-1]

    def clear(self) -> None:
        """Forget everything."""
        self._events.clear()
        self._rows = 0
