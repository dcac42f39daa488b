# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker: an observer of a bus master that judges every page of every DMA write, and of every fetch.

::

    program ──▶ record: the pages at first sight            (ledger)
    before_write ──▶ look ─┐
    (bytes move)           ├─▶ bad? drain, was DMA stopped? ─▶ pause, look again, explain ─▶ verdict
    after_write ───▶ look ─┘                                                        (examiner, court)
    device_read ──▶ look, once a field, at the pages of the program                 (fetches)
    checkpoint ──▶ pins dropped? was the page dirtied?                              (releases)

It attaches to the guest's kernel by itself when DMA is first switched on after a (re)boot; what is known of
the guest, and what voids it, is in ``ground``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from vcapdev.dma import Abort, Batch, Checkpoint, Describe, MemoryMap, Program
from vcapdev.dmacheck.audit import Audit
from vcapdev.dmacheck.court import Court
from vcapdev.dmacheck.examiner import Examiner
from vcapdev.dmacheck.ground import Ground
from vcapdev.dmacheck.hazards import Hazards
from vcapdev.dmacheck.look import BatchPages
from vcapdev.dmacheck.recent import Sight, states_in
from vcapdev.dmacheck.rules import OUTSIDE_RAM, Rule
from vcapdev.dmacheck.verdict import Verdict
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT
from vcapdev.guestmm.pageview import state_labels


class Checker:
    """Judges DMA against the guest's own view of its pages. Implements ``vcapdev.dma.DmaObserver``.

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
        self._ground = ground = Ground(memory, dma_running)
        ground.court = self._court = Court(describe, pause, ground.still_running, on_verdict, ground.history)
        self._hazards = Hazards(self._court.explain)
        self._examiner = Examiner(self, ground, self._court, self._hazards, pause)
        self._guard = ground.guard
        self.audit = Audit(0, 0)
        self._writes = self._bytes = self._checked = 0

    # What users of the checker call.

    @property
    def verdicts(self) -> list[Verdict]:
        """All findings so far, the first of each kind with its count."""
        return self._court.verdicts

    def tally(self) -> dict[str, int]:
        """Findings by rule name, repetitions included."""
        return self._court.counts()

    @property
    def attached(self) -> bool:
        """Whether the guest's kernel is known at this moment, beyond doubt."""
        return self._ground.attached

    def use_debug_file(self, path: Path) -> None:
        """Read a vmlinux now, for kernels that were built without BTF or kallsyms.

        :raise UsageError: when it is no vmlinux with debug information.
        """
        from vcapdev.guestmm.debugfile import DebugFile

        self._ground.attachment.debug_file = DebugFile.load(path)

    @property
    def kernel(self) -> Kernel | None:
        """The guest's kernel, where it is known."""
        return self._ground.kernel if self._ground.ready() else None

    def attach(self, *, restored: bool = False) -> bool:
        """Find the guest's kernel now; takes about a second. ``status()["why_not"]`` tells why not.

        :param restored: the guest goes on from a snapshot, and its kernel runs: it may be known already.
        """
        self._guard(lambda: self._ground.find_kernel(restored=restored))
        return self.attached

    def doubt(self) -> None:
        """The guest may start another kernel without a device reset (kexec): look again before DMA."""
        self._ground.doubt()

    def afresh(self) -> Checker:
        """A checker in the place of this one: it knows kernel and programs, and has found nothing yet.

        For many scenes in one boot. What is pinned by now counts as there before. This one is of no use then.
        """
        other = Checker(*self._parts)
        other.audit = self.audit.afresh()
        other.collect_states()
        other._ground.inherit(self._ground)
        return other

    def collect_states(self) -> None:
        """Collect from now on which states pages were seen in (``states`` of :meth:`status`)."""
        self._ground.oddities.states.wanted = True

    def poll(self) -> None:
        """Look for released pins, and pronounce what was found. To be called every 20 ms or so."""
        self._guard(self._hear_of_pins)
        self._guard(self._examiner.linger)

    def settle(self, *, final: bool = True) -> dict[str, Any]:
        """After the capture program has closed: are all pins back? (rule V11)

        With ``final`` false nothing is judged: ask again until ``settled``, or until patience ends, and then
        with ``final``. Pins that came back only between two such calls count as a late release.

        :return: ``settled``, ``pinned_pages`` and the kernel's own ``outstanding`` pins (None when unknown).
        """
        ground = self._ground
        if ground.kernel is None or ground.pins is None:
            unknown = {"pinned_pages": None, "outstanding": None}
            return {"settled": False, **unknown, "why_not": ground.attachment.why_not}
        self._guard(self._hear_of_pins)
        return ground.pins.settle(ground.books.latest, final=final) if ground.pins is not None else {}

    def sight(self) -> Sight:
        """What was seen of the pages of the last complete frame, for :meth:`page_states` at any time."""
        return self._ground.recent.sight()

    def page_states(self, sight: Sight | None = None) -> dict[int, str]:
        """State of each page of a frame, by default the last, when last looked at: page frame to a word."""
        kernel = self._ground.kernel
        return {} if kernel is None else states_in(self.sight() if sight is None else sight, kernel)

    def state_of(self, batch: Batch) -> str:
        """The state that most pages of a batch were in when it was judged last; "" where it was not.

        A page that is not pinned stands for all of them.
        """
        kernel, pages = self._ground.kernel, batch.cache.get(self)
        facts = None if pages is None else pages.facts
        if kernel is None or facts is None:
            return ""
        found: Counter[str] = facts.once("labels", lambda: Counter(state_labels(kernel, facts)))
        return next((label for label in found if label.startswith("unpinned")), found.most_common(1)[0][0])

    def status(self) -> dict[str, Any]:
        """Figures and findings as plain values; see the reference of the report."""
        ground, counts = self._ground, self._examiner.counts
        return {
            "attached": ground.kernel is not None,
            "why_not": ground.attachment.why_not,
            "kernel": ground.attachment.release,
            "build_id": ground.attachment.build_id,
            "writes": self._writes,
            "bytes": self._bytes,
            "pages_checked": self._checked,
            "distinct_pages": int(np.count_nonzero(ground.seen)),
            "unchecked_writes": counts["unchecked"],
            "thorough_looks": counts["thorough"],
            "programs": len(ground.books),
            "fields": ground.fields,
            "verdicts": self._court.counts(),
            "hazards": [*self._hazards.to_json(), *(ground.contract.hazards() if ground.contract else ())],
            "oddities": ground.oddities.counts(),
            "states": ground.oddities.states.names(),
            "pins": ground.pins.status() if ground.pins is not None else {},
            "contract": ground.contract.status() if ground.contract is not None else {},
            "audit": self.audit.figures(),
            "defects": list(self._guard.defects),
        }

    def memory_changed(self) -> None:
        """Let go of all guest memory (it is looked up again when needed); for subscribers of the map."""
        if self._ground.attachment.stale:
            self._guard(self._ground.follow_map)

    # DmaObserver.

    def program(self, program: Program) -> None:
        """Remember the program; its pages are learnt now, or at its first write when not attached yet."""
        record = self._ground.books.open(program)
        if self._ground.ready():
            self._guard(lambda: self._examiner.learn(record))
            self._guard(lambda: self._examiner.announced(program))

    def gone(self, program_id: int) -> None:
        """The program's pages stay watched for their release."""
        ground = self._ground
        ground.books.retire(program_id)
        if ground.contract is not None:
            ground.contract.forget(program_id)
        if ground.fetches is not None:
            ground.fetches.gone(program_id)
        if ground.suspects is not None:
            ground.suspects.forget(program_id)

    def before_write(self, batch: Batch) -> None:
        """The first look."""
        ground = self._ground
        if ground.running is False:
            self._guard(lambda: self._examiner.wrote_while_off(batch))
        pages: BatchPages | None = batch.cache.get(self)
        if pages is None or ground.attachment.stale or not pages.fresh(ground.attachment.epoch):
            pages = self._examiner.pages_of(batch)
            if pages is None:
                self._examiner.counts["unchecked"] += 1
                return
        if pages.field != ground.fields:
            pages.field = ground.fields
            ground.recent.add(pages)
        pages.before = None
        contract = ground.contract
        pages.watch = contract.turn(pages.record.id) if contract is not None else None
        if not pages.still():
            if not pages.unchanged():
                self._guard(lambda: self._examiner.before(pages))
            if contract is not None and not contract.quiet(pages):
                self._guard(lambda: contract.before(pages))
        pages.first = pages.facts

    def after_write(self, batch: Batch) -> None:
        """The second look; whatever is bad is judged here."""
        ground, examiner = self._ground, self._examiner
        pages: BatchPages | None = batch.cache.get(self)
        if pages is None or pages.epoch is not ground.attachment.epoch:
            return
        self._writes += 1
        self._bytes += pages.size
        self._checked += pages.count
        if pages.partial:
            examiner.counts["unchecked"] += 1
        examiner.sentence, examiner.doubt, examiner.unjudged = None, None, False
        if pages.before is not None or not pages.still():
            self._look_closely(batch, pages)
        kernel = ground.kernel
        if pages.facts is not pages.pages.calm and kernel is not None:
            self._guard(lambda: self._hazards.wrote(kernel, batch, pages, ground.fields))
        if ground.suspects:
            self._guard(lambda: examiner.suspect(batch, pages))
        if ground.pins is not None and pages.written_version != ground.pins.table.version:
            ground.pins.table.mark_written(pages.pages.pfns)
            pages.written_version = ground.pins.table.version
        if self.audit.rate and not examiner.unjudged and self.audit.drawn():
            self._guard(lambda: examiner.judge_again(self.audit, pages))

    def _look_closely(self, batch: Batch, pages: BatchPages) -> None:
        """Something may have changed during a write, of the pages or of whose they are."""
        contract, quiet = self._ground.contract, True
        if pages.before is not None or not pages.unchanged():
            quiet = False
            self._guard(lambda: self._examiner.after(batch, pages))
        if contract is not None and not contract.quiet(pages):
            quiet = False
            self._guard(lambda: self._examiner.hold_to_contract(batch, pages))
        watch = contract.watch(pages.record.id) if contract is not None else None
        if quiet:
            if contract is not None:
                contract.wrote(pages.record.id)
            pages.rest(watch, watch.spots if watch is not None else [])

    def device_read(self, addr: int, length: int, origin: int) -> None:
        """Look at the pages of an instruction, unless they were looked at in this field."""
        fetches = self._ground.fetches
        if fetches is not None and not fetches.fresh(addr, length):
            self._guard(lambda: self._examiner.fetched(addr, length, origin))

    def aborted(self, addr: int, length: int, origin: int, write: bool, why: Abort) -> None:
        """A write that no RAM answered breaks rule V7; everything else is the driver's own affair."""
        oddities = self._ground.oddities
        if why is Abort.MASTER_DISABLED:
            oddities.add("bus-master-off")
        elif not write:
            oddities.add("fetch-aborted")
        else:
            self._guard(lambda: self._court.outside(OUTSIDE_RAM, addr, length, origin, why.value))

    def refused(
        self, rule: Rule, subject: str, address: int, physical: int, origin: int, notes: list[str]
    ) -> None:
        """A transfer that the guest's IOMMU refused, judged by who follows that (``vcapdev.dmacheck.iommu``).

        :param physical: the address that the bus address has led to; negative where that is not known.
        """
        kernel, pfn = self.kernel, physical >> PAGE_SHIFT
        page = (kernel, pfn) if kernel is not None and 0 <= pfn < kernel.vmemmap.pages else None
        with self._ground.judgement():
            self._guard(lambda: self._court.refused(rule, subject, address, origin, notes, page))

    def checkpoint(self, what: Checkpoint) -> None:
        """Look for released pins; attach at the start of DMA; forget everything at a reset."""
        ground = self._ground
        if what is Checkpoint.RESET:
            ground.reset()
        elif what is Checkpoint.DMA_START:
            ground.started()
            if not self.attached:
                self.attach()
        elif what is Checkpoint.REGISTER_WRITE:
            if ground.pins is not None and ground.kernel is not None and ground.pins.table.stirred():
                self._guard(self._look_at_pins)
        elif what is Checkpoint.DMA_STOP:
            ground.stopped()
            self._guard(self._look_at_pins)
        else:
            ground.next_field()
            self._guard(self._hear_of_pins)
            self._guard(self._examiner.linger)

    # Pins.

    def _look_at_pins(self) -> None:
        ground = self._ground
        if ground.pins is not None and not ground.judging and ground.ready():
            released = ground.pins.look()
            if released is not None:
                ground.books.released(released)

    def _hear_of_pins(self) -> None:
        """As :meth:`_look_at_pins`, where the vCPUs may be stopped to explain what was found."""
        self._look_at_pins()
        ground = self._ground
        if ground.pins is None or not ground.pins.heard:  # nearly always so
            return
        if not ground.judging and ground.kernel is not None:
            with ground.judgement():
                ground.pins.hear(ground.books.latest)
