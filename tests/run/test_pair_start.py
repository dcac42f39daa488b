# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the start of guest and card: what is waited for, and what happens without a snapshot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vcapdev.errors import GuestError, SetupError
from vcapdev.progress import Silent
from vcapdev.run import nursery, pair
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair, wait_driver
from vcapdev.vm.agent import AgentError

PLACE = "/sys/bus/pci/devices/0000:01:00.0"


class Guest:
    """Its sysfs grows at each turn of the pump; what it is asked is noted."""

    def __init__(self, *errors: str) -> None:
        self._errors = list(errors)  # what the next looks at the driver's link end with
        self.asked: list[Any] = []

    def pull(self, path: str) -> bytes:
        self.asked.append(path)
        raise AgentError(f"the guest cannot read {path}: {self._errors[0]}")

    def pump(self, seconds: float) -> None:
        if len(self._errors) > 1:
            del self._errors[0]

    def push(self, data: bytes, path: str) -> None:
        self.asked.append((data, path))


def test_the_driver_is_waited_for_from_its_link_to_the_end_of_its_probe() -> None:
    guest = Guest("No such file or directory", "No such file or directory", "Is a directory")
    assert wait_driver(guest, "0000:01:00.0", 60)  # type: ignore[arg-type]
    assert guest.asked == [*[f"{PLACE}/driver"] * 3, (b"\n", f"{PLACE}/driver_override")]


def test_a_card_that_no_driver_wants_is_not_waited_for_for_ever() -> None:
    guest = Guest("No such file or directory")
    assert not wait_driver(guest, "0000:01:00.0", 0)  # type: ignore[arg-type]
    assert guest.asked == [f"{PLACE}/driver"]


@pytest.fixture
def prepared(tmp_path: Path) -> Any:
    return SimpleNamespace(
        qemu=SimpleNamespace(argv=["qemu"]),
        accel=SimpleNamespace(name="tcg"),
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
    )


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def finish(self, note: str = "") -> None:
        self.notes.append(note)


def test_a_guest_that_cannot_be_saved_is_booted(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(*_: object, **__: object) -> Path:
        raise GuestError("it panicked")

    monkeypatch.setattr(pair, "snapshot_of", panics)
    said = Notes()
    made = Pair(RunOptions(), prepared, tmp_path, said)
    assert said.notes == ["no snapshot: it panicked"]
    words = made.vm.command_line()
    assert "-kernel" in words
    assert any("vfio-user-pci" in word for word in words)


def test_a_full_disk_is_no_reason_to_boot(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Path:
        raise SetupError("no space left")

    monkeypatch.setattr(pair, "snapshot_of", full)
    with pytest.raises(SetupError, match="no space left"):
        Pair(RunOptions(), prepared, tmp_path)


def test_one_guest_alone_has_no_nursery_and_a_cold_one_no_snapshot(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nursery, "warm", lambda: pytest.fail("it would not be worth its while"))
    monkeypatch.setattr(pair, "snapshot_of", lambda *_, **__: tmp_path)
    alone = Pair(RunOptions(), prepared, tmp_path, alone=True)
    assert "-incoming" in alone.vm.command_line()
    monkeypatch.setattr(pair, "snapshot_of", lambda *_, **__: pytest.fail("it was asked to boot"))
    for options in (RunOptions(cold=True), RunOptions(shell=True)):
        assert "-kernel" in Pair(options, prepared, tmp_path).vm.command_line()
