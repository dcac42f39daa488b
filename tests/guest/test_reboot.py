# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects a session in which the guest reboots: the same device process judges the next kernel, too."""

from __future__ import annotations

import pytest

import vcapdev
from vcapdev.gallery.scene import Picture
from vcapdev.gallery.stage import expected_file
from vcapdev.run.capture import EXPECT
from vcapdev.testing import Card, Guest

pytestmark = pytest.mark.guest

CAPTURE = ("vcap-scene", "--expect", EXPECT, "--frames", "8")
DEADLINE = 120.0


@vcapdev.guest(cold=True, swap="disk", clock="fast")
def test_the_checker_finds_the_kernel_that_was_booted_anew(guest: Guest, card: Card) -> None:
    vm, device = guest.vm, guest.device.pid

    def judged() -> int:
        """Pages of a capture, all of them judged."""
        before = card.dma.pages_checked
        guest.push(expected_file(Picture()), EXPECT)
        assert guest.run(CAPTURE, timeout=DEADLINE).status == 0
        status = card.dma.status
        assert (status["attached"], status["verdicts"], status["unchecked_writes"]) == (True, {}, 0)
        return card.dma.pages_checked - before

    def reset() -> bool:
        vm.qmp.poll()
        return any(event["event"] == "RESET" for event in vm.qmp.events)

    def wait_attached(wanted: bool) -> None:
        guest.wait(lambda: card.dma.status["attached"] == wanted, DEADLINE, f"the checker, {wanted=}")

    assert vm.config.snapshot is None  # cold is cold
    pages = judged()
    assert pages >= 8
    vm.qmp.execute("set-action", {"reboot": "reset"})
    vm.watch.qmp = None  # which takes a reset for a crash
    vm.agent.hello = None
    vm.agent.spawn(["reboot", "-f"])
    guest.wait(reset, DEADLINE, "the reset")
    wait_attached(False)  # the old kernel is forgotten
    vm.agent.greet(DEADLINE)
    wait_attached(True)
    assert judged() == pages
    assert guest.device.pid == device
    guest.stop()  # nobody would notice a crash of it any more
