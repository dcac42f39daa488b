# SPDX-License-Identifier: GPL-2.0-or-later
"""From a certain breach to a verdict: once for each kind, with the vCPUs stopped and everything explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import Batch, Describe, Origin
from vcapdev.dmacheck.breach import Breach
from vcapdev.dmacheck.fetches import Suspicion
from vcapdev.dmacheck.history import History
from vcapdev.dmacheck.ledger import Record
from vcapdev.dmacheck.look import BatchPages, Look
from vcapdev.dmacheck.rules import FETCH_CHANGED, NOT_DIRTIED, Rule
from vcapdev.dmacheck.verdict import Evidence, Target, Verdict, key_of
from vcapdev.dmacheck.witness import Testimony, gather
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE
from vcapdev.guestmm.pages import PageFacts, PageSet, among
from vcapdev.guestmm.pageview import page_kinds

_MAX_VERDICTS = 64  # kinds of findings that are explained; further ones are only counted
_UNSEEN = "pages that no DMA write was seen to"

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Case:
    """Everything about a batch whose pages were found bad."""

    kernel: Kernel
    batch: Batch
    pages: BatchPages
    before: Look | None
    after: Look | None
    when: str


class Court:
    """Collects verdicts. ``running`` drains, then says whether DMA still goes on."""

    def __init__(
        self,
        describe: Describe,
        pause: Callable[[], AbstractContextManager[bool]],
        running: Callable[[], bool],
        on_verdict: Callable[[Verdict], None],
        history: History,
    ) -> None:
        self._describe, self._pause, self._running = describe, pause, running
        self._on_verdict = on_verdict
        self._history = history
        self._by_key: dict[str, Verdict] = {}
        self._uncounted: dict[str, int] = {}

    @property
    def verdicts(self) -> list[Verdict]:
        """In the order in which they were first found."""
        return list(self._by_key.values())

    def counts(self) -> dict[str, int]:
        """Findings by rule name, repetitions included."""
        totals = dict(self._uncounted)
        for verdict in self._by_key.values():
            totals[verdict.rule.name] = totals.get(verdict.rule.name, 0) + verdict.count
        return totals

    def page_verdict(self, rule: Rule, case: Case, rows: Rows) -> bool:
        """A breach by a write. False when DMA turns out to be stopped once the vCPUs stand."""
        facts = _facts_of(case, rows)
        for kind, same in _by_kind(case.kernel, facts, rows).items():
            subject = f"DMA write to {_article(kind)}, program for {case.pages.record.kind}"
            known = self._known(rule, subject, len(same))
            if known is None:
                with self._pause() as stopped:
                    if stopped and not self._running():
                        return False
                    self._new(self._explain_write(rule, subject, case, same, stopped))
        return True

    def contract_verdict(self, breach: Breach, case: Case, confirm: Callable[[], list[str] | None]) -> bool:
        """A breach of the framework's contract. False when it is none once the vCPUs stand.

        :param confirm: looks again; gives lines of evidence, None if nothing is wrong.
        """
        if self._known(breach.rule, breach.subject, len(breach.rows)) is not None:
            return True
        with self._pause() as stopped:
            if stopped and not self._running():
                return False
            notes = confirm()
            if notes is None:
                return False
            new = self._explain_write(breach.rule, breach.subject, case, breach.rows, stopped, breach.piece)
            new.evidence.notes[:0] = notes
            self._new(new)
        return True

    def pin_verdict(
        self, rule: Rule, kernel: Kernel, facts: PageFacts, rows: Rows, records: Iterable[Record]
    ) -> None:
        """A breach that shows at a release or after the end, without a write at hand."""
        for kind, same in _by_kind(kernel, facts, rows).items():
            subject = _article(kind)
            if self._known(rule, subject, len(same)) is None:
                pfn = int(facts.pfn[same[0]])
                origin, target = _writer_of(pfn, records)
                with self._pause() as stopped:  # whoever is told may want the guest to stay as it is
                    evidence = self._evidence(kernel, facts, int(same[0]), stopped)
                    if any("(dirty" in owner for owner in evidence.owner_now) and rule is NOT_DIRTIED:
                        evidence.notes.append(
                            "the page table entry is dirty, so these data survive this time"
                        )
                    address, count = pfn << PAGE_SHIFT, len(same)
                    self._new(Verdict(rule, subject, pfn, address, origin, target, evidence, count, count))

    def leak_verdict(self, rule: Rule, confirm: Callable[[], tuple[int, str]]) -> None:
        """Pins of pages that no write ever went to; ``confirm`` counts them with the vCPUs stopped."""
        with self._pause() as stopped:
            count, text = confirm()
            if count > 0 and self._known(rule, _UNSEEN, count) is None:
                evidence = Evidence(notes=[text], stopped=stopped)
                self._new(Verdict(rule, _UNSEEN, -1, -1, None, None, evidence, count, count))

    def outside(self, rule: Rule, address: int, length: int, origin: int, why: str) -> None:
        """A write that no memory answered."""
        subject = f"DMA write refused, {why}"
        if self._known(rule, subject, 1) is None and self._running():
            evidence = Evidence(notes=[f"{length} bytes from {address:#x}: {why}"])
            pfn = address >> PAGE_SHIFT
            self._new(Verdict(rule, subject, pfn, address, self.explain(origin), None, evidence))

    def refused(
        self,
        rule: Rule,
        subject: str,
        address: int,
        origin: int,
        notes: list[str],
        page: tuple[Kernel, int] | None,
    ) -> None:
        """A breach of the DMA API.

        :param origin: negative where no transfer is at hand.
        :param page: the kernel, and the page frame that the address has led to; None where that is not known.
        """
        if self._known(rule, subject, 1) is not None:
            return
        with self._pause() as stopped:
            evidence, pfn = Evidence(stopped=stopped), -1
            if page is not None:
                kernel, pfn = page
                pages = PageSet(kernel, np.array([pfn], dtype=np.int64))
                pages.read()
                evidence = self._evidence(kernel, pages.facts(), 0, stopped)
            evidence.notes[:0] = notes
            said = None if origin < 0 else self.explain(origin)
            self._new(Verdict(rule, subject, pfn, address, said, None, evidence))

    def device_verdict(self, rule: Rule, subject: str, batch: Batch) -> None:
        """A breach that lies in the order of what the device did, whatever the pages are."""
        if not len(batch.addr) or self._known(rule, subject, len(batch.addr)) is not None:
            return
        address, last = int(batch.addr[0]), int(batch.addr[-1]) + int(batch.length[-1]) - 1
        size = int(batch.length.sum(dtype=np.int64))
        evidence = Evidence(notes=[f"{size} bytes in {len(batch.addr)} pieces, the last to {last:#x}"])
        origin = self.explain(int(batch.origin[0]))
        pfn, count = address >> PAGE_SHIFT, len(batch.addr)
        self._new(Verdict(rule, subject, pfn, address, origin, None, evidence, count, count))

    def fetch_verdict(
        self, kernel: Kernel, suspicion: Suspicion, origin: int, again: Callable[[], bool]
    ) -> bool:
        """A breach by a fetch. False when it is none once the vCPUs stand.

        :param again: looks again.
        """
        rule = suspicion.rule
        subject = f"fetch of instructions from {_article(suspicion.what)}"
        if rule is FETCH_CHANGED:
            subject = "instructions changed while they ran"
        if self._known(rule, subject, 1) is not None:
            return True
        with self._pause() as stopped:
            if (stopped and not self._running()) or not again():
                return False
            pages = PageSet(kernel, np.array([suspicion.address >> PAGE_SHIFT], dtype=np.int64))
            pages.read()
            evidence = self._evidence(kernel, pages.facts(), 0, stopped)
            evidence.notes.insert(0, f"at {suspicion.address:#x}, {suspicion.what}")
            said = None if origin < 0 else self.explain(origin)
            pfn = suspicion.address >> PAGE_SHIFT
            self._new(Verdict(rule, subject, pfn, suspicion.address, said, None, evidence))
        return True

    def _known(self, rule: Rule, subject: str, pages: int) -> Verdict | None:
        verdict = self._by_key.get(key_of(rule, subject))
        if verdict is not None:
            verdict.count += pages
        return verdict

    def _new(self, verdict: Verdict) -> None:
        if len(self._by_key) >= _MAX_VERDICTS:
            name = verdict.rule.name
            self._uncounted[name] = self._uncounted.get(name, 0) + verdict.count
            return
        self._by_key[verdict.key] = verdict
        self._on_verdict(verdict)

    def _explain_write(
        self, rule: Rule, subject: str, case: Case, rows: Rows, stopped: bool, blamed: int | None = None
    ) -> Verdict:
        """``blamed`` is the piece of the batch that did it, where that is not just the first in the page."""
        row, batch, record = int(rows[0]), case.batch, case.pages.record
        pfn = int(case.pages.pages.pfns[row])
        piece, first, last = _piece_in(batch, pfn, blamed)
        page, pages, offset = record.place(first)
        evidence = self._evidence(case.kernel, _facts_of(case, rows), row, stopped, case)
        return Verdict(
            rule,
            subject,
            pfn,
            first,
            self.explain(int(batch.origin[piece])),
            Target(record.id, record.address, page, pages, offset, offset + last - first),
            evidence,
            len(rows),
            len(rows),
        )

    def _evidence(
        self, kernel: Kernel, facts: PageFacts, row: int, stopped: bool, case: Case | None = None
    ) -> Evidence:
        known = None
        if case is not None:
            then = case.pages.record.identity(int(facts.pfn[row]))
            known = Testimony(case.before, case.after, then)
        return gather(kernel, facts, row, self._history, stopped, known)

    def explain(self, origin: int) -> Origin | None:
        """An origin explained, None where the device cannot."""
        try:
            return self._describe(origin)
        except (KeyError, IndexError, ValueError, LookupError):
            return None


def _writer_of(pfn: int, records: Iterable[Record]) -> tuple[Origin | None, Target | None]:
    """The program that last wrote to a page, as far as it is remembered."""
    for record in records:
        if among(np.array([pfn]), record.pfns).any():
            start, length = record.ranges[:, 0], record.ranges[:, 1]
            hits = (start // PAGE_SIZE <= pfn) & ((start + np.maximum(length, 1) - 1) // PAGE_SIZE >= pfn)
            first = max(int(start[hits][0]), pfn << PAGE_SHIFT) if hits.any() else pfn << PAGE_SHIFT
            page, pages, offset = record.place(first)
            size = int(length[hits].sum())
            text = f"a program of {len(record.ranges)} pieces, {size} bytes of it to this page"
            target = Target(record.id, record.address, page, pages, offset, offset + max(size, 1) - 1)
            return Origin(text, record.address), target
    return None, None


def _facts_of(case: Case, rows: Rows) -> PageFacts:
    """The facts of the look at which all these pages were bad."""
    before, after = case.before, case.after
    if after is None or (before is not None and not after.codes[rows].all()):
        assert before is not None
        return before.facts
    return after.facts


def _by_kind(kernel: Kernel, facts: PageFacts, rows: Rows) -> dict[str, Rows]:
    """Rows grouped by what their pages are."""
    kinds = page_kinds(kernel, facts)
    found: dict[str, list[int]] = {}
    for row in rows.tolist():
        found.setdefault(kinds[row], []).append(row)
    return {kind: np.array(same, dtype=np.intp) for kind, same in found.items()}


def _article(kind: str) -> str:
    if kind.startswith("memory"):
        return kind
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _piece_in(batch: Batch, pfn: int, blamed: int | None = None) -> tuple[int, int, int]:
    """The first piece that touches a page, or the one that is to be blamed.

    :return: ``(index, first byte in the page, last byte in the page)``.
    """
    shift = np.uint64(PAGE_SHIFT)
    last = batch.addr + np.maximum(batch.length, 1).astype(np.uint64) - np.uint64(1)
    hits = np.flatnonzero((batch.addr >> shift <= pfn) & (last >> shift >= pfn))
    low, high = pfn << PAGE_SHIFT, ((pfn + 1) << PAGE_SHIFT) - 1
    if not len(hits):
        return 0, low, high
    piece = blamed if blamed is not None and blamed in hits else int(hits[0])
    return piece, max(int(batch.addr[piece]), low), min(int(last[piece]), high)
