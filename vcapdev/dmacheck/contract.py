# SPDX-License-Identifier: GPL-2.0-or-later
"""The media framework's contract: whose buffer it is, where it ends, how many pins its pages must have.

The buffer behind a program is looked up in the framework's own books when the program is first seen. From
then on a few words are compared at each write: state, address, length, and where the pages are listed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Batch
from vcapdev.dmacheck.breach import Breach
from vcapdev.dmacheck.extents import Extents
from vcapdev.dmacheck.ledger import Record
from vcapdev.dmacheck.look import BatchPages
from vcapdev.dmacheck.mapping import Mappings
from vcapdev.dmacheck.oddities import Oddities
from vcapdev.dmacheck.rules import (
    CONTRACT_RULES,
    COPIED_AWAY,
    NOT_THE_DEVICES,
    OUTSIDE_BUFFER,
)
from vcapdev.dmacheck.shortage import Shortage
from vcapdev.dmacheck.strays import Strays
from vcapdev.dmacheck.userpages import UserPages
from vcapdev.dmacheck.watch import Watch
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.media import Media, shared_pages
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.guestmm.memory import PAGE_SHIFT
from vcapdev.guestmm.pages import PageFacts
from vcapdev.guestmm.rmap import ReverseMap
from vcapdev.guestmm.structs import StructError
from vcapdev.recall import Recall

__all__ = ["CONTRACT_RULES", "Contract", "Watch"]

_MAX_WATCHES = 4096
_FIELDS = 2  # at which a buffer must be found given back: once may be a completion that overtook the card

Ints = NDArray[np.int64]


class Contract:
    """Holds programs to the framework's contract; suspicions are for the checker to pronounce.

    ``former`` hands its figures on.
    """

    def __init__(self, kernel: Kernel, oddities: Oddities, former: Contract | None = None) -> None:
        self._kernel = kernel
        self._media = Media.of(kernel)
        self._shortage = Shortage(kernel, self._media)
        self._strays = Strays(self._media)
        self._watches: dict[int, Watch] = {}
        self._given_back: dict[tuple[int, int], set[int]] = {}  # by buffer: fields at which it was not owned
        self._oddities = oddities
        self._mappings: Mappings | None = None
        self._writing: dict[int, Watch] = {}  # by queue: what watches the buffer that is being written to
        self._turns: Counter[tuple[int, int]] = Counter()
        self._latest: Watch | None = None
        self._shared: Recall[int] = Recall()  # by a buffer's pages and a program's
        self.learnt = self.unknown = 0
        self._notices: list[str] = []
        self._hazards: list[dict[str, Any]] = []
        if former is not None:
            self.learnt, self.unknown, self._notices = former.learnt, former.unknown, former.notices
            self._hazards = former.hazards()

    def status(self) -> dict[str, Any]:
        """Figures: programs whose buffer was found, and was not; why none can be found on this kernel."""
        return {
            "buffers_found": self.learnt,
            "not_found": self.unknown,
            "why_not": self._media.why_not,
            "notices": self.notices,
        }

    @property
    def notices(self) -> list[str]:
        """Lines on buffers whose user has lost their pages by his own doing."""
        return [*self._notices, *(self._mappings.notices if self._mappings is not None else ())]

    def hazards(self) -> list[dict[str, Any]]:
        """The same, in the form of the report's hazards."""
        return [*self._hazards, *(self._mappings.hazards() if self._mappings is not None else ())]

    def learn(self, record: Record, facts: PageFacts) -> None:
        """A program was learnt: find the buffer behind it."""
        self.forget(record.id)
        if not len(record.pfns):
            return
        watch = self._twin(record)
        if watch is None:
            buffer = self._behind(record)
            watch = None if buffer is None else self._watch(record, buffer)
        if watch is None:
            self.unknown += 1
            self._strays.add(record)
            return
        self._found(record, watch)
        self._settle(watch, facts)

    def _found(self, record: Record, watch: Watch) -> None:
        if len(self._watches) >= _MAX_WATCHES:
            self._watches.pop(next(iter(self._watches)))
        self.learnt += 1
        self._oddities.add("bounced", len(record.pfns) if watch.buffer.bounced else 0)
        self._watches[record.id] = self._latest = watch
        self._strays.had_buffer(record)

    def _settle(self, watch: Watch, facts: PageFacts) -> None:
        """Find out at once, where it is easy, what else would have to be found when the program writes."""
        buffer = watch.buffer
        if buffer.owned:
            self._given_back.pop(buffer.key, None)
        if watch.outside is None and watch.all_inside():
            watch.outside = False
        self._shortage.settle(watch, facts)

    def _twin(self, record: Record) -> Watch | None:
        """A driver makes the programs of a frame's two fields at once: the second is for the same buffer."""
        latest = self._latest
        if latest is None or not _same(latest.record.pfns, record.pfns) or not latest.quiet():
            return None
        return latest.twin(record)

    def forget(self, program: int) -> None:
        """A program will not run again."""
        self._watches.pop(program, None)
        self._strays.forget(program)

    def user_of(self, program: int) -> UserPages | None:
        """The same pages in their owner's memory, where a program's buffer is a user's."""
        watch = self._watches.get(program)
        return None if watch is None else watch.user

    def claimed(self, pfns: Ints) -> NDArray[np.bool_] | None:
        """Which of these pages a framework's buffer, or io_uring, lists; None where nothing can be read."""
        if self._media.why_not:
            return None
        listed = self._media.listed()
        return np.isin(pfns, np.concatenate(listed)) if listed else np.zeros(len(pfns), dtype=bool)

    def buffer_of(self, program: int) -> MediaBuffer | None:
        """The buffer that a program writes to, as it was last read."""
        watch = self._watches.get(program)
        return None if watch is None else watch.buffer

    def quiet(self, pages: BatchPages) -> bool:
        """Whether there is nothing to look at closely: nearly always so."""
        watch = self._watches.get(pages.record.id)
        if watch is None:
            return not self._writing or pages.record.id not in self._strays
        if watch.claims is None or watch.claims[0] is not pages.facts or watch.short:
            return False
        if watch.user is not None and not watch.user.settled():
            return False
        return watch.outside is False and not watch.bad and not watch.astray and watch.quiet()

    def wrote(self, program: int) -> None:
        """A program has written, and all was quiet."""
        watch = self._watches.get(program)
        if watch is not None and watch.user is not None:
            watch.user.written = True

    def watch(self, program: int) -> Watch | None:
        """What watches over the buffer of a program."""
        return self._watches.get(program)

    def turn(self, program: int) -> Watch | None:
        """A program is about to write: it is its buffer's turn, over which this watches."""
        watch = self._watches.get(program)
        if watch is not None and watch is not self._writing.get(watch.buffer.queue):
            self._begin_turn(watch)
        return watch

    def _begin_turn(self, watch: Watch) -> None:
        before, buffer = self._writing.get(watch.buffer.queue), watch.buffer
        self._writing[buffer.queue] = watch
        if before is None or before.buffer.key != buffer.key:
            self._turns[buffer.key] += 1

    def before(self, pages: BatchPages) -> None:
        """The look before the bytes move."""
        watch = self._current(pages.record.id)
        if watch is None:
            return
        watch.bad = not watch.buffer.owned
        if not watch.bad:
            self._given_back.pop(watch.buffer.key, None)
        self._look_at_owner(watch)

    def after(self, batch: Batch, pages: BatchPages, field: int) -> list[Breach]:
        """The look after the bytes have moved, and what is suspicious by now."""
        watch = self._current(pages.record.id)
        if watch is None:
            return self._stray(pages, field)
        given_back = watch.bad and not watch.buffer.owned
        watch.bad = False
        if watch.user is not None:
            watch.user.written = True
        if self._mappings is not None:
            self._mappings.field = field
        self._look_at_owner(watch)
        if watch.buffer.owned:
            self._given_back.pop(watch.buffer.key, None)
            found = [*self._outside(watch, batch, pages), *self._shortage.missing(watch, pages, field)]
            return [*found, *self._astray(watch, pages), *self._copied(watch, pages)]
        if not given_back:
            return []
        if not self._at_last(watch.buffer, field):
            self._oddities.add("given-back", pages.count)
            return []
        return [Breach(NOT_THE_DEVICES, _given_back_text(watch.buffer), np.arange(pages.count))]

    def confirm(self, breach: Breach, batch: Batch, pages: BatchPages) -> list[str] | None:
        """Look again, in a world that stands still if it can: lines of evidence, or None if it is not so."""
        watch = self._watches.get(pages.record.id)
        if watch is None:
            text = self._strays.confirm(breach, pages, list(self._writing))
            return None if text is None else [text]
        now = self._media.again(watch.buffer)
        if breach.rule is NOT_THE_DEVICES:
            other = self._behind(pages.record)
            if other is not None and other.owned:
                return None
            return [self._text(now or watch.buffer, released=now is None)]
        if now is None or not now.owned:
            return None
        if breach.rule is COPIED_AWAY:
            return self._confirm_copy(breach, pages, watch)
        if watch.astray and watch.user is not None:
            row = watch.user.text(0)
            return (
                [self._text(now), row]
                if watch.user.astray() and now.userptr == watch.buffer.userptr
                else None
            )
        if breach.rule is OUTSIDE_BUFFER:
            outside = Extents(now).outside(batch.addr, batch.length)
            return [self._text(now), *outside.text(batch)] if len(outside.pieces) else None
        short = self._shortage.confirm(breach, pages)
        return None if short is None else [self._text(now), short]

    # Looking.

    def _behind(self, record: Record) -> MediaBuffer | None:
        """The buffer that holds at least half of a program's pages; of several one that is the device's."""
        found = self._media.behind(record.pfns, record.ends)
        found = [b for b in found if 2 * self._in_common(b, record.pfns) >= len(record.pfns)]
        return next((buffer for buffer in found if buffer.owned), found[0] if found else None)

    def _in_common(self, buffer: MediaBuffer, pfns: Ints) -> int:
        if buffer.bounced:
            return shared_pages(buffer, pfns)
        return self._shared(lambda: shared_pages(buffer, pfns), buffer.pfns, pfns)

    def _follow(self) -> Mappings | None:
        """What follows buffers into their owners' memory; None where the kernel's types do not tell how."""
        files = self._media.files
        if self._mappings is None and files is not None:
            try:
                self._mappings = Mappings(self._kernel, ReverseMap(self._kernel), files, self._oddities)
            except StructError:
                return None
        return self._mappings

    def _look_at_owner(self, watch: Watch) -> None:
        if watch.user is not None and self._mappings is not None:
            self._mappings.look(watch.user, watch.buffer, self._turns[watch.buffer.key])

    def _watch(self, record: Record, buffer: MediaBuffer) -> Watch:
        self._shortage.learnt(buffer)
        watch = Watch(self._kernel, record, buffer)
        mappings = self._follow()
        watch.user = mappings.learn(buffer) if mappings is not None else None
        watch.astray = watch.user is not None and watch.user.astray()
        return watch

    def _current(self, program: int) -> Watch | None:
        """The watch with its buffer as it is now."""
        watch = self._watches.get(program)
        if watch is None or watch.quiet():
            return watch
        now = None if watch.moved() else self._media.again(watch.buffer)
        if now is None or not now.owned:
            other = self._behind(watch.record)
            now = other if other is not None and (now is None or other.owned) else now
        if now is None:  # released: it stays what it was, but nobody's
            watch.buffer, watch.good = _released(watch.buffer), b""
            return watch
        fresh = self._watches[program] = self._watch(watch.record, now)
        fresh.bad = watch.bad
        if not fresh.moved() and now.key == watch.buffer.key and np.array_equal(now.pfns, watch.buffer.pfns):
            fresh.outside, fresh.claims = watch.outside, watch.claims
        return fresh

    def _at_last(self, buffer: MediaBuffer, field: int) -> bool:
        """Whether a buffer was found given back at so many fields, without being the device's between."""
        fields = self._given_back.setdefault(buffer.key, set())
        fields.add(field)
        if len(self._given_back) > _MAX_WATCHES:
            self._given_back.clear()
        return len(fields) >= _FIELDS

    def _stray(self, pages: BatchPages, field: int) -> list[Breach]:
        """A program without a buffer writes: it may have one by now."""
        record = self._strays.to_look_up(pages.record.id, field)
        buffer = None if record is None else self._behind(record)
        if record is not None and buffer is not None:
            self.unknown -= 1
            self._found(record, self._watch(record, buffer))
            return []
        return self._strays.breaches(pages, list(self._writing))

    def _outside(self, watch: Watch, batch: Batch, pages: BatchPages) -> list[Breach]:
        if watch.outside is None:
            watch.outside = not watch.all_inside() and _goes_outside(watch)
        if not watch.outside:
            return []
        found = Extents(watch.buffer).outside(batch.addr, batch.length)
        if not len(found.pieces):
            return []
        rows = np.flatnonzero(np.isin(pages.pages.pfns, found.address >> PAGE_SHIFT))
        return [Breach(OUTSIDE_BUFFER, found.subject, rows, int(found.pieces[0]))]

    def _astray(self, watch: Watch, pages: BatchPages) -> list[Breach]:
        """The framework was given another address, and has kept the pages of the one before."""
        if not watch.astray:
            return []
        subject = "DMA write to the pages of a former address"
        return [Breach(OUTSIDE_BUFFER, subject, np.arange(pages.count))]

    def _copied(self, watch: Watch, pages: BatchPages) -> list[Breach]:
        """Pages of this batch that the owner has only a copy of."""
        user = watch.user
        if user is None or not len(user.copied):
            return []
        if watch.buffer.bounced:  # what the device writes to is no page of the user's anyhow
            user.copied = user.copied[:0]
            return []
        rows = np.flatnonzero(np.isin(pages.pages.pfns, user.expected[user.copied]))
        user.copied = user.copied[~np.isin(user.expected[user.copied], pages.pages.pfns[rows])]
        subject = "DMA write to a page whose owner was given a copy"
        return [Breach(COPIED_AWAY, subject, rows)] if len(rows) else []

    def _confirm_copy(self, breach: Breach, pages: BatchPages, watch: Watch) -> list[str] | None:
        user = watch.user
        if user is None:
            return None
        rows = np.flatnonzero(np.isin(user.expected, pages.pages.pfns[breach.rows]))
        if not user.elsewhere(rows):
            return None
        return [self._text(watch.buffer), user.text(int(rows[0]))]

    def _text(self, buffer: MediaBuffer, *, released: bool = False) -> str:
        opener = self._media.opener(buffer)
        gone = "; the framework has released it since" if released else ""
        return buffer.text() + gone + (f"; opened by {opener}" if opener else "")


def _same(some: Ints, others: Ints) -> bool:
    return some is others or np.array_equal(some, others)


def _goes_outside(watch: Watch) -> bool:
    """Whether a program writes bytes that are not its buffer's, as far as that is known."""
    extents, ranges = Extents(watch.buffer), watch.record.ranges
    return extents.known and len(extents.outside(ranges[:, 0], ranges[:, 1]).pieces) > 0


def _released(buffer: MediaBuffer) -> MediaBuffer:
    return replace(buffer, owned=False, pinned=False, state_name="released")


def _given_back_text(buffer: MediaBuffer) -> str:
    return f"DMA write to a {buffer.framework} buffer in state {buffer.state_name}"
