# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a guest's kernel log, from /dev/kmsg or from a serial console, and finds what went wrong in it.

Pure: text goes in, :class:`Incident` objects come out. The message texts are those of Linux 5.10 to 7.x
(kernel/panic.c, arch/x86/mm/fault.c, mm/page_poison.c, mm/slub.c, kernel/locking/lockdep.c, kernel/rcu,
kernel/watchdog.c, kernel/hung_task.c).
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple


class Record(NamedTuple):
    """One line of the kernel log."""

    usec: int  # since the guest's boot; both sources print the same value for the same line
    text: str
    level: int | None = None  # 0 (emergency) to 7 (debug); the console does not tell
    kernel: bool = True  # False: a user program wrote it to /dev/kmsg

    def __str__(self) -> str:
        return f"[{self.usec // 1000000:5d}.{self.usec % 1000000:06d}] {self.text}"


class Kind(NamedTuple):
    """A sort of incident, and the line that begins one."""

    name: str
    pattern: re.Pattern[str]
    failure: bool  # False: worth a mention, but a slow host can cause it


def _kind(name: str, pattern: str, failure: bool = True) -> Kind:
    return Kind(name, re.compile(pattern), failure)


# The first that matches counts, so the particular stands before the general.
KINDS = (
    _kind("soft-lockup", r"^(watchdog: )?BUG: soft lockup", False),
    _kind("soft-lockup", r"^BUG: workqueue lockup", False),
    _kind("hard-lockup", r"Watchdog detected hard LOCKUP", False),
    _kind("rcu-stall", r"^(rcu: )?INFO: \w+ (self-)?detected (expedited )?stall", False),
    _kind("rcu-stall", r"^rcu: \w+ kthread (starved|timer wakeup)", False),
    _kind("hung-task", r"^INFO: task .+ blocked (in I/O wait )?for more than \d+ seconds", False),
    _kind("out-of-memory", r"^(Memory cgroup out|Out) of memory: Killed process", False),
    _kind("segfault", r"^(traps: )?\S+\[\d+\]:? (segfault at|general protection fault|trap )", False),
    _kind("panic", r"^Kernel panic - not syncing"),
    _kind("page-poison", r"^pagealloc: (memory corruption|single bit error)"),
    _kind("page-poison", r"^check_poison|^.*pagealloc: corrupted page details"),
    _kind("kasan", r"^BUG: K(A|M|C)SAN: |^kasan: "),
    _kind("kfence", r"^BUG: KFENCE: "),
    _kind("ubsan", r"^UBSAN: "),
    _kind("lockdep", r"^WARNING: (possible|suspicious|inconsistent|bad (unlock|contention)|lock held)"),
    _kind("lockdep", r"^WARNING: (held lock|Nested lock) |^\[ BUG: "),
    _kind("lockdep", r"^WARNING: (.*-safe -> .*-unsafe|.* still has locks held)"),
    _kind("lockdep", r"^INFO: (possible|trying to register non-static key)"),
    _kind("warning", r"^WARNING: "),
    _kind("bad-page", r"^BUG: Bad (page|rss)"),
    _kind("slab", r"^BUG [\w:.-]+ \(.*\): "),
    _kind("atomic", r"^BUG: (sleeping function called|scheduling while atomic|using )"),
    _kind("bug", r"^kernel BUG at "),
    _kind("oops", r"^BUG: |^Oops|^Unable to handle kernel|^(traps: )?PANIC: "),
    _kind("oops", r"^general protection fault|^(invalid opcode|divide error|stack segment|int3): "),
    _kind("oops", r"^#(PF|GP|DF|UD): |^unchecked MSR access"),
)

_CUT = re.compile(r"^-+\[ cut here \]-+$|^={20,}$")
_END = re.compile(r"^---\[ end (trace|Kernel panic)")
_KMSG = re.compile(r"^(\d+),(\d+),(\d+),([^;]*);(.*)$")
_CONSOLE = re.compile(r"^(?:<\d+>)?\[ *(\d+)\.(\d{6})\](?:\[[^\]]*\])? (.*)$")
_DUMP = re.compile(r"^[0-9a-f]{8,16}: (?:[0-9a-f]{2} ){8}")
_DUMP_LINES = 8  # of a hex dump that are kept: page poison dumps a whole page before its call trace
_SLICE_LINES = 150  # a panic with registers and two call traces is about 90
_SILENCE = 2_000_000  # microseconds of guest time after which a story without an end marker is over
_AFTER_END = 100_000  # and after an end marker: an oops repeats its registers, then may panic


def parse_kmsg(data: bytes) -> Record | None:
    """One read of /dev/kmsg (Documentation/ABI/testing/dev-kmsg); None for what is not a record."""
    match = _KMSG.match(data.decode("utf-8", "replace").split("\n", 1)[0])
    if match is None:
        return None
    priority = int(match[1])
    return Record(int(match[3]), _unescape(match[5]), priority & 7, priority >> 3 == 0)


def parse_console(line: str) -> Record | None:
    """One line of a serial console; None for what is not the kernel's (no time stamp in front)."""
    match = _CONSOLE.match(line.rstrip("\r\n"))
    if match is None:
        return None
    return Record(int(match[1]) * 1000000 + int(match[2]), match[3])


def classify(record: Record) -> Kind | None:
    """The kind of incident that this line begins, or None."""
    if not record.kernel:
        return None
    return next((kind for kind in KINDS if kind.pattern.search(record.text)), None)


def _unescape(text: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text)


@dataclass
class Incident:
    """Something that the kernel complained about."""

    kind: str
    failure: bool
    title: str  # the line that tells it
    usec: int  # of that line, since boot
    records: list[Record] = field(default_factory=list)
    complete: bool = False  # the end marker was seen, or the slice is full
    panicked: bool = False  # the kernel gave up after it
    dumped: int = 0  # lines of hex dump seen; only the first of them are kept

    @property
    def text(self) -> str:
        """Its slice of the kernel log."""
        return "\n".join(str(record) for record in self.records)


class KernelLog:
    """The log of one source, in order, and the incidents in it."""

    def __init__(self, keep: int = 20000) -> None:
        self.records: deque[Record] = deque(maxlen=keep)
        self.incidents: list[Incident] = []
        self.lost = 0  # times that the source overran
        self._open: Incident | None = None

    def feed(self, record: Record) -> Incident | None:
        """Add a line; the incident that begins with it, if one does.

        Lines up to the end marker, and right behind it, belong to the open incident, and so do complaints
        among them; only a failure ends a mere report.
        """
        previous = self.records[-1] if self.records else None
        self.records.append(record)
        kind = classify(record)
        if kind is not None and self._begins(kind):
            return self._begin(kind, record, previous)
        if self._open is not None:
            self._continue(self._open, record, kind)
        return None

    @property
    def text(self) -> str:
        """All lines that are kept."""
        return "\n".join(str(record) for record in self.records)

    def _begins(self, kind: Kind) -> bool:
        current = self._open
        if current is None:
            return True
        if kind.name == "panic" and current.failure:
            return False  # the end of that story, even after its end marker
        return current.complete or (kind.failure and not current.failure)

    def _begin(self, kind: Kind, record: Record, previous: Record | None) -> Incident:
        incident = Incident(kind.name, kind.failure, record.text, record.usec)
        if previous is not None and _CUT.match(previous.text):
            incident.records.append(previous)
        incident.records.append(record)
        incident.panicked = kind.name == "panic"
        self.incidents.append(incident)
        self._open = incident
        return incident

    @staticmethod
    def _full(incident: Incident) -> bool:
        return len(incident.records) >= _SLICE_LINES

    def _continue(self, incident: Incident, record: Record, kind: Kind | None) -> None:
        silence = record.usec - incident.records[-1].usec
        if kind is not None and kind.name == "panic":
            incident.panicked = True
            incident.complete = False
        elif silence > (_AFTER_END if incident.complete else _SILENCE) or self._full(incident):
            incident.complete = True
            self._open = None
            return
        if _DUMP.match(record.text):
            incident.dumped += 1
        if incident.dumped <= _DUMP_LINES or not _DUMP.match(record.text):
            incident.records.append(record)
        if _END.match(record.text) or self._full(incident):
            incident.complete = True
