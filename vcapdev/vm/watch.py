# SPDX-License-Identifier: GPL-2.0-or-later
"""Notices within a second that a guest failed, whoever tells it first.

Three sources are watched: the kernel log that the agent streams (all levels), the serial console (works when
the agent is dead), and QEMU's events. A failure is held back for a moment, so that the exception carries the
whole story, then ends every wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vcapdev.errors import GuestError
from vcapdev.vm.console import ConsoleTail
from vcapdev.vm.kernel_log import Incident, KernelLog, Record, parse_console, parse_kmsg
from vcapdev.vm.qmp import Qmp

_SETTLE = 0.6  # seconds to wait for the rest of a failure's log lines
_SETTLE_STOPPED = 0.1  # when the guest stands still, only buffered lines are to come


class GuestCrash(GuestError):  # noqa: N818 (the name of the contract: what happened, not an error of ours)
    """The guest's kernel failed, or the guest ended by itself."""

    def __init__(self, kind: str, title: str, kernel_log: str, *, fatal: bool) -> None:
        """:param kind: one of ``kernel_log.KINDS``, "reset" or "shutdown"; :param fatal: it runs no more."""
        super().__init__(f"the guest's kernel failed ({kind}): {title}")
        self.kind = kind
        self.title = title
        self.kernel_log = kernel_log
        self.fatal = fatal


class CrashWatch:
    """Collects what the sources tell about one guest."""

    def __init__(self, console: ConsoleTail, now: Callable[[], float] = time.monotonic) -> None:
        self.kmsg = KernelLog()
        self.console_log = KernelLog()
        self.reports: list[Incident] = []  # what a slow host can cause, and deaths of user programs
        self.qmp: Qmp | None = None
        self.stopped: str | None = None  # why QEMU stopped the guest: "reset" or "shutdown"
        self._console = console
        self._now = now
        self._seen: set[tuple[int, str]] = set()
        self._pending: Incident | None = None
        self._due = 0.0
        self._fatal: GuestCrash | None = None

    def feed_kmsg(self, data: bytes) -> None:
        """A record of the guest's /dev/kmsg."""
        record = parse_kmsg(data)
        if record is not None:
            self._feed(self.kmsg, record)

    def kmsg_lost(self) -> None:
        """The guest's log overran before the agent read it."""
        self.kmsg.lost += 1

    def poll(self) -> None:
        """Look at console and events; raise a failure whose story is complete.

        :raise GuestCrash: once for each failure; after a fatal one, always.
        """
        self._poll_console()
        self._poll_events()
        if self._fatal is not None:
            raise self._fatal
        if self._pending is not None and self._now() >= self._due:
            self._raise_pending(self._pending)
        if self._pending is None and self.stopped is not None and self._now() >= self._due:
            raise self._ended(self.stopped)

    @property
    def pending(self) -> bool:
        """Whether a failure was seen that :meth:`poll` will raise once its story is complete."""
        return self._pending is not None or (self.stopped is not None and self._fatal is None)

    @property
    def crashed(self) -> bool:
        """Whether the guest can do nothing more."""
        return self._fatal is not None or self.stopped is not None

    def log_text(self) -> str:
        """The whole kernel log: the agent's, then what only the console got to see."""
        last = self.kmsg.records[-1].usec if self.kmsg.records else -1
        rest = [str(record) for record in self.console_log.records if record.usec > last]
        return "\n".join(filter(None, [self.kmsg.text, *rest]))

    def _feed(self, log: KernelLog, record: Record) -> None:
        incident = log.feed(record)
        if incident is None or (incident.usec, incident.title) in self._seen:
            return
        self._seen.add((incident.usec, incident.title))
        if not incident.failure:
            self.reports.append(incident)
        elif self._pending is None:
            self._pending = incident
            self._due = self._now() + _SETTLE

    def _poll_console(self) -> None:
        for line in self._console.poll():
            record = parse_console(line)
            if record is not None:
                self._feed(self.console_log, record)

    def _poll_events(self) -> None:
        if self.qmp is None or self.qmp.closed:
            return
        self.qmp.poll()
        while self.qmp.events:
            self._event(self.qmp.events.popleft())

    def _event(self, event: dict[str, Any]) -> None:
        name, data = event.get("event"), event.get("data") or {}
        by_guest = name == "SHUTDOWN" and data.get("guest")
        if name == "GUEST_PANICKED" or (name == "RESET" and data.get("guest")) or by_guest:
            reset = name != "SHUTDOWN" or "reset" in str(data.get("reason"))
            self.stopped = "reset" if reset else "shutdown"
            self._due = self._now() + _SETTLE_STOPPED

    def _raise_pending(self, incident: Incident) -> None:
        self._pending = None
        if not self._feigned(incident):
            raise self._crash(incident)

    def _feigned(self, incident: Incident) -> bool:
        """Whether a program wrote it to /dev/kmsg, which only the agent's stream tells from the kernel's."""
        told = ((record.usec, record.text) for record in self.kmsg.records if not record.kernel)
        return (incident.usec, incident.title) in told

    def _crash(self, incident: Incident) -> GuestCrash:
        told = [self._same(log, incident) for log in (self.kmsg, self.console_log)]
        stories = [one for one in told if one is not None] or [incident]
        panicked = self.stopped is not None or any(one.panicked for one in stories)
        text = max((one.text for one in stories), key=len)
        crash = GuestCrash(incident.kind, incident.title, text, fatal=panicked)
        if panicked:
            self._fatal = crash
        return crash

    @staticmethod
    def _same(log: KernelLog, incident: Incident) -> Incident | None:
        return next((i for i in log.incidents if (i.usec, i.title) == (incident.usec, incident.title)), None)

    def _ended(self, how: str) -> GuestCrash:
        tail = "\n".join(self._console.last_lines(20))
        title = "it rebooted by itself" if how == "reset" else "it switched itself off"
        self._fatal = GuestCrash(how, title, tail, fatal=True)
        return self._fatal
