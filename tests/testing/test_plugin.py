# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the pytest plugin: which guest a test gets, what makes it fail, and what its report then holds.

The guests here are not there (fakepair.py): nothing is booted.
"""

from __future__ import annotations

from pathlib import Path

import fakepair
import pytest

pytest_plugins = "pytester"

CONFTEST = """
import fakepair

def pytest_vcapdev_opener(config):
    return fakepair.opener
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    """``run(text of a test file, *options)``: its result, with guests that are not there."""
    pytester.syspathinsert(Path(fakepair.__file__).parent)
    pytester.makeconftest(CONFTEST)
    fakepair.BOOTS.clear()
    fakepair.STOPS.clear()

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile("import pytest\nimport vcapdev\n" + text)
        return pytester.runpytest_inprocess(
            "-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider", *options
        )

    return run


def test_the_example_of_the_documentation(run) -> None:
    result = run("""
@vcapdev.guest(kernel="bookworm-6.1", memory="256M", swap="disk")
def test_userptr_survives_reclaim(guest, card):
    with guest.pressure("pageout", every="50ms"):
        result = guest.capture(frames=50, io="userptr", size="768x576", format="YUYV")
    assert result.intact == 50
    card.dma.assert_clean()
""")
    result.assert_outcomes(passed=1)
    assert [(config.kernel, config.memory, config.swap) for config in fakepair.BOOTS] == [
        ("bookworm-6.1", 256, "disk")
    ]
    assert len(fakepair.STOPS) == 1


def test_tests_of_one_machine_share_a_guest_and_others_get_theirs(run) -> None:
    result = run("""
pytestmark = vcapdev.guest(swap="zram")

def test_one(guest): pass

@vcapdev.guest(clock="step")
def test_two(guest, card): assert card.clock == "step"

@vcapdev.guest(cpus=2)
def test_three(guest): assert (guest.config.cpus, guest.config.swap) == (2, "zram")

def test_four(guest, card): assert card.clock == "paced"

@vcapdev.guest(fresh=True)
def test_five(guest): pass
""")
    result.assert_outcomes(passed=5)
    assert [config.cpus for config in fakepair.BOOTS] == [1, 2, 1]
    assert len(fakepair.STOPS) == 3


def test_a_guest_in_the_way_of_a_fresh_one_is_ended_before_the_next_test_begins(run) -> None:
    result = run("""
import fakepair

pytestmark = vcapdev.guest(fresh=True)

@pytest.fixture
def stops(): return len(fakepair.STOPS)

def test_one(stops, guest): assert stops == 0
def test_two(stops, guest): assert stops == 1
@vcapdev.guest(fresh="wrong")
def test_three(guest): pass
def test_four(stops, guest): assert stops == 2
""")
    result.assert_outcomes(passed=3, errors=1)
    assert len(fakepair.BOOTS) == len(fakepair.STOPS) == 3


def test_a_dead_guest_costs_one_test_and_the_next_gets_a_fresh_one(run) -> None:
    result = run("""
def test_one(guest): guest.run("panic")
def test_two(guest): assert guest.run("say here").lines == ["here"]
def test_three(guest): guest.run("die")
def test_four(guest): assert guest.state == "shell"
""")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines([
        "*GuestCrash: the guest's kernel failed (panic): Kernel panic - not syncing: sysrq triggered crash",
        "*GuestError: QEMU ended with status 1; it said nothing",
    ])  # fmt: skip
    assert len(fakepair.BOOTS) == 3


def test_nobody_waits_a_second_time_for_a_machine_that_does_not_come_up(run) -> None:
    result = run("""
@vcapdev.guest(append="hopeless")
class TestHopeless:
    def test_one(self, guest): pass
    def test_two(self, guest): pass

@vcapdev.guest(append="panics")
class TestPanics:
    def test_one(self, guest): pass
    def test_two(self, guest): pass
""")
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([
        "waited 180 s for the guest to boot; see the console log",
        "as for an earlier test: waited 180 s for the guest to boot; see the console log",
        "the guest's kernel failed (panic): Kernel panic - not syncing: VFS; that was before the driver *",
        "as for an earlier test: the guest's kernel failed (panic): Kernel panic - not syncing: VFS; that *",
    ])  # fmt: skip
    assert len(fakepair.BOOTS) == 2
    assert len(fakepair.STOPS) == 2


def test_a_program_that_cannot_be_killed_costs_one_test(run) -> None:
    result = run("""
def test_one(guest): guest.spawn("stuck")
def test_two(guest): assert guest.run("say here").lines == ["here"]
""")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["the guest died: waited 60 s for the test's programs to end; *"])
    assert len(fakepair.BOOTS) == 2


def test_a_program_that_hangs_in_the_kernel_fails_its_test(run) -> None:
    """Whether it was left running or had run out of time; the kernel's stack is told."""
    result = run("""
import fakepair
HUNG = "== 7 v4l2-ctl\\n[<0>] schedule+0x1/0x2\\n[<0>] bttv_release+0x5f/0x3e0 [bttv]\\n"
@vcapdev.guest(allow=["hung-task"])
def test_one(guest):
    fakepair.VMS[-1].hung = [HUNG, HUNG]
    guest.spawn("stuck")
def test_two(guest):
    fakepair.VMS[-1].hung = [HUNG, HUNG]
    with pytest.raises(Exception, match="waited 60 s for sh"):
        guest.run("stuck")
def test_three(guest): assert guest.run("say here").lines == ["here"]
""")
    result.assert_outcomes(passed=1, failed=2)
    told = "*the guest's kernel does not let a program go (hung-task): v4l2-ctl (process 7) was killed and*"
    result.stdout.fnmatch_lines([f"{told} bttv_release [[]bttv]", "*bttv_release+0x5f*"] * 2)
    assert len(fakepair.BOOTS) == 3


def test_a_test_may_end_its_guest(run) -> None:
    result = run("""
def test_one(guest): guest.transition("off")
def test_two(guest):
    guest.run("finding not-pinned")
    guest.stop()
def test_three(guest): assert guest.run("say here").lines == ["here"]
""")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*the card's DMA, which the test did not look at: 1 finding came:"])
    assert len(fakepair.BOOTS) == 3


def test_a_warning_fails_the_test_in_which_it_came_and_no_other(run) -> None:
    result = run("""
def test_before(guest): pass
def test_warned(guest): guest.run("kernel WARNING: CPU: 0 PID: 1 at drivers/media/bttv.c:1\\\\nCall Trace:")
def test_after(guest): pass
""")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([
        "*the guest's kernel complained (warning): WARNING: CPU: 0 PID: 1 at drivers/media/bttv.c:1*",
        "*Captured guest kernel log call*",
        "*WARNING: CPU: 0 PID: 1 at drivers/media/bttv.c:1*",
        "*Captured guest console call*",
        "*Linux version 6.1.0-fake*",
        "*Captured register trace call*",
        "*R INT_STAT 0x10000800 RISCS=0x1 RISCI*",
    ])  # fmt: skip
    result.stdout.fnmatch_lines(["FAILED *::test_warned*"])
    assert len(fakepair.BOOTS) == 2  # a kernel that has complained is another one


def test_what_is_allowed_does_not_fail_and_what_is_expected_must_come(run) -> None:
    result = run("""
@vcapdev.guest(allow=["warning", "not-pinned"])
def test_allowed(guest):
    guest.run("kernel WARNING: CPU: 0 at a.c:1")
    guest.run("finding not-pinned")

def test_expected(guest):
    with guest.expect_complaint("*a.c*"):
        guest.run("kernel WARNING: CPU: 0 at a.c:1")

def test_death_expected(guest):
    with guest.expect_complaint("panic"):
        guest.run("panic")
    assert guest.state == "crashed"
    guest.reboot()
    assert guest.run("say alive").ok

def test_did_not_come(guest):
    with guest.expect_complaint("lockdep"):
        guest.run("kernel WARNING: CPU: 0 at a.c:1")

def test_no_such_kind(guest):
    with guest.expect_complaint("lockdpe"):
        pass
""")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines([
        "*expected the guest's kernel to complain (lockdep); it said: WARNING: CPU: 0 at a.c:1",
        "*UsageError: expect_complaint: 'lockdpe' is no kind of complaint and no rule; did you mean 'lock*",
    ])  # fmt: skip


def test_a_finding_that_nobody_looks_at_fails_the_test(run) -> None:
    result = run("""
def test_not_looked(guest): guest.run("finding not-pinned")
def test_looked(guest, card):
    guest.run("finding not-pinned")
    assert [verdict.rule for verdict in card.dma.verdicts] == ["not-pinned"]
def test_clean(guest, card):
    guest.run("finding free-page")
    card.dma.assert_clean()
""")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines([
        "*the card's DMA, which the test did not look at: 1 finding came:",
        "*vcapdev: not-pinned (V0): a page",
        "*Captured findings call*",
        "*ViolationError: 1 finding came:",
        "*vcapdev: free-page (V0): a page",
    ])  # fmt: skip


def test_expected_violations_must_come_and_no_other_may(run) -> None:
    result = run("""
def test_came(guest, card):
    with card.expect_violation("not-pinned", also=["free-page"]):
        guest.run("finding not-pinned")
        guest.run("finding free-page")
    card.dma.assert_clean()

def test_again_is_not_expected(guest, card):
    with card.expect_violation("not-pinned"):
        guest.run("finding not-pinned")
    guest.run("finding not-pinned")
    with pytest.raises(AssertionError):
        card.dma.assert_clean()

def test_did_not_come(guest, card):
    with card.expect_violation("not-pinned"):
        pass

def test_another_came(guest, card):
    with card.expect_violation("not-pinned"):
        guest.run("finding kernel-page")

def test_no_such_rule(guest, card):
    with card.expect_violation("not-pined"):
        pass
""")
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines([
        "*ViolationError: expected not-pinned, but it did not come (100 pages were judged)",
        "*ViolationError: expected not-pinned, but 1 finding came:",
        "*UsageError: expect_violation: there is no rule 'not-pined'; did you mean 'not-pinned'[?]",
    ])  # fmt: skip


def test_bad_keys_fail_the_tests_that_they_concern_in_one_line(run) -> None:
    result = run("""
@vcapdev.guest(kernal="bookworm-6.1")
def test_key(guest): pass

@vcapdev.guest(memory="lots")
def test_value(guest): pass

@pytest.mark.vcapdev_guest("bookworm-6.1")
def test_positional(guest): pass

def test_capture(guest): guest.capture(size="big")
def test_keyword(guest): guest.capture(frame=3)
def test_pressure(guest): guest.pressure("pageout")
def test_kind(guest): guest.pressure("pagout")
def test_good(guest): pass
""")
    result.assert_outcomes(passed=1, failed=4, errors=3)
    result.stdout.fnmatch_lines_random([
        "@vcapdev.guest: there is no key 'kernal'; did you mean 'kernel'[?]",
        "@vcapdev.guest: memory='lots': give MiB, or text such as '256M' or '1G'",
        "@vcapdev.guest takes keywords only, not 'bookworm-6.1'",
        "*UsageError: capture: size='big': give width and height, such as '768x576'",
        "*UsageError: capture: there is no keyword 'frame'; did you mean 'frames'[?]",
        "*UsageError: pressure('pageout') needs swap to push pages to; ask for @vcapdev.guest(swap='disk')*",
        "*UsageError: pressure('pagout'): there is no such kind; did you mean 'pageout'[?]",
    ])  # fmt: skip
    assert "contextlib.py" not in result.stdout.str()  # a traceback ends at the test's own line


def test_a_recipe_that_does_not_exist_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import vcapdev

@vcapdev.guest(kernel="bookwurm-6.1")
def test_one(guest): pass
""")
    result = pytester.runpytest_inprocess("-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no recipe 'bookwurm-6.1' in images/; did you mean 'bookworm-6.1'[?]"])


def test_ctrl_c_ends_the_guests(run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_int="def test_one(guest): raise KeyboardInterrupt\ndef test_two(guest): pass\n")
    result = pytester.runpytest_inprocess(
        "-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider", no_reraise_ctrlc=True
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert len(fakepair.BOOTS) == len(fakepair.STOPS) == 1


def test_the_kernel_of_tests_that_name_none(run, pytester: pytest.Pytester) -> None:
    text = "def test_one(guest): pass\n@vcapdev.guest(kernel='bookworm-6.1')\ndef test_two(guest): pass\n"
    run(text, "--vcapdev-kernel", "trixie-6.12").assert_outcomes(passed=2)
    assert [config.kernel for config in fakepair.BOOTS] == ["trixie-6.12", "bookworm-6.1"]
    fakepair.BOOTS.clear()
    pytester.makeini("[pytest]\nvcapdev_kernel = bullseye-5.10\n")
    run(text).assert_outcomes(passed=2)
    assert [config.kernel for config in fakepair.BOOTS] == ["bullseye-5.10", "bookworm-6.1"]


def test_a_session_can_boot_its_guests_afresh(run) -> None:
    text = """
def test_one(guest): assert guest.config.cold
@vcapdev.guest(clock="fast")
def test_two(guest): assert guest.config.cold
@vcapdev.guest(cold=False)
def test_three(guest): assert not guest.config.cold
"""
    run(text, "--cold").assert_outcomes(passed=3)
    assert [config.run_options().cold for config in fakepair.BOOTS] == [True, False]
    fakepair.BOOTS.clear()
    run("def test_one(guest): assert not guest.config.cold").assert_outcomes(passed=1)
    assert [config.run_options().cold for config in fakepair.BOOTS] == [False]


def test_the_marks_and_options_are_explained(run) -> None:
    shown = run("", "--markers").stdout.str()
    assert "@pytest.mark.vcapdev_guest(kernel, memory, swap, ...): @vcapdev.guest(...)" in shown
    shown = run("", "--help").stdout.str()
    assert "--vcapdev-kernel" in shown
    assert "--cold" in shown


def test_a_sweep_runs_each_fault_at_each_of_its_points(run) -> None:
    """The fake card has three points of each fault; the run with the fourth is the one without."""
    result = run(
        """
runs = []

@vcapdev.every_fault("interrupt-lost", "signal-lost")
def test_swept(guest, card):
    runs.append(card.armed.at)
    guest.run("say something")

def test_how_often(): assert runs == [1, 2, 3, 4] * 2
""",
        "-v",
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_swept?interrupt-lost? PASSED*", "*test_swept?signal-lost? PASSED*"])
    assert len(fakepair.BOOTS) == 1


def test_a_sweep_says_which_fault_broke_the_test_and_where(run) -> None:
    result = run("""
@vcapdev.every_fault("interrupt-lost")
def test_breaks(guest, card):
    assert card.armed.at != 2, "a frame was lost"

@vcapdev.every_fault("interrupt-late")
def test_warns(guest, card):
    if card.armed.at == 3:
        guest.run("kernel WARNING: CPU: 0 at a.c:1")

@vcapdev.every_fault("unplug")
def test_broken_anyway(guest, card):
    assert card.armed.at != 4
""")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines([
        "*AssertionError: a frame was lost*",
        "*broken by the fault interrupt-lost at its point 2 (the line rises and nobody notices; *",
        "*the guest's kernel complained (warning): WARNING: CPU: 0 at a.c:1*",
        "*broken by the fault interrupt-late at its point 3 (*",
        "*broken without a fault: unplug had not come at its point 4*",
    ])  # fmt: skip


def test_a_sweep_can_be_bounded_and_a_fault_that_never_comes_is_told(run) -> None:
    result = run("""
runs = []

@vcapdev.every_fault("interrupt-lost", points=2)
def test_bounded(card): runs.append(1)

def test_count(): assert len(runs) == 2

@vcapdev.every_fault("i2c-nack")
def test_named(card): pass

@vcapdev.every_fault()
def test_all(card): pass

@vcapdev.every_fault("interrupt-lost")
def test_without_a_guest(): pass
""")
    result.assert_outcomes(passed=2 + 15, failed=2, skipped=1)
    result.stdout.fnmatch_lines_random([
        "i2c-nack: no point of it came while the test ran",
        "@vcapdev.every_fault: the test has neither the fixture guest nor card",
    ])  # fmt: skip


def test_a_fault_that_does_not_exist_is_told_in_one_line(run) -> None:
    result = run("""
@vcapdev.every_fault("interupt-lost")
def test_one(card): pass
""")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([
        "@vcapdev.every_fault: there is no fault 'interupt-lost'; did you mean 'interrupt-lost'[?]"
    ])  # fmt: skip


def test_what_takes_long_is_told_though_pytest_keeps_output_to_itself(run) -> None:
    result = run("""
def test_one(guest): print("kept")
""")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["vcapdev: building what is not there ..."])
    result.stdout.no_fnmatch_line("kept")
