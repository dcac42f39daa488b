# SPDX-License-Identifier: GPL-2.0-or-later
"""One run: a device process, a guest, a capture in it. What was seen ends in a report, however the run ends.

Whoever starts a thing ends it: leaving the ``with`` block of :class:`Session` ends the guest first (by its
process id, without asking when the device is dead, since QEMU may then hang in a register access), then the
device, then removes the working directory.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from vcapdev.bt878.expected import expected_frame
from vcapdev.errors import GuestError
from vcapdev.report.model import Dma, RunReport, Verdict
from vcapdev.run import capture as capturing
from vcapdev.run.attachments import Attachments
from vcapdev.run.capture import Capture, Stall
from vcapdev.run.device import DeviceProcess
from vcapdev.run.options import RunOptions
from vcapdev.run.placement import better_together, put_together
from vcapdev.run.prepare import Prepared
from vcapdev.run.screen import Screen, Stage
from vcapdev.serve.options import ServeOptions
from vcapdev.vm.agent import Agent, AgentGoneError, GuestTimeoutError, Process
from vcapdev.vm.commandline import VmConfig
from vcapdev.vm.machine import Vm
from vcapdev.vm.watch import GuestCrash

_BOOT = 180.0  # seconds; 6 on an idle machine without KVM
_ATTACH = 30.0  # seconds for the checker to find the guest's kernel; 1 on an idle machine
_TURN = 0.1  # seconds between two looks at whether all children live
_PATIENCE = (
    3.0  # seconds that buffers may stay pinned after the device was closed, and a failure be held back
)
_SHOWN = 12  # lines of a kernel failure on the terminal
_LOOK_AT_VMSTAT = 2.0  # seconds between two looks at the guest's /proc/vmstat
_LOOK = 0.5  # seconds between two questions to the device about its counters

Json = dict[str, Any]


class WatchedVm(Vm):
    """A guest whose every wait also notices the end of the device process."""

    def __init__(self, config: VmConfig, device: DeviceProcess) -> None:
        super().__init__(config)
        self._device = device

    def check(self) -> None:
        self._device.check()
        super().check()


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
        self._prepared = prepared
        self._stack = ExitStack()
        self._shown: set[str] = set()  # findings that the screen has had
        self._status: Json = {}
        self._usage: Json = {}  # of the device process while capturing
        self._vmstat: dict[str, int] = {}

    def __enter__(self) -> Session:
        work = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vcapdev-"))
        self.work = Path(work)
        self.attachments = Attachments(self.options, self.work)
        self.device = DeviceProcess(self._serve_options(), self.work / "device.log")
        self.vm = WatchedVm(self._vm_config(), self.device)
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
        self.vm.stop(ask=self.device.running)
        self.device.stop()

    def run(self) -> RunReport:
        """All stages behind "prepare". A guest, QEMU or device that fails ends up in the report.

        :raise VcapdevError: what is wrong with the machine or the options.
        """
        try:
            agent = self._boot()
            self._capture(agent)
            self._settle(agent)
        except GuestError as error:
            self._fail(error)
        self._last_look()
        self.stop()
        self.attachments.logs(self.vm)
        self.attachments.lock(self._prepared)
        self.report.guest_log.notes = [incident.title for incident in self.vm.watch.reports]
        return self.report

    def start(self, stage: Stage) -> Agent:
        """Start device and guest, and wait until the guest answers."""
        self.device.start()
        self.vm.start()
        agent = self.vm.wait_agent(_BOOT)
        self._wait_checker(agent)
        stage.note = f"Linux {agent.hello['release']}" if agent.hello else ""
        return agent

    def _wait_checker(self, agent: Agent) -> None:
        """Give the checker time to find the kernel; if it cannot, the run will say so, and fail."""
        end = time.monotonic() + _ATTACH
        while not self.device.call("check-status", timeout=_ATTACH)["attached"] and time.monotonic() < end:
            agent.pump(_TURN)

    def show_events(self) -> None:
        """Print what the device has found since the last look."""
        for event in self.device.events():
            if event.get("event") == "verdict":
                self._show_verdict(event["verdict"])

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
            process = agent.spawn(capturing.capture_command(options), on_stdout=self.capture.line)
            self._watch(agent, process)
            cpu_end, memory = self.device.usage()
            self._usage = {
                "cpu_share": round((cpu_end - cpu) / (time.monotonic() - begin), 3),
                "memory_mb": round(memory / 1e6, 1),
                "shares_cpu": shared,
            }
            assert process.status is not None
            failure = capturing.explain_exit(process.status, process.stderr, self.capture.frames)
            if failure is not None:
                self.report.failure = failure
            else:
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
        stall = Stall(time.monotonic())
        next_look = next_vmstat = 0.0
        while process.status is None:
            agent.pump(_TURN)
            self.show_events()
            now = time.monotonic()
            stall.check(self.capture.frames.captured, now)
            if now >= next_look:
                next_look = now + _LOOK
                self._status = self.device.call("check-status")
                self.screen.live(self._live_text())
                self.attachments.states(self.device, self.capture.frames.captured)
            if now >= next_vmstat:
                next_vmstat = now + _LOOK_AT_VMSTAT
                self._take_vmstat(capturing.vmstat(agent))

    def _settle(self, agent: Agent) -> None:
        with self.screen.stage("settle") as stage:
            self._take_vmstat(capturing.vmstat(agent))
            self.report.pins.left = self._pins_left(agent)
            stage.note = f"{self.report.pins.left} pages left pinned"
            self._hear_out(agent)

    def _hear_out(self, agent: Agent) -> None:
        """A failure of the last moment is held back until its story is complete: do not end before that.

        :raise GuestCrash: the failure.
        """
        end = time.monotonic() + _PATIENCE
        while self.vm.watch.pending and time.monotonic() < end:
            agent.pump(_TURN)

    def _pins_left(self, agent: Agent) -> int:
        """Give the kernel some time to let go of the buffers, then have the rest judged."""
        end = time.monotonic() + _PATIENCE
        while not self.device.call("settle", final=False).get("settled") and time.monotonic() < end:
            agent.pump(_TURN)
        return int(self.device.call("settle", final=True).get("pinned_pages") or 0)

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
        report.oddities = {name: int(count) for name, count in status.get("oddities", {}).items()}
        report.swap.buffer_pages_out = self.capture.swapped_pages
        report.pins.clean_at_pin = int((status.get("pins") or {}).get("judged_clean_before", 0))

    def _fail(self, error: GuestError) -> None:
        if isinstance(error, AgentGoneError):
            error = self._why_gone(error)
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

    def _why_gone(self, error: GuestError) -> GuestError:
        """QEMU's channels close a moment before its end can be noticed: say how it ended."""
        end = time.monotonic() + _PATIENCE
        while self.vm.poll() is None and time.monotonic() < end:
            time.sleep(_TURN)
        try:
            self.vm.check()
        except GuestError as better:
            return better
        return error

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

    # -- how things are started

    def _serve_options(self) -> ServeOptions:
        options = self.options
        return ServeOptions(
            socket_path=self.work / "card",
            control=self.work / "control",
            qmp=self.work / "qmp-pause",
            board=options.board,
            revision=options.revision,
            norm=options.norm,
            clock=options.clock,
            with_parent=True,
        )

    def _vm_config(self) -> VmConfig:
        options = self.options
        disk = options.swap == "disk"
        return VmConfig(
            qemu=self._prepared.qemu,
            accel=self._prepared.accel.name,
            kernel=self._prepared.kernel,
            initrd=self._prepared.initrd,
            workdir=self.work,
            append=options.append,
            memory_mib=options.memory,
            cpus=options.cpus,
            card_socket=self.work / "card",
            swap=f"zram:{options.memory}" if options.swap == "zram" else options.swap,
            swap_disk=self.work / "swap" if disk else None,
            extra_args=list(options.qemu_opts),
            interactive=options.shell,
        )
