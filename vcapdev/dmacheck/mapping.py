# SPDX-License-Identifier: GPL-2.0-or-later
"""Still the user's page? What the owner's page tables say of a buffer's pages, at each write.

When a buffer is first seen, the reverse map of its pages tells in whose memory it lies. From then on the page
table entries at its user addresses are compared with what they were::

    same page                    fine, with whatever rights      swapped, same page in swap cache   fine
    copied-away                  the kernel gave the user a copy (fork or mprotect, and a write): data loss
    remapped, replaced           other memory at the address: munmap and mmap, MADV_DONTNEED and a write
    discarded, unmapped          nothing there, or the zero page: MADV_DONTNEED, munmap
    moved                        the page is at another address now (mremap)
    process-gone                 nobody is left who could read it

Only the copy is the kernel's doing. That it is one shows in its content, which is compared before the device
writes again, and right after it has written, when the user has had no time yet to use the buffer anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vcapdev.dmacheck.oddities import Oddities
from vcapdev.dmacheck.rules import STALE_BUFFER
from vcapdev.dmacheck.userpages import COPIED, LOST, MAX_MAPPINGS, NAMES, UserPages, facts_of
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.mediabuffer import USERPTR, MediaBuffer
from vcapdev.guestmm.memory import GuestReadError
from vcapdev.guestmm.openfiles import OpenFiles
from vcapdev.guestmm.rmap import AddressSpace, ReverseMap, areas_of
from vcapdev.recall import keep

_MAX_NOTICES = 16
_MAX_RESTING = 64


class Mappings:
    """The buffers that are followed; pages that are not in place any more count as oddities."""

    def __init__(self, kernel: Kernel, reverse: ReverseMap, files: OpenFiles, oddities: Oddities) -> None:
        self._kernel, self._reverse, self._files = kernel, reverse, files
        self._known: dict[tuple[int, int], UserPages] = {}
        self._resting: dict[tuple[int, int], UserPages] = {}  # by user address and the list of pages
        self._mm = 0  # address of the mm_struct in which the last buffer was found
        self._turns: dict[tuple[int, int], int] = {}  # at which pages were found lost; -1: told
        self._oddities = oddities
        self.notices: list[str] = []
        self.field = 0  # that is under way
        self._stale: dict[str, Any] | None = None

    def learn(self, buffer: MediaBuffer) -> UserPages | None:
        """Begin to follow a buffer, or go on; None where it is nothing that lies in a process's memory."""
        if buffer.memory != USERPTR or not buffer.userptr or not len(buffer.pfns):
            return None
        known = self._known.get(buffer.key)
        if known is not None and known.is_of(buffer):
            return known
        found = self._again(buffer)
        if found is None:
            found = self._where_the_last_was(buffer) or self._find(buffer)
            if found is not None:
                found.begin()
        if self._known.pop(buffer.key, None) is not None and known is not None:
            keep(self._resting, known.place, known, _MAX_RESTING)
        if found is not None:
            if known is not None and np.array_equal(known.expected, buffer.pfns):
                known.former, found.former = None, known
            if len(self._known) >= 1024:
                self._known.clear()
            self._known[buffer.key] = found
            self._mm = found.space.mm
        return found

    def _again(self, buffer: MediaBuffer) -> UserPages | None:
        """The pages of a buffer that was here before, if they are where they were all the time."""
        found = self._resting.pop((buffer.userptr, id(buffer.pfns)), None)
        if found is None or found.expected is not buffer.pfns or found.space.mm != self._mm:
            return None
        try:
            same = self._reverse.space(self._mm) == found.space
        except GuestReadError:
            return None
        return found if same and found.begins_again() else None

    def _where_the_last_was(self, buffer: MediaBuffer) -> UserPages | None:
        """A program's buffers lie in one address space: to find all of its pages there will do."""
        try:
            space = self._reverse.space(self._mm)
            pages = None if space is None else UserPages(self._kernel, self._reverse, space, buffer)
        except GuestReadError:
            return None
        return pages if pages is not None and pages.hits() == len(pages.expected) else None

    def _find(self, buffer: MediaBuffer) -> UserPages | None:
        """The process that has most of the pages where the user said that they are."""
        facts = facts_of(self._kernel, buffer.pfns)
        spaces: dict[int, AddressSpace] = {}
        for mapping in np.unique(facts.mapping[~facts.torn])[:MAX_MAPPINGS].tolist():
            for area in areas_of(self._reverse, mapping):
                if (
                    area.mm not in spaces
                    and area.start < buffer.userptr + buffer.length
                    and area.end > buffer.userptr
                ):
                    space = self._reverse.space(area.mm)
                    if space is not None:
                        spaces[area.mm] = space
        best, most = None, 0
        for space in spaces.values():
            pages = UserPages(self._kernel, self._reverse, space, buffer)
            hits = pages.hits()
            if hits > most or best is None:
                best, most = pages, hits
        return best

    def look(self, pages: UserPages, buffer: MediaBuffer, turn: int) -> None:
        """What has changed since the last look.

        :param turn: how often another buffer of the queue was written to in between.
        """
        changes = {} if pages.quiet() else pages.changes(self._files)
        for state, rows in changes.items():
            if state != COPIED and NAMES[state]:
                self._oddities.add(NAMES[state], len(rows))
        if COPIED in changes:
            pages.copied = np.union1d(pages.copied, changes[COPIED])
        self._tell(pages, buffer, turn)

    def _tell(self, pages: UserPages, buffer: MediaBuffer, turn: int) -> None:
        """DQBUF, munmap, mmap at the same address, QBUF: frameworks keep the old pages, with no one to see.

        That a buffer was queued again is certain once another one has had its turn since.
        """
        lost = pages.lost() if pages.any_lost else 0
        if not lost:
            self._turns.pop(buffer.key, None)
            return
        first = self._turns.setdefault(buffer.key, turn)
        if first in (turn, -1):
            return
        self._turns[buffer.key] = -1
        self._oddities.add("stale-buffer", lost)
        text = (
            f"{buffer.framework} buffer {buffer.index} was queued again at {buffer.userptr:#x} by pid "
            f"{pages.space.pid} ({pages.space.comm}), where {lost} of its {len(pages.expected)} pages "
            "are mapped no longer: the framework kept the old ones, and nobody will see what comes there"
        )
        if len(self.notices) < _MAX_NOTICES:
            self.notices.append(text)
        if self._stale is None:
            row = int(np.flatnonzero(np.isin(pages.states, LOST))[0])
            self._stale = {"field": self.field, "pfn": int(pages.expected[row]), "page": text, "pages": 0}
        self._stale["pages"] += lost

    def hazards(self) -> list[dict[str, Any]]:
        """Buffers that were queued without their pages, in the form of the report's hazards."""
        if self._stale is None:
            return []
        rule = {"rule": STALE_BUFFER.name, "id": STALE_BUFFER.id, "sentence": STALE_BUFFER.sentence}
        return [{**rule, "instruction": None, **self._stale}]
