# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what a run does while guest and card are held, and that they are always let go on."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dmacheck"))

import pytest
from fakecard import FakeCard
from synthetic import SyntheticGuest

from vcapdev.evidence import bundle
from vcapdev.report.model import Kernel, QemuInfo, RunReport
from vcapdev.run.device import DeviceGoneError
from vcapdev.run.options import RunOptions
from vcapdev.run.screen import Screen
from vcapdev.run.violation import OnViolation, RunEndedError
from vcapdev.vm.qmp import QmpError

PFN = 2000
CPU = "CPU#0\r\nRIP=ffffffff81000042 RFL=00000246 [---Z-P-]\r\n"


class Held:
    """A finding in a synthetic guest, with a device and a QEMU that play along."""

    def __init__(self, work: Path, **options: Any) -> None:
        self.guest = SyntheticGuest()
        self.guest.anon(PFN, pins=0)
        card = FakeCard(self.guest)
        card.write(card.program(PFN))
        verdict = json.loads(json.dumps(card.found[0].to_json()))
        self.event = {"event": "held", "verdict": verdict, "vcpus_stopped": True}
        self.calls: list[str] = []
        self.qmp_fails = False
        self.shown = io.StringIO()
        self.report = RunReport(
            kernel=Kernel("r", "6.1", "vmlinuz"), qemu=QemuInfo("11", "", "tcg", ""), settings={}
        )
        (work / "console.log").write_bytes(b"console \xff\n")
        vm: Any = SimpleNamespace(
            qmp=SimpleNamespace(execute=self.qmp),
            kernel_log=lambda: "kernel\n",
            console_log=work / "console.log",
        )
        device: Any = SimpleNamespace(call=self.call)
        chosen = RunOptions(bundle=work / "kept", **options)
        self.on = OnViolation(chosen, Screen(self.shown), device, vm, self.report)

    def qmp(self, command: str, arguments: dict[str, str]) -> str:
        assert (command, arguments) == ("human-monitor-command", {"command-line": "info registers -a"})
        if self.qmp_fails:
            raise QmpError("QEMU is gone")
        return CPU

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        self.calls.append(command)
        if command == "memory":
            segments = self.guest.memory.segments
            return {
                "pid": os.getpid(),
                "segments": [
                    {"start": s.start, "size": s.size, "fd": s.fd, "offset": s.fd_offset} for s in segments
                ],
            }
        if command == "registers":
            return {"registers": {"INT_STAT": 0x800}}
        return {"lines": [f"{command} line"]}


def hold(work: Path, monkeypatch: pytest.MonkeyPatch, text: str = "", **options: Any) -> Held:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return Held(work, **options)


def test_continue_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hold(tmp_path, monkeypatch).on.wanted
    assert hold(tmp_path, monkeypatch, on_violation="stop").on.wanted


def test_the_prompt_sees_the_guest_and_lets_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = hold(tmp_path, monkeypatch, "print('pfn', pfn, buffer.pages)\n", on_violation="stop")
    held.on.held(held.event)
    assert f"pfn {PFN} 1" in capsys.readouterr().out
    assert held.calls == ["memory", "resume"]
    assert "the guest stands still" in held.shown.getvalue()
    assert held.shown.getvalue().endswith("the guest goes on\n")


def test_exit_at_the_prompt_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold(tmp_path, monkeypatch, "exit()\nprint('too late')\n", on_violation="stop")
    with pytest.raises(RunEndedError, match="ended at the prompt"):
        held.on.held(held.event)
    assert held.calls[-1] == "resume"


def test_vcpus_that_run_on_are_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold(tmp_path, monkeypatch, on_violation="stop")
    held.on.held({**held.event, "vcpus_stopped": False})
    assert "could not be stopped and runs on" in held.shown.getvalue()


def test_memory_without_a_kernel_opens_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold(tmp_path, monkeypatch, "print('never')\n", on_violation="stop")
    held.guest.poke(held.guest.note_at, bytes(64))
    held.on.held(held.event)
    assert "no prompt: no VMCOREINFO" in held.shown.getvalue()
    assert held.calls[-1] == "resume"


def test_a_bundle_has_traces_logs_and_vcpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold(tmp_path, monkeypatch, on_violation="bundle")
    held.on.held(held.event)
    kept = tmp_path / "kept"
    index = json.loads((kept / "bundle.json").read_text())
    assert index["vcpus"] == [{"rip": 0xFFFFFFFF81000042, "rfl": 0x246}]
    texts = {
        "registers.txt": "INT_STAT             0x00000800\n",
        "register-trace.txt": "access-log line\n",
        "dma-trace.txt": "dma-log line\n",
        "kernel.log": "kernel\n",
        "console.log": "console \ufffd\n",
        "vcpus.txt": CPU.replace("\r\n", "\n"),
        "splat.txt": held.event["verdict"]["splat"],
    }
    for name, text in texts.items():
        assert (kept / name).read_text() == text, name
    assert json.loads((kept / "report.json").read_text())["kernel"]["recipe"] == "r"
    assert f"'vcapdev look {kept}' opens it" in held.shown.getvalue()
    assert held.calls[-1] == "resume"


def test_a_bundle_without_qemus_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold(tmp_path, monkeypatch, on_violation="bundle")
    held.qmp_fails = True
    held.on.held(held.event)
    assert (tmp_path / "kept" / "vcpus.txt").read_text() == "QEMU did not tell: QEMU is gone\n"


def test_a_bundle_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finding counts all the same, and the guest goes on."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(bundle, "write_core", full)
    held = hold(tmp_path, monkeypatch, on_violation="bundle")
    held.on.held(held.event)
    assert "No space left on device" in held.report.warnings[0]
    assert held.calls[-1] == "resume"
    assert not (tmp_path / "kept").exists()


def test_a_device_that_goes_meanwhile_is_told_by_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(tmp_path, monkeypatch, on_violation="bundle")

    def gone(command: str, **_: object) -> dict[str, Any]:
        raise DeviceGoneError(f"the device was killed at {command}")

    held.on._device.call = gone  # type: ignore[method-assign]
    with pytest.raises(DeviceGoneError, match="killed at registers"):
        held.on.held(held.event)
