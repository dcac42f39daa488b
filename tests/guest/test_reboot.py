# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects a session in which the guest reboots: the same device process judges the next kernel, too."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vcapdev.gallery.scene import Picture
from vcapdev.gallery.stage import expected_file
from vcapdev.run.capture import EXPECT
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair
from vcapdev.run.prepare import Prepared

pytestmark = pytest.mark.guest

CAPTURE = ("vcap-scene", "--expect", EXPECT, "--frames", "8")
DEADLINE = 120.0


def test_the_checker_finds_the_kernel_that_was_booted_anew(prepared: Prepared, tmp_path: Path) -> None:
    pair = Pair(RunOptions(cold=True, memory=256, clock="fast"), prepared, tmp_path)
    try:
        agent = pair.start()

        def judged() -> int:
            """Pages of a capture, all of them judged."""
            before = pair.device.call("check-status")["pages_checked"]
            agent.push(expected_file(Picture()), EXPECT)
            assert agent.run(CAPTURE, timeout=DEADLINE).status == 0
            status = pair.device.call("check-status")
            assert (status["attached"], status["verdicts"], status["unchecked_writes"]) == (True, {}, 0)
            return int(status["pages_checked"] - before)

        def reset() -> bool:
            pair.vm.qmp.poll()
            return any(event["event"] == "RESET" for event in pair.vm.qmp.events)

        def wait_attached(wanted: bool) -> None:
            end = time.monotonic() + DEADLINE
            while pair.device.call("check-status")["attached"] != wanted:
                assert time.monotonic() < end, f"{wanted=}: {pair.device.call('check-status')['why_not']}"
                agent.pump(0.1)

        pages = judged()
        assert pages >= 8
        pair.vm.qmp.execute("set-action", {"reboot": "reset"})
        pair.vm.watch.qmp = None  # which takes a reset for a crash
        agent.hello = None
        agent.spawn(["reboot", "-f"])
        agent.wait_for(reset, DEADLINE, "the reset")
        wait_attached(False)  # the old kernel is forgotten
        agent.greet(DEADLINE)
        wait_attached(True)
        assert judged() == pages
    finally:
        pair.stop()
