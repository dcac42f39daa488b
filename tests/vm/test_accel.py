# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the choice between KVM and TCG: only a program that came to its end proves KVM."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.progress import Terminal
from vcapdev.vm import accel
from vcapdev.vm.accel import choose_accel, probe_rom, prove_kvm, run_probe


@dataclass
class Fake:
    """A QEMU that is a shell script."""

    argv: list[str]


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev/kvm that opens."""
    node = tmp_path / "kvm"
    node.write_text("")
    monkeypatch.setattr(accel, "_KVM", node)
    return node


def script(tmp_path: Path, text: str) -> Fake:
    file = tmp_path / "qemu"
    file.write_text(f"#!/bin/sh\necho run >> {tmp_path}/log\n{text}\n")
    file.chmod(0o755)
    return Fake([str(file)])


def runs(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_kvm_that_works_is_chosen(tmp_path: Path, kvm: Path) -> None:
    chosen = choose_accel(script(tmp_path, "exit 85"), cache=Cache(tmp_path / "cache"))
    assert chosen.name == "kvm"


def test_the_answer_is_kept_for_this_boot_only(
    tmp_path: Path, kvm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu, cache = script(tmp_path, "exit 85"), Cache(tmp_path / "cache")
    assert choose_accel(qemu, cache=cache) == choose_accel(qemu, cache=cache)
    assert runs(tmp_path) == 1
    (tmp_path / "boot_id").write_text("another boot\n")
    monkeypatch.setattr(accel, "_BOOT_ID", tmp_path / "boot_id")
    choose_accel(qemu, cache=cache)
    assert runs(tmp_path) == 2
    kept = next((tmp_path / "cache/probes").glob("kvm-*.json"))
    assert json.loads(kept.read_text())["boot"] == "another boot"


def test_a_guest_that_hangs_means_tcg_and_is_ended(tmp_path: Path, kvm: Path) -> None:
    """The script notes its process id and hangs, deaf to SIGTERM; afterwards that process is gone."""
    qemu = script(tmp_path, f"trap '' TERM\necho $$ > {tmp_path}/pid\nwhile :; do sleep 0.05; done")
    problem = prove_kvm(qemu.argv, deadline=0.5)
    assert "does not come to its end in 0.5 s" in problem
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_auto_says_why_it_took_tcg(tmp_path: Path, kvm: Path) -> None:
    qemu = script(tmp_path, "echo failed to initialize kvm >&2; exit 1")
    chosen = choose_accel(qemu, cache=Cache(tmp_path / "cache"))
    assert chosen.name == "tcg"
    assert chosen.why == "no KVM: QEMU ended with status 1 (failed to initialize kvm)"


def test_asking_for_kvm_that_does_not_work_is_an_error(tmp_path: Path, kvm: Path) -> None:
    with pytest.raises(SetupError, match="KVM does not work here: QEMU ended with status 3"):
        choose_accel(script(tmp_path, "exit 3"), "kvm", cache=Cache(tmp_path / "cache"))


def test_asking_for_tcg_tries_nothing(tmp_path: Path, kvm: Path) -> None:
    assert choose_accel(script(tmp_path, "exit 85"), "tcg", cache=Cache(tmp_path / "cache")).name == "tcg"
    assert runs(tmp_path) == 0


def test_an_unknown_request_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'hvf' is not one of auto, kvm, tcg"):
        choose_accel(Fake(["true"]), "hvf", cache=Cache(tmp_path / "cache"))


def test_no_device_node_tries_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "_KVM", tmp_path / "none")
    chosen = choose_accel(script(tmp_path, "exit 85"), cache=Cache(tmp_path / "cache"))
    assert chosen.name == "tcg"
    assert "does not exist" in chosen.why
    assert runs(tmp_path) == 0


def test_a_node_that_may_not_be_opened_says_how_to_get_in(
    tmp_path: Path, kvm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel.os, "access", lambda *_: False)
    assert "group kvm" in choose_accel(Fake(["true"]), cache=Cache(tmp_path / "cache")).why


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path, kvm: Path) -> None:
    (tmp_path / "file").write_text("")
    assert choose_accel(script(tmp_path, "exit 85"), cache=Cache(tmp_path / "file/cache")).name == "kvm"


def test_a_qemu_that_cannot_be_run(tmp_path: Path, kvm: Path) -> None:
    assert choose_accel(Fake([str(tmp_path / "none")]), cache=Cache(tmp_path / "cache")).name == "tcg"


def test_the_rom_starts_where_the_processor_starts() -> None:
    rom = probe_rom()
    assert len(rom) == 0x10000
    assert rom[0xFFF0:0xFFF5] == bytes.fromhex("ea00ff00f0")  # jmp F000:FF00
    assert rom[0xFF00] == 0xFA  # cli


@pytest.mark.guest
def test_the_rom_runs_to_its_end_and_a_broken_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real QEMU with TCG, which always works: the program itself is right, and a hang is seen."""
    from vcapdev.vm.qemu import provision_qemu

    argv = [*provision_qemu(None, Terminal()).argv, "-accel", "tcg"]
    assert run_probe(argv, deadline=60.0) == ""
    monkeypatch.setattr(accel, "probe_rom", lambda: bytes(0x10000 - 16) + b"\xeb\xfe" * 8)
    assert "does not come to its end" in run_probe(argv, deadline=1.0)
