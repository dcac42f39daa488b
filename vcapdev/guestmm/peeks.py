# SPDX-License-Identifier: GPL-2.0-or-later
"""Words of guest RAM that lie in many places, read together: one copy in the place of many.

Whoever watches something of the guest tells where the words lie that it depends on, as :class:`Spots`; what
several of them watch can be compared with what it was at one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Spots(NamedTuple):
    """Places in one segment of guest RAM: all of its words, flat, and which of them; each was checked."""

    flat: NDArray[np.uint64]
    places: NDArray[np.intp]


class Peeks:
    """Several spots read together, in their order."""

    __slots__ = ("_flat", "_places", "_words")

    def __init__(self, flat: NDArray[np.uint64], places: NDArray[np.intp]) -> None:
        self._flat, self._places = flat, places
        self._words = np.zeros(len(places), dtype=np.uint64)

    @classmethod
    def of(cls, parts: Sequence[Spots | None]) -> Peeks | None:
        """None where that cannot be done at one go: some of it lies in another segment."""
        some = [part for part in parts if part is not None]
        if not some or len(some) != len(parts):
            return None
        if len({part.flat.ctypes.data for part in some}) > 1:
            return None
        longest = max((part.flat for part in some), key=len)  # they may leave out different ends
        return cls(longest, np.concatenate([part.places for part in some]))

    def peek(self) -> bytes:
        """All words as they are now."""
        # Every index was checked when it was made; "clip" keeps numpy from buffering the result.
        self._flat.take(self._places, None, self._words, "clip")
        return self._words.tobytes()
