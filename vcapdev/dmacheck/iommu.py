# SPDX-License-Identifier: GPL-2.0-or-later
"""Between a bus master behind an IOMMU and a checker of physical pages.

::

    bus master ──bus addresses──▶ BehindIommu ──physical addresses──▶ Checker
                                      │
    DmaMap ──each map and unmap──▶ Domain: what lives, and what lived

Bus addresses mean nothing to the checker: what it gets are batches, programs and fetches as the IOMMU
translates them. Transfers that the IOMMU refuses never get that far: they are judged here, by the order of
maps, unmaps, register writes and transfers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Abort, Batch, Checkpoint, Program
from vcapdev.dmacheck.checker import Checker
from vcapdev.dmacheck.domain import (
    COHERENT,
    FRAMEWORK,
    NO_MEMORY,
    STREAMING,
    Domain,
    Mapping,
    Moment,
)
from vcapdev.dmacheck.recent import Sight
from vcapdev.dmacheck.rules import Rule
from vcapdev.dmacheck.rules.dmaapi import (
    DMAAPI_RULES,
    MAPPING_LEFT,
    NEVER_MAPPED,
    NOT_FOR_WRITING,
    USE_AFTER_UNMAP,
)
from vcapdev.dmacheck.verdict import Verdict
from vcapdev.guestmm.media import Media
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE
from vcapdev.guestmm.pages import PageSet

_MAX_PARTS = 1 << 16  # pages that one batch or program is cut into
_MAX_PROGRAMS = 4096
_FORMER = 3  # mappings of an address that are told of, the one in question included

_Addresses = NDArray[np.uint64]


class _Known:
    """A program as it was announced, and as it was passed on: ``version`` is that of the domain then."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.version = -1
        self.ranges: _Addresses | None = None


class _Parts:
    """Pieces cut at the borders of pages: the page that each lies in, and the piece that it is of."""

    def __init__(self, address: _Addresses, length: NDArray[np.uint64]) -> None:
        mask = np.uint64(PAGE_SIZE - 1)
        first = address >> np.uint64(PAGE_SHIFT)
        last = address + np.maximum(length, np.uint64(1)) - np.uint64(1) >> np.uint64(PAGE_SHIFT)
        count = np.minimum(last - first, np.uint64(_MAX_PARTS)).astype(np.int64) + 1
        count[np.cumsum(count) > _MAX_PARTS] = 0
        self.piece = np.repeat(np.arange(len(address)), count)
        place = np.arange(len(self.piece)) - np.repeat(np.cumsum(count) - count, count)
        self.page: _Addresses = first[self.piece] + place.astype(np.uint64)
        begin = np.maximum(address[self.piece], self.page << np.uint64(PAGE_SHIFT))
        end = np.minimum((address + length)[self.piece], (self.page + np.uint64(1)) << np.uint64(PAGE_SHIFT))
        self.offset = begin - address[self.piece]  # in its piece
        self.into = begin & mask  # in its page
        self.length = np.maximum(end, begin) - begin


class BehindIommu:
    """Implements ``vcapdev.dma.DmaObserver`` for a checker of physical memory.

    :param domain: to be told of every map and unmap.
    :param explain: a register write (``Moment.last``) in words.
    :ivar checker: who judges; may be exchanged.
    """

    def __init__(self, checker: Checker, domain: Domain, explain: Callable[[Any], str]) -> None:
        self.checker = checker
        self.domain = domain
        self._explain = explain
        self._programs: dict[int, _Known] = {}
        self._refused = 0
        self._elsewhere = 0  # pieces that went to what is no RAM

    # DmaObserver.

    def program(self, program: Program) -> None:
        """Pass the program on, with the memory that is behind its addresses now."""
        if len(self._programs) >= _MAX_PROGRAMS:
            self._programs.pop(next(iter(self._programs)))
        self._programs[program.id] = _Known(program)
        self._pass_on(self._programs[program.id])

    def gone(self, program_id: int) -> None:
        """A program will not run again."""
        self._programs.pop(program_id, None)
        self.checker.gone(program_id)

    def before_write(self, batch: Batch) -> None:
        """The first look, at the pages behind the batch's addresses."""
        self.classify()
        known = self._programs.get(batch.program)
        if known is not None and known.version != self.domain.version:
            self._pass_on(known)
        physical = self._translated(batch)
        if len(physical.addr):
            self.checker.before_write(physical)

    def after_write(self, batch: Batch) -> None:
        """The second look. Messages were handled since the first: a mapping may lie elsewhere now."""
        entry = batch.cache.get(self)
        if entry is None:
            return
        physical = self._translated(batch)
        if physical is not entry[1]:
            self.checker.before_write(physical)
        if len(physical.addr):
            self.checker.after_write(physical)

    def device_read(self, addr: int, length: int, origin: int) -> None:
        """A fetch, page by page."""
        while length > 0:
            part = min(length, PAGE_SIZE - addr % PAGE_SIZE)
            mapping = self.domain.at(addr)
            if mapping is not None:
                mapping.fetched = True
                if mapping.physical >= 0:
                    self.checker.device_read(mapping.behind(addr), part, origin)
            addr, length = addr + part, length - part

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        """What the IOMMU has refused is judged here; without translation it is the checker's."""
        if why is Abort.MASTER_DISABLED or not self.domain.translating:
            self.checker.aborted(addr, length, origin, write, why)
            return
        self._refused += 1
        place = self._first_refused(addr, length, write)
        if place is not None:
            self._judge(place, addr + length, origin, write)

    def checkpoint(self, what: Checkpoint) -> None:
        """The same for the checker."""
        if what is Checkpoint.FIELD:
            self.classify()
        self.checker.checkpoint(what)

    # What others ask.

    def page_states(self, sight: Sight | None = None) -> dict[int, str]:
        """As the checker's, by bus page."""
        states = self.checker.page_states(sight)
        if not self.domain.translating:
            return states
        pages = self.domain.bus_pages()
        return {page: states[pfn] for page, pfn in pages.items() if pfn in states}

    def status(self) -> dict[str, Any]:
        """Figures: maps and unmaps so far, what lives by kind, transfers refused."""
        self.classify()
        return {
            "translating": self.domain.translating,
            "maps": self.domain.maps,
            "unmaps": self.domain.unmaps,
            "live": self.domain.kinds(),
            "refused": self._refused,
            "outside_ram": self._elsewhere,
        }

    def settle(self, *, final: bool) -> dict[str, Any]:
        """As the checker's; and with ``final`` a mapping that has outlived its pages' pins is a finding."""
        if final:
            self.classify()
            for mapping in self._left():
                notes = self._story(mapping.start, mapping)
                place = mapping.start
                subject = f"{mapping.what} without a pin"
                self.checker.refused(MAPPING_LEFT, subject, place, mapping.physical, -1, notes)
        return self.checker.settle(final=final)

    def _left(self) -> list[Mapping]:
        """Mappings of what was pinned, and is no longer: at two looks, between which nothing changed."""
        kernel = self.checker.kernel
        live = [mapping for mapping in self.domain.live if mapping.kind == STREAMING]
        if kernel is None or not live:
            return []
        frames = np.array([mapping.physical >> PAGE_SHIFT for mapping in live], dtype=np.int64)
        pages, place = np.unique(frames, return_inverse=True)
        chosen = PageSet(kernel, pages)
        free = np.ones(len(pages), dtype=bool)
        for _ in range(2):
            chosen.read()
            facts = chosen.facts()
            free &= ~facts.pinned & ~facts.torn & facts.present
        return [mapping for mapping, bare in zip(live, free[place].tolist(), strict=True) if bare]

    def annotate(self, verdict: Verdict) -> None:
        """Tell of the mapping behind which a finding's page lies."""
        if not self.domain.translating or verdict.pfn < 0 or verdict.rule in DMAAPI_RULES:
            return
        for mapping in self.domain.live:
            if 0 <= mapping.physical <= verdict.address < mapping.physical + mapping.size:
                bus = mapping.start + verdict.address - mapping.physical
                text = (
                    f"behind an IOMMU: bus address {bus:#x}, {mapping.what}, made {self._when(mapping.made)}"
                )
                verdict.evidence.notes.insert(0, text)
                return
        verdict.evidence.notes.insert(0, "behind an IOMMU: the driver has no mapping of this page now")

    def forget(self) -> None:
        """The client is gone, and its mappings with it."""
        self.domain.clear()

    # Translating.

    def _translated(self, batch: Batch) -> Batch:
        """The batch as it is behind the IOMMU now; the same object for as long as that does not change."""
        entry: tuple[int, Batch] | None = batch.cache.get(self)
        if entry is not None and entry[0] == self.domain.version:
            return entry[1]
        parts = _Parts(batch.addr, batch.length.astype(np.uint64))
        address, lies = self._behind(parts)
        self._elsewhere += int(np.count_nonzero(~lies))
        piece = parts.piece[lies]
        physical = Batch(
            address[lies],
            parts.length[lies].astype(np.uint32),
            batch.source[piece] + parts.offset[lies].astype(np.uint32),
            batch.origin[piece],
            batch.program,
        )
        if entry is not None and _same(entry[1], physical):
            physical = entry[1]
        batch.cache[self] = self.domain.version, physical
        return physical

    def _behind(self, parts: _Parts) -> tuple[_Addresses, NDArray[np.bool_]]:
        """The physical address of each part, and whether there is RAM at all."""
        pages, place = np.unique(parts.page, return_inverse=True)
        frames = self.domain.translate(pages.tolist())[place]
        lies = frames != NO_MEMORY
        return (frames.astype(np.uint64) << np.uint64(PAGE_SHIFT)) + parts.into, lies

    def _pass_on(self, known: _Known) -> None:
        """Announce a program, anew where the memory behind it is no longer the same."""
        program, known.version = known.program, self.domain.version
        ranges = np.asarray(program.ranges, np.uint64).reshape(-1, 2)
        parts = _Parts(ranges[:, 0], ranges[:, 1])
        address, lies = self._behind(parts)
        behind = np.stack([address[lies], parts.length[lies]], axis=1)
        if known.ranges is not None:
            if np.array_equal(known.ranges, behind):
                return
            self.checker.gone(program.id)
        known.ranges = behind
        self.checker.program(self._moved(program, behind))

    def _moved(self, program: Program, ranges: _Addresses) -> Program:
        """A program by physical addresses. Of its code the first page: the next may lie anywhere."""
        mapping = self.domain.at(program.address)
        if mapping is None or mapping.physical < 0:
            return replace(program, ranges=ranges, code=b"")
        room = PAGE_SIZE - program.address % PAGE_SIZE
        return replace(
            program, address=mapping.behind(program.address), ranges=ranges, code=program.code[:room]
        )

    # Telling mappings apart.

    def classify(self) -> None:
        """See what new mappings are of, while their pages are still what they were mapped for."""
        kernel = self.checker.kernel
        if not self.domain.fresh or kernel is None:
            return
        fresh = [each for each in self.domain.fresh if each.physical >= 0 and each.torn is None]
        self.domain.fresh.clear()
        if not fresh:
            return
        frames = np.array([mapping.physical >> PAGE_SHIFT for mapping in fresh], dtype=np.int64)
        pages, place = np.unique(frames, return_inverse=True)
        chosen = PageSet(kernel, pages)
        chosen.read()
        pinned = chosen.facts().pinned[place]
        listed = np.zeros(len(frames), dtype=bool)
        if not pinned.all():
            buffers = Media.of(kernel).buffers(anew=False)
            own = [buffer.pfns for buffer in buffers if not buffer.pinned and len(buffer.pfns)]
            listed = np.isin(frames, np.concatenate(own)) if own else listed
        for mapping, by_pin, by_list in zip(fresh, pinned.tolist(), listed.tolist(), strict=True):
            mapping.kind = STREAMING if by_pin else FRAMEWORK if by_list else COHERENT

    # Judging.

    def _first_refused(self, addr: int, length: int, write: bool) -> int | None:
        """The first byte of a transfer that no live mapping allows; None when one has come meanwhile."""
        end = addr + max(length, 1)
        while addr < end:
            mapping = self.domain.at(addr)
            if mapping is None or (write and not mapping.writable):
                return addr
            addr = mapping.end
        return None

    def _judge(self, place: int, end: int, origin: int, write: bool) -> None:
        self.classify()
        mapping = self.domain.at(place)
        rule: Rule = NOT_FOR_WRITING
        if mapping is None:
            mapping = self.domain.former(place)
            rule = NEVER_MAPPED if mapping is None else USE_AFTER_UNMAP
        what = "an address that was never mapped" if mapping is None else mapping.what
        subject = f"DMA {'write to' if write else 'fetch from'} {what}"
        notes = [f"{end - place} bytes at bus address {place:#x}: master abort, nothing of them was moved"]
        physical = NO_MEMORY
        if mapping is not None:
            physical = mapping.behind(place)
            notes = [*self._story(place, mapping), *self._earlier(place, mapping), *notes]
        else:
            notes += self._neighbours(place)
        self.checker.refused(rule, subject, place, physical, origin, notes)

    def _story(self, place: int, mapping: Mapping) -> list[str]:
        """When a mapping was made and torn down, and what has come since."""
        led = f"physical {mapping.behind(place):#x}" if mapping.physical >= 0 else "no RAM"
        text = [f"{place:#x} led to {led}, mapped {self._when(mapping.made)}"]
        torn = mapping.torn
        if torn is not None:
            now = self.domain.now()
            text.append(
                f"unmapped {self._when(torn)}; since then {now.writes - torn.writes} register writes, "
                f"{now.number - torn.number} maps, {1000 * (now.seconds - torn.seconds):.1f} ms"
            )
        return text

    def _earlier(self, place: int, mapping: Mapping) -> list[str]:
        found = [each for each in self.domain.formerly(place, _FORMER) if each is not mapping]
        return [
            f"before that {each.what}, physical {each.behind(place):#x}, mapped {self._when(each.made)}"
            for each in found
        ]

    def _neighbours(self, place: int) -> list[str]:
        """The live mapping that ends nearest before an address: what a transfer may have run out of."""
        below = [mapping for mapping in self.domain.live if mapping.end <= place]
        nearest = max(below, key=lambda mapping: mapping.end, default=None)
        if nearest is None:
            return ["no mapping lives below it"]
        return [f"{place - nearest.end:#x} bytes above the end of {nearest.what} at {nearest.start:#x}"]

    def _when(self, moment: Moment) -> str:
        said = f": {self._explain(moment.last)}" if moment.last is not None else ""
        return f"as no. {moment.number} (field {moment.field}, register write {moment.writes}{said})"


def _same(one: Batch, other: Batch) -> bool:
    """Whether two translations of the same batch are equal."""
    return np.array_equal(one.addr, other.addr) and np.array_equal(one.length, other.length)
