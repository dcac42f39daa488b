# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking at what the device does to memory, and handing over to the court what is certainly bad."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import numpy as np

from vcapdev.dma import Batch, Program
from vcapdev.dmacheck.audit import Audit
from vcapdev.dmacheck.breach import Breach
from vcapdev.dmacheck.court import Case, Court
from vcapdev.dmacheck.fetches import Suspicion
from vcapdev.dmacheck.ground import Ground
from vcapdev.dmacheck.hazards import Hazards
from vcapdev.dmacheck.ledger import Record, pages_of, too_many
from vcapdev.dmacheck.look import BatchPages, Look, weigh
from vcapdev.dmacheck.rules import DMA_OFF, NOT_PINNED, PAGE_RULES, RECYCLED, UNLISTED, USER, Codes
from vcapdev.guestmm.mediabuffer import DMABUF
from vcapdev.guestmm.pages import Bools, PageSet
from vcapdev.guestmm.vmstat import read_ticks

LONG = 10.0  # seconds between two looks for pins that nobody lists
_TICKS = 1000  # of the guest's own clock that must have passed too, at 100 Hz or more: it may be paused


class Examiner:
    """Makes batches ready for looks, looks, and accuses.

    :param key: under which a batch keeps its pages.
    :param pause: stops the vCPUs, for the audit.
    :ivar counts: batches by what became of them.
    """

    def __init__(
        self,
        key: object,
        ground: Ground,
        court: Court,
        hazards: Hazards,
        pause: Callable[[], AbstractContextManager[bool]],
    ) -> None:
        self._key, self._ground, self._court, self._pause = key, ground, court, pause
        self._hazards = hazards
        self.counts: Counter[str] = Counter()
        self.sentence: Codes | None = None  # of the last judgement, None: nothing was found
        self.doubt: Bools | None = None  # pages that were bad at one of its looks, and not accused
        self.clock: Callable[[], float] = time.monotonic
        self._next = self.clock() + LONG  # when pins that nobody lists are looked for
        self._ticks: int | None = None  # the guest's clock when that was done last
        self.unjudged = False  # whether the last one was put off: it cannot be audited

    # Making ready.

    def pages_of(self, batch: Batch) -> BatchPages | None:
        """The pages of a batch, made ready for looks; None when no kernel is attached."""
        ground = self._ground
        if not ground.ready():
            return None
        ground.guard(lambda: self.prepare(batch))
        pages: BatchPages | None = batch.cache.get(self._key)
        if pages is None or pages.epoch is not ground.epoch:
            return None
        return pages

    def prepare(self, batch: Batch) -> None:
        """Find the pages of a batch, and learn its program if need be."""
        ground, setting = self._ground, self._ground.attachment.setting
        if ground.kernel is None or setting is None:
            return
        record = ground.books.of(batch)
        if not record.learned:
            self.learn(record)
        pages: BatchPages | None = batch.cache.get(self._key)
        if pages is not None and pages.epoch is ground.epoch and pages.record is record:
            return
        whole = record.pages is not None and record.writes_just(batch.addr, batch.length)
        if record.pages is not None and whole:  # these were looked at already, to learn the program
            chosen, partial = record.pages, record.reach.partial
        else:
            chosen = PageSet(ground.kernel, pages_of(batch.addr, batch.length.astype(np.uint64)))
            partial = too_many(batch.addr, batch.length.astype(np.uint64))
        ground.count(chosen)
        size = int(batch.length.sum(dtype=np.int64))
        pages = BatchPages(ground.epoch, ground.kernel, setting, record, chosen, size)
        pages.partial = partial
        batch.cache[self._key] = pages

    def learn(self, record: Record) -> None:
        """Look at the pages of a program for the first time."""
        ground, setting = self._ground, self._ground.attachment.setting
        if ground.kernel is None or setting is None or ground.pins is None:
            return
        facts = record.learn(ground.sets.of(ground.kernel, record.pfns), setting)
        if record.kind == USER:
            ground.pins.admit(facts, record)
        contract = ground.contract
        if contract is not None:
            ground.guard(lambda: contract.learn(record, facts))
            buffer = contract.buffer_of(record.id)
            if buffer is not None:
                ground.pins.ledger.name(record.ends[0], buffer.name)
        suspects = ground.suspects
        if suspects is not None:
            user = contract.user_of(record.id) if contract is not None else None
            ground.guard(lambda: suspects.learn(record, facts, user))

    # Looking.

    def before(self, pages: BatchPages) -> None:
        """The look before the bytes move."""
        look = pages.look()
        if look is None:
            return
        self._note(pages.record, look, f"field {self._ground.fields} before")
        if look.moved:
            self._ground.follow_map()
        elif look.bad:
            pages.before = look

    def after(self, batch: Batch, pages: BatchPages) -> None:
        """The look after the bytes have moved; whatever is bad is judged here."""
        ground = self._ground
        look = pages.look()
        if look is not None:
            self._note(pages.record, look, f"field {ground.fields} after")
            if look.moved:
                self.unjudged = True
                ground.follow_map()
                return
            if look.unsure:
                self.unjudged = True
                self.counts["unchecked"] += 1
        before, after = pages.before, look
        pages.before = None
        if (before is not None or (after is not None and after.bad)) and ground.kernel is not None:
            self._accuse(batch, pages, before, after)

    def _note(self, record: Record, look: Look, when: str) -> None:
        self.counts["thorough"] += 1
        ground = self._ground
        if ground.kernel is None or not len(look.changed):
            return
        all_changed = len(look.changed) == len(look.facts.pfn)
        facts = look.facts if all_changed else look.facts.take(look.changed)
        if ground.pins is not None and not record.known.all():  # pinned only after it was announced
            ground.pins.admit(facts, record)
        ground.history.record(when, facts)
        ground.oddities.observe(ground.kernel, facts)

    # Accusing.

    def _accuse(self, batch: Batch, pages: BatchPages, before: Look | None, after: Look | None) -> None:
        """Decide which pages are certainly bad, rule out a stop that came meanwhile, and hand them over."""
        ground = self._ground
        codes, passing = weigh(before, after, pages.count)
        self._excuse_renewed(codes, pages)
        self._excuse_imported(codes, pages)
        self.doubt = (codes == 0) & _bad_at_either(before, after, pages.count)
        guilty = np.flatnonzero(codes)
        ground.oddities.add("passing", passing)
        if not len(guilty) or ground.kernel is None:
            return
        if not self._goes_on():
            self.unjudged = True
            ground.oddities.add("raced-with-stop", len(guilty))
            return
        self.sentence = codes
        case = Case(ground.kernel, batch, pages, before, after, f"field {ground.fields}")
        with ground.judgement():
            for code in np.unique(codes[guilty]).tolist():
                rows = guilty[codes[guilty] == code]
                if not self._court.page_verdict(PAGE_RULES[code - 1], case, rows):
                    ground.oddities.add("raced-with-stop", len(rows))

    def _goes_on(self) -> bool:
        """Whether DMA was not stopped, and the ground is the same, once pending messages are handled."""
        epoch = self._ground.epoch
        return self._ground.still_running() and self._ground.epoch is epoch

    def hold_to_contract(self, batch: Batch, pages: BatchPages) -> None:
        """What the media framework has to say; nothing of it is pronounced before it is confirmed."""
        ground = self._ground
        contract = ground.contract
        found = contract.after(batch, pages, ground.fields) if contract is not None else []
        breaches = [breach for breach in found if breach.rule is not UNLISTED]
        if ground.kernel is not None and pages.facts is not None and len(breaches) < len(found):
            for breach in found:
                if breach.rule is UNLISTED:
                    self._hazards.add(ground.kernel, breach, batch, pages.facts, ground.fields)
        if breaches and contract is not None:
            self._charge(breaches, batch, pages, lambda breach: contract.confirm(breach, batch, pages))

    def suspect(self, batch: Batch, pages: BatchPages) -> None:
        """What was suspicious of the program at first sight, once it has written."""
        suspects = self._ground.suspects
        if suspects is None:
            return
        breaches = []
        for breach in suspects.breaches(batch, pages):
            if suspects.confirm(breach, pages) is not None:  # worth a pause
                breaches.append(breach)
            else:
                suspects.clear(breach, pages)
        if not breaches:
            return
        for breach in self._charge(breaches, batch, pages, lambda breach: suspects.confirm(breach, pages)):
            suspects.clear(breach, pages)

    def _charge(
        self,
        breaches: list[Breach],
        batch: Batch,
        pages: BatchPages,
        confirm: Callable[[Breach], list[str] | None],
    ) -> list[Breach]:
        """Have suspicions confirmed and pronounced; returns those that turned out to be none."""
        ground = self._ground
        if ground.kernel is None or ground.judging:
            return []
        if not self._goes_on() or pages.facts is None:
            ground.oddities.add("raced-with-stop", sum(len(breach.rows) for breach in breaches))
            return []
        none = np.zeros(0, dtype=np.intp)
        look = Look(pages.facts, np.zeros(pages.count, dtype=np.uint8), none)
        case = Case(ground.kernel, batch, pages, None, look, f"field {ground.fields}")
        innocent: list[Breach] = []
        with ground.judgement():
            for breach in breaches:
                if not self._court.contract_verdict(breach, case, partial(confirm, breach)):
                    ground.oddities.add("passing", len(breach.rows))
                    innocent.append(breach)
        return innocent

    def judge_again(self, audit: Audit, pages: BatchPages) -> None:
        """Of the sample: with the vCPUs stopped, once pending register writes are handled."""
        ground = self._ground
        kernel, setting, epoch = ground.kernel, ground.attachment.setting, ground.epoch
        if kernel is None or setting is None or ground.judging:
            return
        with ground.judgement():
            audit.again(
                kernel, setting, pages, self.sentence, self.doubt, self._pause,
                lambda: ground.still_running() and ground.epoch is epoch,
            )  # fmt: skip

    def _excuse_renewed(self, codes: Codes, pages: BatchPages) -> None:
        """A small buffer may be released and pinned again as the same pages, between two of our looks."""
        recycled = codes == 1 + PAGE_RULES.index(RECYCLED)
        kernel = self._ground.kernel
        if recycled.any() and kernel is not None and pages.record.renewed(kernel):
            codes[recycled] = 0
            pages.record.forget(kind=False)
            self._ground.oddities.add("pinned-again")

    def _excuse_imported(self, codes: Codes, pages: BatchPages) -> None:
        """Who exports a DMABUF keeps its memory; with references alone in udmabuf before Linux 6.11."""
        contract, facts = self._ground.contract, pages.facts
        buffer = contract.buffer_of(pages.record.id) if contract is not None else None
        if buffer is None or buffer.memory != DMABUF or facts is None:
            return
        users = facts.mapcount + 1 + (facts.mapping != 0)  # those who map it, and the page cache
        held = (codes == 1 + PAGE_RULES.index(NOT_PINNED)) & (facts.refcount > users)
        codes[held] = 0
        self._ground.oddities.add("held-by-exporter", int(np.count_nonzero(held)))

    # What is certain by the order of things.

    def wrote_while_off(self, batch: Batch) -> None:
        """A write although DMA is off (V9): no page has to be looked at."""
        if not self._ground.judging:
            with self._ground.judgement():
                self._court.device_verdict(DMA_OFF, "DMA write after a stop", batch)

    def linger(self) -> None:
        """To be called with every poll and every field: look for pins that nobody lists.

        While fields come without DMA there are hardly any polls.
        """
        if self.clock() < self._next:
            return
        self._next = self.clock() + LONG
        ground = self._ground
        if ground.judging or not ground.ready() or ground.kernel is None:
            return
        ticks = read_ticks(ground.kernel)
        if ticks is not None and self._ticks is not None and 0 <= ticks - self._ticks < _TICKS:
            return  # the guest has hardly run since: it has had no time to give anything back
        self._ticks = ticks
        if ground.pins is not None and ground.contract is not None and len(ground.pins.table):
            with ground.judgement():
                ground.pins.linger(ground.contract.claimed, ground.books.latest)

    # Fetching.

    def announced(self, program: Program) -> None:
        """A program was decoded: it may be another one than the device is amid of."""
        fetches = self._ground.fetches
        suspicion = fetches.program(program) if fetches is not None else None
        if suspicion is not None:
            self._pronounce(suspicion, -1, lambda: True)

    def fetched(self, addr: int, length: int, origin: int) -> None:
        """Look at the pages of a fetch."""
        ground = self._ground
        fetches = ground.fetches
        if fetches is None or ground.running is False or ground.judging or not ground.ready():
            return
        for suspicion in fetches.look(addr, length):
            self._pronounce(suspicion, origin, lambda: bool(fetches.look(addr, length)))

    def _pronounce(self, suspicion: Suspicion, origin: int, again: Callable[[], bool]) -> None:
        ground = self._ground
        if ground.kernel is None or ground.judging:
            return
        if not self._goes_on():
            ground.oddities.add("raced-with-stop")
            return
        with ground.judgement():
            if not self._court.fetch_verdict(ground.kernel, suspicion, origin, again):
                ground.oddities.add("passing")


def _bad_at_either(before: Look | None, after: Look | None, count: int) -> Bools:
    bad: Bools = np.zeros(count, dtype=bool)
    for look in (before, after):
        if look is not None:
            bad |= look.codes != 0
    return bad
