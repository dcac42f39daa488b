# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what comes when no test is looking: no complaint and no finding is lost, and none is excused.

Between two tests, after the last one, while a guest boots, before a reboot, and of a card that goes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import fakepair
import pytest
from fakepair import FakeDevice

from vcapdev.errors import GuestError
from vcapdev.testing import Guest, GuestConfig
from vcapdev.testing.judge import shortfalls, spoilt
from vcapdev.testing.keeper import Keeper

pytest_plugins = "pytester"

WARNING = "WARNING: CPU: 0 PID: 1 at a.c:1"
CONFTEST = """
import fakepair
import pytest

def pytest_vcapdev_opener(config):
    return fakepair.opener

@pytest.fixture
def leaves(guest):
    "Afterwards it says: no test is in the guest then."
    words = []
    yield words
    for command in words:
        guest.run(command)
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    """``run(text of a test file)``: its result, with guests that are not there."""
    pytester.syspathinsert(Path(fakepair.__file__).parent)
    pytester.makeconftest(CONFTEST)
    fakepair.BOOTS.clear()
    fakepair.VMS.clear()

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile("import pytest\nimport vcapdev\nimport fakepair\n" + text)
        return pytester.runpytest_inprocess(
            "-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider", *options
        )

    return run


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(GuestConfig(), opener=fakepair.opener) as guest:
        yield guest


def device_of(guest: Guest) -> FakeDevice:
    assert isinstance(guest.device, FakeDevice)
    return guest.device


def test_what_comes_after_a_test_was_judged_is_an_error_of_it(run) -> None:
    result = run(f"""
def test_one(guest, leaves): leaves.append("kernel {WARNING}")
def test_two(guest, leaves): leaves.append("finding not-pinned")
def test_three(guest, leaves): leaves.append("panic")
def test_four(guest): pass
""")
    result.assert_outcomes(passed=4, errors=3)
    result.stdout.fnmatch_lines([
        f"after the test was judged: the guest's kernel complained (warning): {WARNING}",
        "after the test was judged: the checker found (not-pinned): vcapdev: not-pinned (V0): a page",
        "*Kernel panic - not syncing*",
    ])  # fmt: skip
    assert len(fakepair.BOOTS) == 4  # none of these guests is used again


def test_what_comes_while_no_test_has_the_guest_fails_the_next_one_which_gets_another(run) -> None:
    result = run(f"""
def test_one(guest): pass
def test_between(): fakepair.VMS[-1].log("{WARNING}")
@vcapdev.guest(cpus=2, allow=["warning"])
def test_of_another_guest(guest): pass
@vcapdev.guest(allow=["warning"])
def test_told(guest): assert guest.run("say well").lines == ["well"]
def test_after(guest): pass
""")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines([
        f"*the guest's kernel complained before this test began (warning): {WARNING}",
        "FAILED *::test_told*",
    ])  # fmt: skip
    assert [config.cpus for config in fakepair.BOOTS] == [1, 2, 1]


def test_who_allows_it_is_the_test_before(run) -> None:
    result = run(f"""
@vcapdev.guest(allow=["warning"])
def test_one(guest, leaves): leaves.append("kernel {WARNING}")
def test_two(guest): pass
""")
    result.assert_outcomes(passed=2)
    assert len(fakepair.BOOTS) == 2  # allowed or not, the kernel is another one since


def test_a_guest_that_makes_room_is_heard_before_it_goes(run) -> None:
    result = run(
        f"""
def test_one(guest): pass
def test_between(): fakepair.VMS[-1].log("{WARNING}")
@vcapdev.guest(cpus=2)
def test_told(guest): pass
""",
        "--vcapdev-guests=1",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_told*"])


def test_what_comes_after_the_last_test_in_a_guest_is_an_error_of_the_last_test(run) -> None:
    result = run(f"""
def test_one(guest): pass
def test_last(): fakepair.VMS[-1].log("{WARNING}")
""")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([
        f"after the last test in it was judged: the guest's kernel complained (warning): {WARNING}",
        "ERROR *::test_last",
    ])  # fmt: skip


def test_a_test_that_is_skipped_amid_of_it_hides_nothing(run) -> None:
    result = run(f"""
def test_one(guest):
    guest.run("kernel {WARNING}")
    pytest.skip("no")
""")
    result.assert_outcomes(skipped=1, errors=1)


def test_a_test_that_fails_by_itself_is_no_error_too(run) -> None:
    """Its complaints are in its report."""
    result = run(f"""
def test_one(guest):
    guest.run("kernel {WARNING}")
    guest.run("finding not-pinned")
    assert False
def test_two(guest):
    guest.run("kernel {WARNING}")
    pytest.fail("by hand")
def test_three(guest): pass
""")
    result.assert_outcomes(passed=1, failed=2)
    assert len(fakepair.BOOTS) == 3


def test_complaints_of_the_boot_are_the_first_tests_to_allow(run) -> None:
    result = run("""
@vcapdev.guest(append="warns", allow=["warning"])
def test_one(guest): pass

@vcapdev.guest(append="warns")
def test_two(guest): pass
""")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*the guest's kernel complained before this test began (warning): *"])


def test_a_reboot_amid_of_a_test_forgets_nothing(run) -> None:
    result = run(f"""
def test_complaint(guest):
    guest.run("kernel {WARNING}")
    guest.reboot()
def test_finding(guest):
    guest.run("finding not-pinned")
    guest.reboot()
def test_death(guest):
    with pytest.raises(Exception):
        guest.run("panic")
    guest.reboot()
def test_expected(guest, card):
    with card.expect_violation("not-pinned"):
        guest.run("finding not-pinned")
    guest.reboot()
    card.dma.assert_clean()
""")
    result.assert_outcomes(passed=1, failed=3)


def test_what_a_sweep_leaves_between_two_runs_breaks_the_next(run) -> None:
    result = run(f"""
runs = []
@vcapdev.every_fault("interrupt-lost")
@vcapdev.guest(allow=["warning"])
def test_allowed(guest):
    runs.append(1)
    guest.run("kernel {WARNING}")
def test_count(): assert len(runs) == 4
""")
    result.assert_outcomes(passed=2)
    assert len(fakepair.BOOTS) == 4


def test_the_findings_of_a_card_that_was_pulled_out_are_asked_for(guest: Guest) -> None:
    device_of(guest).find("not-pinned")
    guest.card.there = False
    device_of(guest).status = {"attached": False, "why_not": "there is no memory"}
    (said,) = shortfalls(guest)
    assert "vcapdev: not-pinned (V0): a page" in said
    device_of(guest).verdicts.clear()
    guest.card.dma.assert_clean()


def test_the_findings_of_a_device_that_is_killed_stay(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    first = device_of(guest)
    first.pid, first.sockets = 4321, []
    killed: list[object] = []

    def kill(pid: int, number: int) -> None:
        assert first.asked[-2:] == ["verdicts", "check-status"], "asked while it lives"
        killed.append((pid, number))
        first.verdicts, first.pages = [], 7  # those of the next one

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(guest.bus, "unplug", lambda **_: None)
    monkeypatch.setattr(guest.bus, "plug", lambda **_: None)
    monkeypatch.setattr("vcapdev.testing.bus.has_slot", lambda config: True)
    first.find("not-pinned")
    guest.bus.replace_device()
    assert killed == [(4321, signal.SIGKILL)]
    assert guest.card.dma.pages_checked == 100 + 7
    first.find("not-pinned")
    first.find("free-page")
    assert [(one.rule, one.count) for one in guest.card.dma.peek()] == [("not-pinned", 2), ("free-page", 1)]
    first.verdicts = []
    (said,) = shortfalls(guest)
    assert "vcapdev: not-pinned (V0): a page" in said
    assert spoilt(guest)
    guest.begin()
    assert guest.card.dma.peek() == []


def test_what_was_expected_of_a_device_that_is_killed_is_expected_no_second_time(guest: Guest) -> None:
    dma = guest.card.dma
    with guest.card.expect_violation("not-pinned"):
        device_of(guest).find("not-pinned")
        dma.device_ends()
        device_of(guest).verdicts = []
        dma.device_begins()
    assert dma.unexpected == []
    device_of(guest).find("not-pinned")
    assert [one.count for one in dma.unexpected] == [2]


def test_a_complaint_of_a_driver_that_cannot_be_loaded_goes_with_the_error() -> None:
    """The test that wanted it fails; the next one has nothing to do with it."""

    class Refusing(Guest):
        def _exchange(self, wanted: GuestConfig) -> None:
            if wanted.clock == "fast":
                self.run(f"kernel {WARNING}")
                raise GuestError("it cannot be loaded")

    keeper = Keeper(lambda config: Refusing(config, opener=fakepair.opener))
    with pytest.raises(GuestError, match="it cannot be loaded") as caught:
        keeper.lease(GuestConfig(clock="fast"))
    assert [note.splitlines()[0] for note in caught.value.__notes__] == [
        f"the guest's kernel complained (warning): {WARNING}"
    ]
    assert keeper.lease(GuestConfig()).complaints == []
    keeper.close()
