# SPDX-License-Identifier: GPL-2.0-or-later
"""One run: a device process, a guest, a capture in it. What was seen ends in a report, however the run ends.

Whoever starts a thing ends it: leaving the ``with`` block of :class:`Session` ends guest and device, then
removes the working directory.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from vcapdev.bt878.expected import expected_frame
from vcapdev.errors import GuestError
from vcapdev.report.model import Dma, RunReport, Verdict, audit_of
from vcapdev.run import capture as capturing
from vcapdev.run.attachments import Attachments
from vcapdev.run.capture import Capture, Stall
from vcapdev.run.debugger import Debugger
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair
from vcapdev.run.placement import better_together, put_together
from vcapdev.run.prepare import Prepared
from vcapdev.run.screen import Screen, Stage
from vcapdev.run.violation import OnViolation
from vcapdev.vm.agent import Agent, AgentGoneError, GuestTimeoutError, Process
from vcapdev.vm.watch import GuestCrash
from vcapdev.workdir import workdir

_RESCUE = 5.0  # seconds for the frame of a guest that has failed: to come, then to be read
_TURN = 0.1  # seconds between two looks at whether all children live
_SHOWN = 12  # lines of a kernel failure on the terminal
_LOOK_AT_VMSTAT = 2.0  # seconds between two looks at the guest's /proc/vmstat
_LOOK = 0.5  # seconds between two questions to the device about its counters

Json = dict[str, Any]


class Session:
    """Children and working directory of one run, and the report that grows from it."""

    def __init__(self, options: RunOptions, prepared: Prepared, screen: Screen) -> None:
        self.options = options
        self.screen = screen
        self.capture = Capture()
        self.report = RunReport(
            kernel=prepared.describe_kernel(options),
            qemu=prepared.describe_qemu(),
            settings=options.settings(),
            packages=prepared.packages(),
            warnings=prepared.warnings(),
            stages=screen.stages,
            frames=self.capture.frames,
        )
        self.report.frames.wanted = options.frames
        self.report.swap.kind, self.report.swap.pressure = options.swap, options.pressure
        self.report.swap.note = capturing.note_on_pressure(options)
        self._prepared = prepared
        self._stack = ExitStack()
        self._shown: set[str] = set()  # findings that the screen has had
        self._stall = Stall(time.monotonic())
        self._process: Process | None = None  # that captures
        self._status: Json = {}
        self._usage: Json = {}  # of the device process while capturing
        self._vmstat: dict[str, int] = {}

    def __enter__(self) -> Session:
        self.work = self._stack.enter_context(workdir())
        self.attachments = Attachments(self.options, self.work)
        self.pair = Pair(self.options, self._prepared, self.work, self.screen.progress, alone=True)
        self.device, self.vm = self.pair.device, self.pair.vm
        self._on_violation = OnViolation(self.options, self.screen, self.device, self.vm, self.report)
        self.debugger = Debugger(self.options, self._prepared, self.vm, self.screen, self._excuse)
        # Whatever waits for the guest while a finding or gdb holds it waits in vain, until it goes on.
        if self.debugger.wanted:
            self.vm.on_turn = self.debugger.turn
        elif self._on_violation.wanted:
            self.vm.on_turn = self.show_events
        self._stack.callback(self.stop)
        self.report.command_line = {
            "vcapdev": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "serve": self.device.command_line(),
            "qemu": self.vm.command_line(),
        }
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def stop(self) -> None:
        """End guest and device; harmless when repeated."""
        self.pair.stop()

    def run(self) -> RunReport:
        """All stages behind "prepare". A guest, QEMU or device that fails ends up in the report.

        :raise VcapdevError: what is wrong with the machine or the options.
        """
        try:
            agent = self._boot()
            if self.debugger.wanted:
                self.debugger.loaded(agent)
            self._capture(agent)
            self._settle(agent)
        except GuestError as error:
            self._fail(error)
            self._rescue_frame(error)
        self._last_look()
        self._last_findings()
        self.stop()
        self.attachments.logs(self.vm)
        self.attachments.lock(self._prepared, self.report.kernel)
        self.report.guest_log.notes = [incident.title for incident in self.vm.watch.reports]
        return self.report

    def start(self, stage: Stage) -> Agent:
        """Start device and guest, and wait until the guest answers."""
        self.debugger.booting()
        agent = self.pair.start()
        stage.note = f"Linux {agent.hello['release']}" if agent.hello else ""
        return agent

    def show_events(self) -> None:
        """Print what the device has found since the last look."""
        for event in self.device.events():
            if event.get("event") == "verdict":
                self._show_verdict(event["verdict"])
            elif event.get("event") == "held":
                begin = time.monotonic()
                self._on_violation.held(event)
                self._excuse(time.monotonic() - begin)

    def _excuse(self, seconds: float) -> None:
        """The guest stood still for so long, for a reason."""
        self._stall.restart(time.monotonic())
        self.vm.agent.excuse(seconds)

    # -- stages

    def _boot(self) -> Agent:
        with self.screen.stage("boot") as stage:
            return self.start(stage)

    def _capture(self, agent: Agent) -> None:
        with self.screen.stage("capture") as stage:
            options = self.options
            expected = expected_frame(
                options.norm, options.format, options.width, options.height, options.field
            )
            agent.push(expected.file(), capturing.EXPECT)
            self._vmstat = capturing.vmstat(agent)
            shared = self._share_cpu()
            hog = capturing.start_hog(agent, options)
            begin, (cpu, _) = time.monotonic(), self.device.usage()
            self.attachments.begin(self.device)
            process = agent.spawn(capturing.capture_command(options), on_stdout=self.capture.line)
            self._process = process
            self._watch(agent, process)
            cpu_end, memory = self.device.usage()
            self._usage = {
                "cpu_share": round((cpu_end - cpu) / (time.monotonic() - begin), 3),
                "memory_mb": round(memory / 1e6, 1),
                "shares_cpu": shared,
            }
            assert process.status is not None
            self.report.failure = capturing.explain_exit(process.status, process.stderr, self.capture.frames)
            self.attachments.states(self.device, self.capture.saved)
            self.attachments.frame(agent)
            stage.note = self._live_text()
            capturing.end_hog(hog)

    def _share_cpu(self) -> bool:
        """Put guest and card on one CPU where they only ever take turns, and the machine rewards it."""
        if self.options.clock != "fast" or self.options.cpus > 1 or not better_together():
            return False
        return put_together(pid for pid in (self.vm.pid, self.device.pid) if pid is not None)

    def _watch(self, agent: Agent, process: Process) -> None:
        """Turn everything until the capture program has ended."""
        stall = self._stall = Stall(time.monotonic())
        next_look = next_vmstat = 0.0
        while process.status is None:
            agent.pump(_TURN)
            self.show_events()
            self.attachments.states(self.device, self.capture.saved)
            now = time.monotonic()
            stall.check(self.capture.frames.captured, now)
            if now >= next_look:
                next_look = now + _LOOK
                self._status = self.device.call("check-status")
                self.screen.live(self._live_text())
            if now >= next_vmstat:
                next_vmstat = now + _LOOK_AT_VMSTAT
                self._take_vmstat(capturing.vmstat(agent))

    def _settle(self, agent: Agent) -> None:
        with self.screen.stage("settle") as stage:
            self._take_vmstat(capturing.vmstat(agent))
            self.report.pins.left = self.pair.pins_left(agent)
            stage.note = f"{self.report.pins.left} pages left pinned"
            self.pair.hear_out(agent)

    # -- what was seen

    def _take_vmstat(self, after: dict[str, int]) -> None:
        def growth(name: str) -> int:
            return max(0, after.get(name, 0) - self._vmstat.get(name, 0))

        swap, pins = self.report.swap, self.report.pins
        swap.pages_out, swap.pages_in = growth("pswpout"), growth("pswpin")
        pins.acquired, pins.released = growth("nr_foll_pin_acquired"), growth("nr_foll_pin_released")

    def _last_look(self) -> None:
        """The device's own record of everything; it is complete even where an event was lost."""
        report = self.report
        with suppress(GuestError):
            self.show_events()
            self._status = self.device.call("check-status")
            verdicts = self.device.call("verdicts")["verdicts"]
            report.verdicts = [Verdict.from_checker(verdict) for verdict in verdicts]
            report.device = self.device.call("stats") | self._usage
        status = self._status
        report.dma = Dma(
            writes=int(status.get("writes", 0)),
            bytes=int(status.get("bytes", 0)),
            pages_checked=int(status.get("pages_checked", 0)),
            distinct_pages=int(status.get("distinct_pages", 0)),
            checker="attached" if status.get("attached") else str(status.get("why_not") or "not attached"),
        )
        report.dma.unchecked = int(status.get("unchecked_writes", 0))
        report.dma.defects = [str(defect) for defect in status.get("defects", [])]
        report.iommu = status.get("iommu")
        report.audit = audit_of(status)
        if report.audit is not None:
            report.dma.defects += report.audit.defects()
        report.oddities = {name: int(count) for name, count in status.get("oddities", {}).items()}
        report.hazards = list(status.get("hazards", []))
        report.swap.buffer_pages_out = self.capture.swapped_pages
        report.swap.pageout_error = self.capture.pageout_error
        pins = status.get("pins") or {}
        report.pins.clean_at_pin = int(pins.get("judged_clean_before", 0))
        report.pins.ledger = pins.get("ledger", {})

    def _last_findings(self) -> None:
        """What the card did until its guest was ended counts, too: a program may have gone on capturing."""
        self.vm.stop(ask=self.device.running)
        with suppress(GuestError):
            verdicts = self.device.call("verdicts")["verdicts"]
            for verdict in verdicts:
                self._show_verdict(verdict)
            self.report.verdicts = [Verdict.from_checker(verdict) for verdict in verdicts]

    def _fail(self, error: GuestError) -> None:
        if isinstance(error, AgentGoneError):
            error = self.pair.why_gone(error)
        if self.report.failure is None:
            self.report.failure = str(error).rstrip(".")
        if isinstance(error, GuestCrash):
            self.report.guest_log.reports.append(error.kernel_log)
            lines = error.kernel_log.splitlines()
            more = f"\n... {len(lines) - _SHOWN} more lines, see kernel.log" if len(lines) > _SHOWN else ""
            self.screen.show("\n".join(lines[:_SHOWN]) + more)
        elif isinstance(error, GuestTimeoutError):
            with suppress(GuestError):
                self.vm.check()

    def _rescue_frame(self, error: GuestError) -> None:
        """The pictures of a run that ended early, where the guest can still be asked for its frame."""
        silent = isinstance(error, GuestTimeoutError | AgentGoneError) or self.vm.watch.crashed
        if self.options.report is None or silent or self.attachments.files:
            return
        process, end = self._process, time.monotonic() + _RESCUE
        with suppress(GuestError):  # the first finding may well come before the first frame
            while self.capture.saved is None and process is not None and process.status is None:
                if time.monotonic() > end:
                    return
                self.vm.agent.pump(_TURN)
            self.attachments.states(self.device, self.capture.saved)
            self.attachments.frame(self.vm.agent, timeout=_RESCUE)

    def _show_verdict(self, verdict: Json) -> None:
        key = str(verdict.get("key"))
        if key not in self._shown:
            self._shown.add(key)
            self.report.verdicts.append(Verdict.from_checker(verdict))
            self.screen.show(str(verdict.get("splat", "")))

    def _live_text(self) -> str:
        frames, status = self.capture.frames, self._status
        verdicts = sum(status.get("verdicts", {}).values())
        return (
            f"{frames.captured}/{frames.wanted} frames, {frames.per_second:.1f} fps,"
            f" {status.get('pages_checked', 0)} pages checked,"
            f" {self.report.swap.pages_out} pages swapped, {verdicts} verdicts"
        )
