# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker: an observer of a bus master that judges every page of every DMA write.

::

    program ──▶ record: the pages at first sight            (ledger)
    before_write ──▶ look ─┐
    (bytes move)           ├─▶ bad? drain, was DMA stopped? ─▶ pause, look again, explain ─▶ verdict
    after_write ───▶ look ─┘
    checkpoint ──▶ pins dropped? was the page dirtied?      (releases)

It attaches to the guest's kernel by itself when DMA is first switched on after a (re)boot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from vcapdev.dma import Abort, Batch, Checkpoint, Describe, MemoryMap, Program
from vcapdev.dmacheck.attachment import Attachment
from vcapdev.dmacheck.audit import Audit
from vcapdev.dmacheck.books import Books
from vcapdev.dmacheck.contract import Contract
from vcapdev.dmacheck.court import Case, Court
from vcapdev.dmacheck.guard import Guard
from vcapdev.dmacheck.history import History
from vcapdev.dmacheck.ledger import Record, pages_of, too_many
from vcapdev.dmacheck.look import BatchPages, Look, weigh
from vcapdev.dmacheck.oddities import Oddities
from vcapdev.dmacheck.recent import RecentFields, RecentSets
from vcapdev.dmacheck.releases import Releases
from vcapdev.dmacheck.rules import OUTSIDE_RAM, PAGE_RULES, RECYCLED, USER, Codes
from vcapdev.dmacheck.verdict import Verdict
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import PageSet


class Checker:
    """Judges DMA writes against the guest's own view of its pages. Implements ``vcapdev.dma.DmaObserver``.

    :param memory: guest RAM.
    :param describe: explains an origin, while its batch is being moved.
    :param pause: a context manager that stops the vCPUs; yields False where it cannot.
    :param dma_running: handles pending register writes, then says whether DMA is still on.
    :param on_verdict: told of each new kind of finding, once.
    :ivar audit: judges a sample of judgements again; by default none.
    """

    def __init__(
        self,
        memory: MemoryMap,
        describe: Describe,
        pause: Callable[[], AbstractContextManager[bool]],
        dma_running: Callable[[], bool],
        on_verdict: Callable[[Verdict], None],
    ) -> None:
        self._parts = (memory, describe, pause, dma_running, on_verdict)
        self._map = memory
        self._attachment = Attachment(memory)
        self._dma_running = dma_running
        self._history = History()
        self._court = Court(describe, pause, self._still_running, on_verdict, self._history)
        self._oddities = Oddities()
        self._pins: Releases | None = None
        self._contract: Contract | None = None
        self._books = Books()
        self._guard = Guard(self._oddities)
        self.audit = Audit(0, 0)
        self._pause = pause
        self._sentence: Codes | None = None  # of the last judgement, None: nothing was found
        self._unjudged = False  # whether the last one was put off: it cannot be audited
        self._doubt = False  # whether the kernel may have been followed by another
        self._stops = self._fields = 0
        self._judging = False
        self._writes = self._bytes = self._checked = 0
        self._counts: Counter[str] = Counter()
        self._seen = np.zeros(0, dtype=bool)
        self._recent = RecentFields()
        self._sets = RecentSets()

    # What users of the checker call.

    @property
    def verdicts(self) -> list[Verdict]:
        """All findings so far, the first of each kind with its count."""
        return self._court.verdicts

    @property
    def attached(self) -> bool:
        """Whether the guest's kernel is known at this moment, beyond doubt."""
        return self._kernel is not None and not self._doubt

    def attach(self) -> bool:
        """Find the guest's kernel now; takes about a second. ``status()["why_not"]`` tells why not."""
        self._guard(self._find_kernel)
        return self.attached

    def doubt(self) -> None:
        """The guest may start another kernel without a device reset (kexec): look again before DMA."""
        self._doubt = self._kernel is not None

    def _find_kernel(self) -> None:
        old = self._kernel
        if not self._attachment.attach(self._breathe) or self._kernel is None:
            if old is not None and old is self._kernel:
                self._attachment.drop(f"a former kernel is no more: {self._attachment.why_not}")
                self._forget()
            return
        if old is not None and old.identity != self._kernel.identity and self._pins is not None:
            self._pins.drop()
        self._take_up(self._kernel)

    def _take_up(self, kernel: Kernel) -> None:
        """Begin with a kernel that the attachment knows."""
        self._doubt = False
        self._renew()
        if len(self._seen) < kernel.vmemmap.pages:
            self._seen = np.zeros(kernel.vmemmap.pages, dtype=bool)
        self._books.forget(kind=True)

    def afresh(self) -> Checker:
        """A checker in the place of this one: it knows kernel and programs, and has found nothing yet.

        For many scenes in one boot. What is pinned by now counts as there before. This one is of no use then.
        """
        other = Checker(*self._parts)
        other._attachment, other._books, other.audit = self._attachment, self._books, self.audit.afresh()
        kernel = self._kernel
        if kernel is not None:
            other._guard(lambda: other._take_up(kernel))
            other._doubt = self._doubt
        return other

    @property
    def _kernel(self) -> Kernel | None:
        return self._attachment.kernel

    def _renew(self) -> None:
        """Begin to watch pins anew, and to collect the pages of a frame."""
        if self._kernel is not None:
            self._pins = Releases(self._kernel, self._court, self._oddities, self._pins)
            self._contract = Contract(self._kernel)
        self._recent.clear()
        self._sets.clear()

    def poll(self) -> None:
        """Look for released pins, and pronounce what was found. To be called every 20 ms or so."""
        self._guard(self._hear_of_pins)

    def settle(self, *, final: bool = True) -> dict[str, Any]:
        """After the capture program has closed: are all pins back? (rule V11)

        With ``final`` false nothing is judged: ask again until ``settled``, or until patience ends, and then
        with ``final``. Pins that came back only between two such calls count as a late release.

        :return: ``settled``, ``pinned_pages`` and the kernel's own ``outstanding`` pins (None when unknown).
        """
        if self._kernel is None or self._pins is None:
            unknown = {"pinned_pages": None, "outstanding": None}
            return {"settled": False, **unknown, "why_not": self._attachment.why_not}
        self._guard(self._hear_of_pins)
        return self._pins.settle(self._books.latest, final=final) if self._pins is not None else {}

    def page_states(self) -> dict[int, str]:
        """State of each page of the last complete frame at its last look: page frame to a short word."""
        return {} if self._kernel is None else self._recent.states(self._kernel)

    def status(self) -> dict[str, Any]:
        """Figures and findings as plain values; see the reference of the report."""
        counts = self._counts
        return {
            "attached": self._kernel is not None,
            "why_not": self._attachment.why_not,
            "kernel": self._attachment.release,
            "build_id": self._attachment.build_id,
            "writes": self._writes,
            "bytes": self._bytes,
            "pages_checked": self._checked,
            "distinct_pages": int(np.count_nonzero(self._seen)),
            "unchecked_writes": counts["unchecked"],
            "thorough_looks": counts["thorough"],
            "programs": len(self._books),
            "fields": self._fields,
            "verdicts": self._court.counts(),
            "oddities": self._oddities.counts(),
            "pins": self._pins.status() if self._pins is not None else {},
            "contract": self._contract.status() if self._contract is not None else {},
            "audit": self.audit.figures(),
            "defects": list(self._guard.defects),
        }

    def memory_changed(self) -> None:
        """Let go of all guest memory (it is looked up again when needed); for subscribers of the map."""
        if self._attachment.stale:
            self._guard(self._follow_map)

    # DmaObserver.

    def program(self, program: Program) -> None:
        """Remember the program; its pages are learnt now, or at its first write when not attached yet."""
        record = self._books.open(program)
        if self._ready():
            self._guard(lambda: self._learn(record))

    def gone(self, program_id: int) -> None:
        """The program's pages stay watched for their release."""
        self._books.retire(program_id)
        if self._contract is not None:
            self._contract.forget(program_id)

    def before_write(self, batch: Batch) -> None:
        """The first look."""
        pages: BatchPages | None = batch.cache.get(self)
        if pages is None or self._attachment.stale or not pages.fresh(self._attachment.epoch, self._fields):
            pages = self._pages_of(batch)
            if pages is None:
                self._counts["unchecked"] += 1
                return
        pages.before = None
        if not pages.unchanged():
            self._guard(lambda: self._before(pages))
        contract = self._contract
        if contract is not None and not contract.quiet_before(pages):
            self._guard(lambda: contract.before(pages))

    def after_write(self, batch: Batch) -> None:
        """The second look; whatever is bad is judged here."""
        pages: BatchPages | None = batch.cache.get(self)
        if pages is None or pages.epoch is not self._attachment.epoch:
            return
        self._writes += 1
        self._bytes += pages.size
        self._checked += pages.count
        if pages.partial:
            self._counts["unchecked"] += 1
        self._sentence, self._unjudged = None, False
        if not pages.unchanged() or pages.before is not None:
            self._guard(lambda: self._after(batch, pages))
        if self._contract is not None and not self._contract.quiet(pages):
            self._guard(lambda: self._hold_to_contract(batch, pages))
        if self._pins is not None and pages.written_version != self._pins.table.version:
            self._pins.table.mark_written(pages.pages.pfns)
            pages.written_version = self._pins.table.version
        if self.audit.rate and not self._unjudged and self.audit.drawn():
            self._guard(lambda: self._judge_again(pages))

    def device_read(self, addr: int, length: int, origin: int) -> None:
        """Fetches are not judged."""

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        """A write that no RAM answered breaks rule V7; everything else is the driver's own affair."""
        if why is Abort.MASTER_DISABLED:
            self._oddities.add("bus-master-off")
        elif not write:
            self._oddities.add("fetch-aborted")
        else:
            self._guard(lambda: self._court.outside(OUTSIDE_RAM, addr, length, origin, why.value))

    def checkpoint(self, what: Checkpoint) -> None:
        """Look for released pins; attach at the start of DMA; forget everything at a reset."""
        if what is Checkpoint.RESET:
            self._reset()
        elif what is Checkpoint.DMA_START:
            if not self.attached:
                self.attach()
        elif what is Checkpoint.REGISTER_WRITE:
            if self._pins is not None and self._kernel is not None and self._pins.table.stirred():
                self._guard(self._look_at_pins)
        elif what is Checkpoint.DMA_STOP:
            self._stopped()
            self._guard(self._look_at_pins)
        else:
            self._fields += 1
            self._recent.next_field()
            self._guard(self._hear_of_pins)

    # Looking.

    def _pages_of(self, batch: Batch) -> BatchPages | None:
        """The pages of a batch, made ready for looks in this field; None when no kernel is attached."""
        if not self._ready():
            return None
        self._guard(lambda: self._prepare(batch))
        pages: BatchPages | None = batch.cache.get(self)
        if pages is None or pages.epoch is not self._attachment.epoch:
            return None
        pages.field = self._fields
        self._recent.add(pages)
        return pages

    def _prepare(self, batch: Batch) -> None:
        setting = self._attachment.setting
        if self._kernel is None or setting is None:
            return
        record = self._books.of(batch)
        if not record.learned:
            self._learn(record)
        pages: BatchPages | None = batch.cache.get(self)
        if pages is not None and pages.epoch is self._attachment.epoch and pages.record is record:
            return
        chosen = self._pages_written(batch, record, self._kernel)
        self._seen[chosen.pfns[: np.searchsorted(chosen.pfns, len(self._seen))]] = True
        size = int(batch.length.sum(dtype=np.int64))
        pages = BatchPages(self._attachment.epoch, self._kernel, setting, record, chosen, size)
        pages.partial = too_many(batch.addr, batch.length.astype(np.uint64))
        batch.cache[self] = pages

    def _pages_written(self, batch: Batch, record: Record, kernel: Kernel) -> PageSet:
        """A batch's pages; where it is all that its program writes, they were looked at to learn that."""
        if record.pages is not None and record.writes_just(batch.addr, batch.length):
            return record.pages
        return PageSet(kernel, pages_of(batch.addr, batch.length.astype(np.uint64)))

    def _learn(self, record: Record) -> None:
        setting = self._attachment.setting
        if self._kernel is None or setting is None or self._pins is None:
            return
        facts = record.learn(self._sets.of(self._kernel, record.pfns), setting)
        if record.kind == USER:
            self._pins.admit(facts, record)
        contract = self._contract
        if contract is not None:
            self._guard(lambda: contract.learn(record))

    def _before(self, pages: BatchPages) -> None:
        look = pages.look()
        if look is None:
            return
        self._note(pages.record, look, f"field {self._fields} before")
        if look.moved:
            self._follow_map()
        elif look.bad:
            pages.before = look

    def _after(self, batch: Batch, pages: BatchPages) -> None:
        look = pages.look()
        if look is not None:
            self._note(pages.record, look, f"field {self._fields} after")
            if look.moved:
                self._unjudged = True
                self._follow_map()
                return
            if look.unsure:
                self._unjudged = True
                self._counts["unchecked"] += 1
        before, after = pages.before, look
        pages.before = None
        if (before is not None or (after is not None and after.bad)) and self._kernel is not None:
            self._accuse(batch, pages, before, after)

    def _accuse(self, batch: Batch, pages: BatchPages, before: Look | None, after: Look | None) -> None:
        """Decide which pages are certainly bad, rule out a stop that came meanwhile, and hand them over."""
        codes, passing = weigh(before, after, pages.count)
        self._excuse_renewed(codes, pages)
        guilty = np.flatnonzero(codes)
        self._oddities.add("passing", passing)
        if not len(guilty) or self._kernel is None:
            return
        epoch = self._attachment.epoch
        if not self._still_running() or self._attachment.epoch is not epoch:
            self._unjudged = True
            self._oddities.add("raced-with-stop", len(guilty))
            return
        self._sentence = codes
        case = Case(self._kernel, batch, pages, before, after, f"field {self._fields}")
        self._judging = True  # what is handled meanwhile must not stop the vCPUs a second time
        try:
            for code in np.unique(codes[guilty]).tolist():
                rows = guilty[codes[guilty] == code]
                if not self._court.page_verdict(PAGE_RULES[code - 1], case, rows):
                    self._oddities.add("raced-with-stop", len(rows))
        finally:
            self._judging = False

    def _hold_to_contract(self, batch: Batch, pages: BatchPages) -> None:
        """What the media framework has to say; nothing of it is pronounced before it is confirmed."""
        contract, kernel, epoch = self._contract, self._kernel, self._attachment.epoch
        breaches = contract.after(batch, pages, self._fields) if contract is not None else []
        if not breaches or contract is None or kernel is None or self._judging:
            return
        if not self._still_running() or self._attachment.epoch is not epoch or pages.facts is None:
            self._oddities.add("raced-with-stop", sum(len(breach.rows) for breach in breaches))
            return
        none = np.zeros(0, dtype=np.intp)
        look = Look(pages.facts, np.zeros(pages.count, dtype=np.uint8), none)
        case = Case(kernel, batch, pages, None, look, f"field {self._fields}")
        self._judging = True
        try:
            for breach in breaches:
                confirm = partial(contract.confirm, breach, batch, pages)
                if not self._court.contract_verdict(breach, case, confirm):
                    self._oddities.add("passing", len(breach.rows))
        finally:
            self._judging = False

    def _judge_again(self, pages: BatchPages) -> None:
        """Of the sample: with the vCPUs stopped, once pending register writes are handled."""
        kernel, setting, epoch = self._kernel, self._attachment.setting, self._attachment.epoch
        if kernel is None or setting is None or self._judging:
            return
        self._judging = True
        try:
            self.audit.again(
                kernel, setting, pages, self._sentence, self._pause,
                lambda: self._still_running() and self._attachment.epoch is epoch,
            )  # fmt: skip
        finally:
            self._judging = False

    def _excuse_renewed(self, codes: Codes, pages: BatchPages) -> None:
        """A small buffer may be released and pinned again as the same pages, between two of our looks."""
        recycled = codes == 1 + PAGE_RULES.index(RECYCLED)
        if recycled.any() and self._kernel is not None and pages.record.renewed(self._kernel):
            codes[recycled] = 0
            pages.record.forget(kind=False)
            self._oddities.add("pinned-again")

    def _note(self, record: Record, look: Look, when: str) -> None:
        self._counts["thorough"] += 1
        if self._kernel is None or not len(look.changed):
            return
        all_changed = len(look.changed) == len(look.facts.pfn)
        facts = look.facts if all_changed else look.facts.take(look.changed)
        if self._pins is not None and not record.known.all():  # pinned only after it was announced
            self._pins.admit(facts, record)
        self._history.record(when, facts)
        self._oddities.observe(self._kernel, facts)

    def _look_at_pins(self) -> None:
        if self._pins is not None and not self._judging and self._ready():
            released = self._pins.look()
            if released is not None:
                self._books.released(released)

    def _hear_of_pins(self) -> None:
        """As :meth:`_look_at_pins`, where the vCPUs may be stopped to explain what was found."""
        self._look_at_pins()
        if self._pins is not None and not self._judging and self._kernel is not None:
            self._judging = True
            try:
                self._pins.hear(self._books.latest)
            finally:
                self._judging = False

    # Coming and going.

    def _ready(self) -> bool:
        """Whether a kernel is attached, with the memory map as it is now."""
        if self._attachment.stale:
            self._guard(self._follow_map)
        return self._kernel is not None

    def _follow_map(self) -> None:
        """The map of guest memory, or that of struct pages, has changed: build what rests on it again."""
        if self._attachment.follow():
            self._renew()
            self._books.forget(kind=False)
        elif self._kernel is None:
            self._forget()

    def _forget(self) -> None:
        """Forget what was learnt of the guest; figures and findings stay."""
        self._stops += 1
        self._doubt = False
        self._renew()
        self._books.forget(kind=True)
        self._history.clear()
        self._oddities.forget()
        if self._pins is not None:
            self._pins.drop()

    def _reset(self) -> None:
        self._books.clear()
        self._attachment.drop("the device was reset and DMA has not been switched on since")
        self._forget()

    def _stopped(self) -> None:
        """Buffers may be given back while DMA is off, and their pages may come again in another role."""
        self._stops += 1
        self._books.forget(kind=True)

    def _still_running(self) -> bool:
        """Whether DMA goes on, once pending register writes are handled, and was not stopped in between."""
        stops = self._stops
        return self._dma_running() and self._stops == stops

    def _breathe(self) -> None:
        self._dma_running()
