# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of one length, whose sources are evenly spaced, are copied by one call.

A program for a picture of regular lines has few kinds of pieces: whole lines, and for each place where pages
cut lines their two parts; after some lines they come again. All of one kind are items of one numpy type
("void" of that many bytes). Guest memory as an array of such items, one beginning at every byte, can be
indexed with all their places at once::

    data    aaaabb aaaabb aaaabb          items of 4 bytes, at 0, 6, 12:   memory[places of a] = a
    memory  ...bb....aaaa..bb...aaaa      items of 2 bytes, at 4, 10, 16:  memory[places of b] = b

which numpy does with one memcpy an item and hardly anything between two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Items = NDArray[Any]  # of a void type: opaque bytes
Places = NDArray[np.intp]  # offsets in guest memory

WORTHWHILE = 12
"""Pieces of a kind, on average, from which on this takes less time than copying them one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Pieces of one length, evenly spaced in the data.

    :ivar rows: which of the batch's pieces.
    :ivar items: the data, one item a piece.
    """

    rows: NDArray[np.intp]
    items: Items


def put(memory: memoryview, places: Places, items: Items) -> None:
    """Copy items to their places (of their first bytes; all inside ``memory``)."""
    item = items.dtype
    everywhere: Items = np.ndarray((len(memory) - item.itemsize + 1,), item, memory, 0, (1,))
    everywhere[places] = items


def kinds(data: NDArray[np.uint8], source: NDArray[np.uint64], length: NDArray[np.uint64]) -> list[Kind]:
    """All pieces sorted into kinds; none where there would be too many kinds to be worthwhile.

    :param source: where each piece begins in ``data``.
    """
    most = len(length) // WORTHWHILE
    lengths, which, count = np.unique(length, return_inverse=True, return_counts=True)
    if len(lengths) > most or not lengths[0]:
        return []
    start = source.astype(np.int64)
    # The rarest pieces come once in each period of the picture, whole lines at several places of it.
    rarest = start[which == count.argmin()]
    period = max(1, int(rarest[1] - rarest[0])) if len(rarest) > 1 else 1
    found: list[Kind] = []
    for key in np.unique(which * period + start % period).tolist():
        rows = np.flatnonzero((which == key // period) & (start % period == key % period))
        for first, last, step in _runs(start[rows]):
            if step < 1 or len(found) == most:
                return []
            item, begin = f"V{lengths[key // period]}", int(start[rows[first]])
            items: Items = np.ndarray((last + 1 - first,), item, data, begin, (step,))
            found.append(Kind(rows[first : last + 1], items))
    return found


def _runs(start: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Evenly spaced stretches of a row of numbers: first, last, and the step from each to the next."""
    step = np.diff(start)
    changes = (np.flatnonzero(np.diff(step)) + 1).tolist()
    first = at = 0
    while first < len(start):
        while at < len(changes) and changes[at] <= first:
            at += 1
        last = changes[at] if at < len(changes) else len(start) - 1
        yield first, last, int(step[first]) if first < last else 1
        first = last + 1


def apart(place: Places, length: NDArray[np.uint64]) -> bool:
    """Whether no two pieces share a byte, so that their order is nobody's business."""
    order = np.argsort(place)
    begin = place[order]
    return bool((begin[:-1] + length[order][:-1].astype(np.intp) <= begin[1:]).all())
