# SPDX-License-Identifier: GPL-2.0-or-later
"""What one run found out: the single source of the terminal summary and of ``report.json``.

``docs/report.schema.json`` is the contract of :meth:`RunReport.to_json`; ``docs/report.md`` explains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vcapdev import __version__
from vcapdev.errors import ExitStatus

SCHEMA_VERSION = 1
Json = dict[str, Any]


@dataclass(slots=True)
class Kernel:
    """The guest kernel under test."""

    recipe: str  # name in images/
    release: str  # uname -r
    image: str  # path of the kernel image: the package's, or the one given
    replaced_modules: list[str] = field(default_factory=list)
    mutant: str | None = None
    modules: list[Json] = field(default_factory=list)  # what replaced stock ones: file, compiler
    built_from: list[Json] = field(default_factory=list)  # the packages of a mutant's build


@dataclass(slots=True)
class QemuInfo:
    """The emulator that ran it."""

    version: str
    source: str  # where it came from, as ``vcapdev doctor`` says it
    accelerator: str
    accelerator_reason: str


@dataclass(slots=True)
class Frames:
    """What the capture program saw."""

    wanted: int = 0
    captured: int = 0  # good ones: the capture goes on until all that are wanted have come
    intact: int = 0
    dropped: int = 0
    torn: int = 0
    damaged: int = 0  # stale, misplaced or changed bytes
    errors: int = 0  # given back by the driver with the error flag; not among the captured
    per_second: float = 0.0  # between the first frame and the last
    bad: list[Json] = field(default_factory=list)  # the first damaged places, as the guest located them


@dataclass(slots=True)
class Dma:
    """What the checker saw at the bus master."""

    writes: int = 0
    bytes: int = 0
    pages_checked: int = 0
    distinct_pages: int = 0
    unchecked: int = 0  # writes before the checker was attached
    checker: str = "not attached"  # "attached", else why it could not
    defects: list[str] = field(default_factory=list)  # of the checker itself


@dataclass(slots=True)
class Swap:
    """What was claimed about memory pressure, and what really happened."""

    kind: str = "none"
    pressure: str = "none"
    pages_out: int = 0  # growth of pswpout in the guest's /proc/vmstat
    pages_in: int = 0  # growth of pswpin
    buffer_pages_out: int = 0  # capture buffer pages seen swapped out in /proc/PID/pagemap
    pageout_error: str | None = None  # why MADV_PAGEOUT on a buffer failed in the guest
    note: str | None = None  # what the pressure leaves out


@dataclass(slots=True)
class Pins:
    """Page pins by the guest's own count, ``/proc/vmstat`` nr_foll_pin_acquired and _released."""

    acquired: int = 0
    released: int = 0
    left: int = 0  # by the checker's own look at struct page after the device was closed
    clean_at_pin: int = 0  # released pages that were clean while pinned; only those can show a lost dirty bit
    ledger: Json = field(default_factory=dict)  # the checker's accounts, one for each buffer


@dataclass(slots=True)
class Verdict:
    """One violated rule, as ``vcapdev.dmacheck.verdict.Verdict.to_json`` puts it; repeats are counted."""

    rule: str
    sentence: str
    pfn: int
    instruction: Json | None  # decoded text, bus address, frame, field, line; None when nothing was written
    owner: Json  # "then" and "now": lines of text
    evidence: Json  # page before, after and now, history, notes
    count: int = 1
    splat: str = ""
    more: Json = field(default_factory=dict)  # id, severity, certainty, address, buffer, pages

    @classmethod
    def from_checker(cls, verdict: Json) -> Verdict:
        """Take over what the checker said."""
        own = [item.name for item in fields(cls) if item.name != "more"]
        known = {name: verdict[name] for name in own if name in verdict}
        rest = {name: value for name, value in verdict.items() if name not in known and name != "key"}
        return cls(**known, more=rest)


@dataclass(slots=True)
class Audit:
    """What came of judging a random sample of judgements again with the vCPUs stopped (docs/audit.md)."""

    rate: float
    seed: int
    judgements: int = 0
    pages: int = 0
    clean: int = 0  # pages that the live look found clean
    bad: int = 0
    agreed: int = 0
    turned: int = 0  # clean, then changed, and bad by the time that the vCPUs stood
    mended: int = 0  # bad, then changed, and clean by the time that the vCPUs stood
    disagreed: int = 0
    raced_with_stop: int = 0  # judgements: DMA was stopped before the vCPUs were
    not_stopped: int = 0  # judgements: the vCPUs could not be stopped
    disagreements: list[str] = field(default_factory=list)  # the first ones, in words

    def defects(self) -> list[str]:
        """What it says about the checker itself."""
        if not self.disagreed:
            return []
        first = self.disagreements[0] if self.disagreements else "none was kept"
        return [f"{self.disagreed} of {self.pages} audited pages were judged otherwise live; first: {first}"]


def audit_of(status: Json) -> Audit | None:
    """From the checker's status; None where no audit was asked for."""
    figures = status.get("audit") or {}
    return Audit(**figures) if figures.get("rate") else None


@dataclass(slots=True)
class GuestLog:
    """Where the guest's own words are, and what in them matters."""

    console: str = "console.log"
    kernel: str = "kernel.log"
    reports: list[str] = field(default_factory=list)  # oops, WARNING, page poison: slices of the log
    notes: list[str] = field(default_factory=list)  # slow-host messages: soft lockup, RCU stall


@dataclass(slots=True)
class RunReport:
    """Everything that one ``vcapdev run`` has to say."""

    kernel: Kernel
    qemu: QemuInfo
    settings: Json  # the options of the run, as given or defaulted
    packages: Sequence[Mapping[str, str]] = ()
    warnings: list[str] = field(default_factory=list)
    command_line: dict[str, list[str]] = field(default_factory=dict)  # "vcapdev", "serve", "qemu"
    stages: dict[str, float] = field(default_factory=dict)  # name: seconds
    frames: Frames = field(default_factory=Frames)
    dma: Dma = field(default_factory=Dma)
    swap: Swap = field(default_factory=Swap)
    pins: Pins = field(default_factory=Pins)
    verdicts: list[Verdict] = field(default_factory=list)
    audit: Audit | None = None
    iommu: Json | None = None  # figures of maps behind a vIOMMU, see vcapdev.dmacheck.iommu
    oddities: dict[str, int] = field(default_factory=dict)
    hazards: list[Json] = field(default_factory=list)  # no bug of the driver, but data may be lost
    device: Json = field(default_factory=dict)  # hand-shake time-outs, unmodelled register bits ...
    guest_log: GuestLog = field(default_factory=GuestLog)
    failure: str | None = None  # what ended the run early
    exit_status: ExitStatus = ExitStatus.GUEST
    sentence: str = ""  # the result in one plain sentence

    def to_json(self) -> Json:
        """The report as plain JSON values, after ``docs/report.schema.json``."""
        body = asdict(self)
        body["packages"] = [dict(package) for package in self.packages]
        body["exit_status"] = int(self.exit_status)
        return {"schema": SCHEMA_VERSION, "vcapdev": __version__, **body}
