# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the plugin's fixtures against a real guest: each test is one that a user could have written."""

from __future__ import annotations

from pathlib import Path

import pytest

import vcapdev
from vcapdev.errors import UsageError
from vcapdev.testing import Card, Guest, ViolationError
from vcapdev.testing.states import GuestStateError

pytestmark = [pytest.mark.guest, vcapdev.guest(clock="fast")]

SMALL = {"size": "320x240"}


@vcapdev.guest(swap="disk", clock="paced")
def test_the_example_of_the_documentation(guest: Guest, card: Card) -> None:
    with guest.pressure("pageout", every="50ms") as pressure:
        result = guest.capture(frames=20, io="userptr", size="768x576", format="YUYV")
    assert result.intact == 20
    assert pressure.rounds > 1
    assert pressure.pages_out > 100
    card.dma.assert_clean()


def test_commands_files_and_the_kernel_log(guest: Guest, tmp_path: Path) -> None:
    assert guest.run("echo here; echo there >&2; exit 3").status == 3
    assert guest.run(["echo", "a b"]).lines == ["a b"]
    guest.push(b"#!/bin/sh\necho pushed\n", "/tmp/script", mode=0o755)
    assert guest.run("/tmp/script", check=True).stdout == "pushed\n"
    assert guest.pull("/tmp/script", tmp_path / "script").startswith(b"#!/bin/sh")
    assert (tmp_path / "script").stat().st_size == 22
    guest.run("echo from the test > /dev/kmsg")
    assert guest.dmesg().splitlines()[-1].endswith("] from the test")
    assert "Linux version" not in guest.dmesg()
    assert "Linux version" in guest.dmesg(all_of_it=True)


def test_modules_are_loaded_and_the_next_test_gets_the_stock_driver(guest: Guest) -> None:
    guest.unload("videobuf-dma-sg")
    assert "bttv" not in guest.modules()
    guest.load("bttv", irq_debug=1)
    assert guest.pull("/sys/module/bttv/parameters/irq_debug") == b"1\n"


def test_the_stock_driver_is_there_again(guest: Guest, tmp_path: Path) -> None:
    assert guest.pull("/sys/module/bttv/parameters/irq_debug") == b"0\n"
    (tmp_path / "bad.ko").write_bytes(b"\x7fELF")
    with pytest.raises(UsageError, match=r"bad\.ko cannot be loaded"):
        guest.load(tmp_path / "bad.ko")


def test_the_card_field_by_field(guest: Guest, card: Card) -> None:
    with card.stepped():
        running = guest.start_capture(4, io="mmap", **SMALL)
        guest.wait(lambda: card.dma.running, what="the driver to switch DMA on")
        before, interrupts = card.fields, card.interrupts.count
        assert [one.text for one in card.program()[:2]] == [
            "SYNC RESYNC VRE",
            f"JUMP to {card.program()[2].address:#010x}",
        ]
        card.step(4)
        assert card.fields in (before + 3, before + 4)  # the last one is still under way
        assert card.interrupts.count > interrupts
        assert card.registers["INT_MASK"].field("RISCI") == 1
        assert "RISCI" in str(card.registers["INT_MASK"])
        card.step(10)
        assert running.wait().intact == 4
    assert any("INT_STAT" in line for line in card.access_log())
    assert any(line.startswith("write: program") for line in card.dma.log)
    card.dma.assert_clean()


@vcapdev.guest(mutant="last-page-unpinned")
def test_a_violation_that_is_expected(guest: Guest, card: Card) -> None:
    with card.expect_violation("not-pinned", also=["missing-pin"]):
        guest.capture(5, **SMALL)
    guest.capture(5, **SMALL)
    with pytest.raises(ViolationError, match=r"vcapdev: \S+ \(V\d+\)"):
        card.dma.assert_clean()


def test_a_dead_guest_is_told_at_once(guest: Guest) -> None:
    with guest.expect_complaint("panic"):
        guest.run("echo c > /proc/sysrq-trigger")
    assert guest.state == "crashed"
    with pytest.raises(GuestStateError, match=r"the guest is crashed, not shell: .*panic"):
        guest.run("true")


@vcapdev.every_fault("interrupt-lost", "risc-error", points=2)
def test_a_capture_survives(guest: Guest, card: Card) -> None:
    result = guest.capture(4, **SMALL)
    assert result.captured == 4
    assert result.damaged == 0
    card.dma.assert_clean()


@vcapdev.guest(mutant="last-page-unpinned")
def test_findings_outlive_the_process_that_made_them_and_the_card(guest: Guest, card: Card) -> None:
    with card.expect_violation("not-pinned", also=["missing-pin"]):
        guest.capture(3, **SMALL)
    found, pages = [(one.rule, one.count) for one in card.dma.verdicts], card.dma.pages_checked
    guest.bus.replace_device()
    assert [(one.rule, one.count) for one in card.dma.verdicts] == found
    assert card.dma.pages_checked >= pages > 0
    guest.bus.unplug()
    assert "not-pinned" in {one.rule for one in card.dma.verdicts}
