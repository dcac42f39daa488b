# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program's pages say against it at first sight: writes across pages, pages without a right to write.

Suspicions only. Both are confirmed by the reverse map, with the vCPUs stopped, when the program writes: a
page is followed to the user addresses that map it at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Batch
from vcapdev.dmacheck.breach import Breach
from vcapdev.dmacheck.ledger import Record
from vcapdev.dmacheck.look import BatchPages
from vcapdev.dmacheck.rules import CROSSES_PAGES, NO_WRITE_RIGHT, USER
from vcapdev.dmacheck.userpages import UserPages
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, GuestReadError
from vcapdev.guestmm.pages import PageFacts, PageSet, Pfns, among
from vcapdev.guestmm.pagetable import DIRTY, PRESENT, WRITABLE
from vcapdev.guestmm.pageview import page_kinds
from vcapdev.guestmm.rights import Rights

_MAX_BORDERS = 1 << 12
_MAX_PROGRAMS = 4096
_MAX_ASKED = 8  # pages that are followed to their users for one confirmation
_SAVED_DIRTY = 1 << 58  # _PAGE_SAVED_DIRTY, where an entry without a right to write keeps it (since 6.6)
_BITS = PRESENT | WRITABLE | DIRTY | _SAVED_DIRTY


@dataclass(frozen=True)
class _Suspect:
    """Pages of one program: those wrongly reached from the page before, and those without the right."""

    crossed: Pfns
    denied: Pfns


class Suspects:
    """Remembers programs with something suspicious about them: hardly ever any."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._rights = Rights.of(kernel)
        self._lru = kernel.flags.bit("swapbacked")
        self._programs: dict[int, _Suspect] = {}
        self._judged: tuple[PageFacts, object, Pfns] | None = None  # facts, user's entries, those denied

    def learn(self, record: Record, facts: PageFacts, user: UserPages | None) -> None:
        """A program was learnt.

        :param user: the same pages in their owner's memory, where the media framework tells.
        """
        self._programs.pop(record.id, None)
        if record.kind != USER:
            return
        crossed, denied = self._crossed(record, facts), self._known_denied(facts, user)
        if len(crossed) or len(denied):
            if len(self._programs) >= _MAX_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            self._programs[record.id] = _Suspect(crossed, denied)

    def forget(self, program: int) -> None:
        """A program will not run again."""
        self._programs.pop(program, None)

    def __bool__(self) -> bool:
        return bool(self._programs)

    def breaches(self, batch: Batch, pages: BatchPages) -> list[Breach]:
        """What a batch that was just written is suspected of."""
        suspect = self._programs.get(pages.record.id)
        if suspect is None or pages.facts is None:
            return []
        found: list[Breach] = []
        rows = np.flatnonzero(among(pages.pages.pfns, suspect.crossed)) if len(suspect.crossed) else _NONE
        for row in rows[:1].tolist():
            piece = _piece_into(batch, int(pages.pages.pfns[row]))
            if piece is not None:
                kind = page_kinds(self._kernel, pages.facts)[row]
                subject = f"DMA write beyond a page, into the wrong one ({kind})"
                found.append(Breach(CROSSES_PAGES, subject, rows, piece))
        rows = np.flatnonzero(among(pages.pages.pfns, suspect.denied)) if len(suspect.denied) else _NONE
        if len(rows):
            kind = page_kinds(self._kernel, pages.facts)[int(rows[0])]
            found.append(
                Breach(NO_WRITE_RIGHT, f"DMA write to a page that was pinned for reading ({kind})", rows)
            )
        return found

    def confirm(self, breach: Breach, pages: BatchPages) -> list[str] | None:
        """Follow the pages to their users: lines of evidence, or None if it is not so."""
        try:
            if breach.rule is CROSSES_PAGES:
                return self._confirm_crossing(int(pages.pages.pfns[breach.rows[0]]))
            return self._confirm_denial(pages.pages.pfns[breach.rows][:_MAX_ASKED])
        except GuestReadError:
            return None

    def clear(self, breach: Breach, pages: BatchPages) -> None:
        """It is not so: do not ask again."""
        suspect = self._programs.get(pages.record.id)
        if suspect is None:
            return
        innocent = pages.pages.pfns[breach.rows]
        crossed, denied = suspect.crossed, suspect.denied
        if breach.rule is CROSSES_PAGES:
            crossed = crossed[~np.isin(crossed, innocent)]
        else:
            denied = denied[~np.isin(denied, innocent)]
        self._programs[pages.record.id] = _Suspect(crossed, denied)
        if not len(crossed) and not len(denied):
            del self._programs[pages.record.id]

    # Writes across pages (V8).

    def _crossed(self, record: Record, facts: PageFacts) -> Pfns:
        """Pages that a piece runs into although, by mapping and index, they do not follow the one before."""
        if not record.crosses:
            return _NONE
        first = (record.ranges[:, 0] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        end = record.ranges[:, 0] + np.maximum(record.ranges[:, 1], np.uint64(1)) - np.uint64(1)
        last = (end >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        long = np.flatnonzero(last > first)
        spans = zip(first[long].tolist(), last[long].tolist(), strict=True)
        borders = {pfn for low, high in spans for pfn in range(low, min(high, low + _MAX_BORDERS))}
        before = np.array(sorted(borders)[:_MAX_BORDERS], dtype=np.int64)
        here, there = _places(facts, before), _places(facts, before + 1)
        known = (here >= 0) & (there >= 0)
        here, there = here[known], there[known]
        usable = facts.pinned & facts.present & ~facts.torn & (facts.mapping != 0)
        follows = (facts.mapping[there] == facts.mapping[here]) & (
            (facts.index[there] == facts.index[here] + np.uint64(1)) | facts.large[here] | facts.large[there]
        )
        wrong = usable[here] & usable[there] & ~follows
        result: Pfns = before[known][wrong] + 1
        return result

    def _confirm_crossing(self, pfn: int) -> list[str] | None:
        before, after = self._rights.users(pfn - 1), self._rights.users(pfn)
        if not before or not after:
            return None  # nobody maps them any more: it cannot be told
        ends = {(user.mm, user.address + (1 << PAGE_SHIFT)) for user in before}
        if any((user.mm, user.address) in ends for user in after):
            return None
        return [
            f"pfn {pfn - 1:#x} is mapped at {before[0].text()}",
            f"pfn {pfn:#x}, into which the write runs on, at {after[0].text()}",
        ]

    # Pages without a right to write (V15).

    def _known_denied(self, facts: PageFacts, user: UserPages | None) -> Pfns:
        """As :meth:`_denied`; the programs of a frame's two fields have the same pages."""
        entries = None if user is None else user.leaves.words
        if self._judged is None or self._judged[0] is not facts or self._judged[1] is not entries:
            self._judged = facts, entries, self._denied(facts, user)
        return self._judged[2]

    def _denied(self, facts: PageFacts, user: UserPages | None) -> Pfns:
        """Pages of files that nobody maps shared and writable; own pages that were never made writable."""
        usable = facts.pinned & facts.present & ~facts.torn
        file = usable & ((facts.mapping & np.uint64(3)) == 0) & (facts.mapping != 0)
        denied = _NONE
        if file.any():
            spaces = [m for m in np.unique(facts.mapping[file]).tolist() if not self._rights.writable_file(m)]
            denied = facts.pfn[file & np.isin(facts.mapping, np.array(spaces, dtype=np.uint64))]
        if user is not None and self._rights.strict:
            entries, pfns = user.leaves.entries, user.expected
            untouched = (entries & np.uint64(_BITS)) == np.uint64(PRESENT)
            untouched &= user.leaves.pfns() == pfns
            if not untouched.any():
                return denied
            own = usable & facts.anon & ~facts.ksm & ~facts.large & facts.has(self._lru)
            denied = np.union1d(denied, np.intersect1d(pfns[untouched], facts.pfn[own]))
        return denied

    def _confirm_denial(self, pfns: Pfns) -> list[str] | None:
        """At least one of the pages is mapped, and nobody who maps any has the right to write to it."""
        pages = PageSet(self._kernel, pfns)
        pages.read()
        facts, lines = pages.facts(), list[str]()
        for row, pfn in enumerate(pfns.tolist()):
            if not facts.pinned[row] or facts.torn[row] or not facts.mapping[row]:
                continue
            if not facts.anon[row] and self._rights.writable_file(int(facts.mapping[row])):
                return None
            for user in self._rights.users(pfn):
                if not user.untouched(anon=bool(facts.anon[row])):
                    return None
                lines.append(f"pfn {pfn:#x} is mapped at {user.text()}")
        return lines[:2] or None


_NONE: Pfns = np.zeros(0, dtype=np.int64)


def _places(facts: PageFacts, pfns: Pfns) -> NDArray[np.intp]:
    """The row of each page in the facts, which are ascending; -1 where it has none."""
    if not len(facts.pfn):
        return np.full(len(pfns), -1, dtype=np.intp)
    place = np.minimum(np.searchsorted(facts.pfn, pfns), len(facts.pfn) - 1)
    return np.where(facts.pfn[place] == pfns, place, -1)


def _piece_into(batch: Batch, pfn: int) -> int | None:
    """The piece of a batch that runs into a page from the one before."""
    shift = np.uint64(PAGE_SHIFT)
    last = batch.addr + np.maximum(batch.length, 1).astype(np.uint64) - np.uint64(1)
    hits = np.flatnonzero((batch.addr >> shift < pfn) & (last >> shift >= pfn))
    return int(hits[0]) if len(hits) else None
