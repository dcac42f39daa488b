# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run does at its first violation, while guest and card are held: a prompt, or a bundle."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from vcapdev.errors import GuestError, SetupError, UsageError
from vcapdev.evidence.bundle import MAX_TEXT, Content, write_bundle
from vcapdev.evidence.image import live_map
from vcapdev.evidence.look import prompt
from vcapdev.evidence.vcpus import parse_registers
from vcapdev.guestmm.kernel import AttachError
from vcapdev.report.model import RunReport
from vcapdev.run.device import DeviceProcess
from vcapdev.run.options import RunOptions
from vcapdev.run.screen import Screen
from vcapdev.vm.machine import Vm
from vcapdev.vm.qmp import QmpError

_TRACE = 4096  # lines of each trace that a bundle keeps

Json = dict[str, Any]


class RunEndedError(GuestError):
    """Somebody left the prompt by ``exit()``: the run ends with what it has found."""


class OnViolation:
    """Acts on the device's ``held`` event, and then lets it go on."""

    def __init__(
        self, options: RunOptions, screen: Screen, device: DeviceProcess, vm: Vm, report: RunReport
    ) -> None:
        self._options, self._screen = options, screen
        self._device, self._vm, self._report = device, vm, report

    @property
    def wanted(self) -> bool:
        """Whether the device is to hold the guest at all."""
        return self._options.on_violation != "continue"

    def held(self, event: Json) -> None:
        """Guest and card are held.

        :raise RunEndedError: when the prompt was left by ``exit()``.
        :raise GuestError: when the device has gone.
        """
        try:
            if self._options.on_violation == "stop":
                self._prompt(event)
            else:
                self._bundle(event)
        except (SetupError, UsageError) as error:  # the finding counts all the same
            self._report.warnings.append(str(error))
            self._screen.show(f"warning: {error}")
        finally:
            with suppress(GuestError):  # of a device that has gone, the run itself will tell
                self._device.call("resume")

    def _prompt(self, event: Json) -> None:
        still = "stands still" if event.get("vcpus_stopped") else "could not be stopped and runs on"
        self._screen.show(f"the guest {still}; a prompt at the finding above:")
        with live_map(self._device.call("memory")) as memory:
            try:
                stay = prompt(memory, event["verdict"])
            except AttachError as error:
                self._screen.show(f"no prompt: {error}")
                return
        if not stay:
            raise RunEndedError("ended at the prompt")
        self._screen.show("the guest goes on")

    def _bundle(self, event: Json) -> None:
        directory, limit = self._options.bundle, self._options.bundle_size << 20
        registers, said = self._vcpus()
        content = Content(
            verdict=event["verdict"],
            vcpus_stopped=bool(event.get("vcpus_stopped")),
            texts={**self._texts(), "vcpus.txt": said},
            registers=registers,
            report=self._report.to_json(),
        )
        with live_map(self._device.call("memory")) as memory:
            index = write_bundle(directory, memory, content, limit)
        size = sum(path.stat().st_blocks * 512 for path in directory.iterdir())
        left_out = sum(index["memory"]["left_out"].values())
        more = f", {left_out} pages left out" if left_out else ""
        self._screen.show(
            f"bundle: {directory} ({size / 1e6:.0f} MB{more}); 'vcapdev look {directory}' opens it"
        )

    def _vcpus(self) -> tuple[list[dict[str, int]], str]:
        """The vCPUs' registers, and QEMU's own words about them."""
        try:
            arguments = {"command-line": "info registers -a"}
            said = str(self._vm.qmp.execute("human-monitor-command", arguments))
        except (QmpError, GuestError) as error:
            return [], f"QEMU did not tell: {error}\n"
        return parse_registers(said), said.replace("\r\n", "\n")

    def _texts(self) -> dict[str, str]:
        call = self._device.call
        registers = call("registers")["registers"]
        return {
            "registers.txt": "".join(f"{name:<20} {value:#010x}\n" for name, value in registers.items()),
            "register-trace.txt": _lines(call("access-log", last=_TRACE)["lines"]),
            "dma-trace.txt": _lines(call("dma-log", last=_TRACE)["lines"]),
            "checker.json": json.dumps(call("check-status"), indent=1) + "\n",
            "kernel.log": self._vm.kernel_log(),
            "console.log": _end_of(self._vm.console_log),
        }


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _end_of(path: Path) -> str:
    """The last part of a file that a guest may have filled as it likes."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_TEXT))
        return file.read().decode("utf-8", "replace")
    return ""
