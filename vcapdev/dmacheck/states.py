# SPDX-License-Identifier: GPL-2.0-or-later
"""Which states pages under DMA were seen in, and which changes between two of them: what was exercised.

Pages of a field are alike, so that a million judged pages say little by themselves. A state here is what a
rule could go by: kind of memory, flags, whether it is mapped, pins, and references beside pins and mappings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.layout import PIN_BIAS
from vcapdev.guestmm.pages import PageFacts

_MOST = 4096  # states and changes that are kept; the guest is not trusted
_FLAGS = ("lru", "dirty", "writeback", "locked", "reclaim", "unevictable", "slab", "reserved", "swapcache")
_KINDS = (
    "no mapping",
    "anonymous",
    "kernel-movable",
    "KSM",
)  # low bits of page.mapping, 0 with a mapping: file
_FILE = 4

Codes = NDArray[np.uint64]


class PageStates:
    """Distinct states and changes of all pages that were looked at. A code of 0 is "not seen before".

    :ivar wanted: whether they are collected at all: that costs as much as a rule or two.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._last: Codes = np.zeros(0, dtype=np.uint64)
        self._states: set[int] = set()
        self._changes: set[tuple[int, int]] = set()

    def observe(self, kernel: Kernel, facts: PageFacts) -> None:
        """Pages that have changed, or are looked at for the first time."""
        if not self.wanted:
            return
        if len(self._last) < kernel.vmemmap.pages:
            self._last = np.zeros(kernel.vmemmap.pages, dtype=np.uint64)
        known = facts.present & ~facts.torn & (facts.pfn < len(self._last))
        codes, pfns = _codes(kernel, facts)[known], facts.pfn[known]
        before = self._last[pfns]
        self._last[pfns] = codes
        for old, new in np.unique(np.stack([before, codes], axis=1), axis=0).tolist():
            if len(self._states) < _MOST:
                self._states.add(new)
            if old and old != new and len(self._changes) < _MOST:
                self._changes.add((old, new))

    def forget(self) -> None:
        """Pages are others now; what was seen stays."""
        self._last[:] = 0

    def names(self) -> list[str]:
        """All states in words, and all changes as "state > state"; sorted."""
        changes = [f"{_words(old)} > {_words(new)}" for old, new in self._changes]
        return sorted([*map(_words, self._states), *changes])


def _codes(kernel: Kernel, facts: PageFacts) -> Codes:
    """Bit 0: seen; 1-9: flags; 10-12: kind; 13: large; 14-15: mapped; 16-17: pins; 18-19: more references."""
    swap_backed = facts.has(kernel.flags.bit("swapbacked"))
    code = np.ones(len(facts.pfn), dtype=np.uint64)
    for place, name in enumerate(_FLAGS, 1):
        found = facts.has(kernel.flags.bit(name))
        code |= _at(found & swap_backed if name == "swapcache" else found, place)
    low = (facts.mapping & np.uint64(3)).astype(np.int64)
    kind = np.where((low == 0) & (facts.mapping != 0), _FILE, low)
    extra = facts.refcount - PIN_BIAS * facts.pins - (facts.mapcount + 1)
    code |= _at(kind, 10) | _at(facts.large, 13) | _at(np.clip(facts.mapcount + 1, 0, 2), 14)
    code |= _at(np.clip(facts.pins, 0, 3), 16) | _at(np.where(facts.large, 0, np.clip(extra, 0, 3)), 18)
    return code


def _at(values: NDArray[np.bool_] | NDArray[np.int32] | NDArray[np.int64], place: int) -> Codes:
    shifted: Codes = values.astype(np.uint64) << np.uint64(place)
    return shifted


def _words(code: int) -> str:
    kind = code >> 10 & 7
    words = [("large " if code >> 13 & 1 else "") + ("file" if kind == _FILE else _KINDS[kind & 3])]
    words += [name for place, name in enumerate(_FLAGS, 1) if code >> place & 1]
    words.append(("unmapped", "mapped", "mapped more than once")[min(code >> 14 & 3, 2)])
    words.append(f"pins {('0', '1', '2', '3 or more')[code >> 16 & 3]}")
    more = code >> 18 & 3
    return ", ".join(words) + (f", {more}{' or more' if more == 3 else ''} references more" if more else "")
