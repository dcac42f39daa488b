# SPDX-License-Identifier: GPL-2.0-or-later
"""Results for the tests of the writers: one of each status, and a guest that says what breaks formats."""

from __future__ import annotations

from vcapdev.scenario.results import (
    Event,
    Failure,
    Picture,
    Results,
    Status,
    StepResult,
    Subtest,
    TestResult,
    What,
)

#: What a hostile guest may say: terminal commands, NUL, ends of CDATA, of script and of comments, directives.
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07 \x00 ]]> </script><script>alert(1)</script> <!-- --> &amp; \"'\r"
    " # SKIP not really \u202e\ud800\ufffe \x9b31m\nok 1 forged\nnot ok 2 forged\n1..0\nKTAP version 1"
)


def sample() -> Results:
    """One test of each status on two kernels."""
    tests = [
        TestResult("capture", "bookworm-6.1", "a capture", "capture.yaml", Status.PASS, "", 1.25,
                   steps=[StepResult("capture frames 10", "pass", 0.1, 1.0)],
                   figures={"pages judged": 432, "fields": 20},
                   timeline=[Event("fields", "odd 0", 1000, 20000),
                             Event("DMA", "frame 0", 1500, 100, "pinned-anon"),
                             Event("DMA", "program 1", 1800, 0, "fail", "not-pinned, page unpinned"),
                             Event("registers", "W INT_STAT 0x00000800 RISCI", 1900),
                             Event("pressure", "pressure pageout", 900, 30000, "", "3 rounds, 40 pages"),
                             Event("interrupts", "RISCI", 21000)], release="6.1.0"),
        TestResult("storm", "bookworm-6.1", "a storm", "storm.yaml", Status.FAIL,
                   "not-pinned (V3): a page", 2.0,
                   [Failure(What.VERDICT, "verdict: not-pinned (V3): a page",
                            "not-pinned (V3): a page\nsecond line")],
                   [StepResult("repeat 3", "fail", 0.0, 2.0),
                    StepResult("run true", "fail", 0.5, 0.25, "status 1", 1)],
                   texts=[["guest kernel log", "[    1.000000] <b>bold</b>"]],
                   splats=["not-pinned (V3): a page"],
                   repeat="vcapdev scenario storm.yaml", release="6.1.0"),
        TestResult("compliance", "bookworm-6.1", "compliance", "compliance.yaml", Status.FAIL, "1 of 3",
                   3.0,
                   [Failure(What.SUBTEST, "subtest: b", "b failed")],
                   subtests=[Subtest("a", Status.PASS), Subtest("b", Status.FAIL, "it broke"),
                             Subtest("c", Status.PASS, "", [Subtest("c1", Status.SKIP, "not here"),
                                                             Subtest("c2", Status.PASS)])]),
        TestResult("capture", "trixie-6.12", "a capture", "capture.yaml", Status.KNOWN, "storm of old", 1.0,
                   [Failure(What.KERNEL, "kernel: WARNING: at N", "WARNING: at 5", "reported")]),
        TestResult("storm", "trixie-6.12", "a storm", "storm.yaml", Status.ERROR, "no disk", 0.5,
                   [Failure(What.INFRASTRUCTURE, "infrastructure: no disk", "no disk")], exit_status=20),
        TestResult("compliance", "trixie-6.12", "compliance", "compliance.yaml", Status.SKIP, "for 6.1 only"),
    ]  # fmt: skip
    return Results(tests, "vcapdev scenario x", "2026-11-23T07:00:00+00:00", "0.0")


def hostile() -> Results:
    """Whatever a guest, a file or a driver can say, everywhere."""
    inner = [Subtest(HOSTILE, Status.FAIL, HOSTILE, [Subtest(HOSTILE, Status.PASS, HOSTILE)])]
    tests = [
        TestResult(HOSTILE, "k" + HOSTILE, HOSTILE, HOSTILE, status, HOSTILE, 1.0,
                   [Failure(What.STEP, HOSTILE, HOSTILE, HOSTILE)],
                   [StepResult(HOSTILE, "fail", 0.0, 1.0, HOSTILE)], inner, {HOSTILE: 1},
                   [[HOSTILE, HOSTILE]], [HOSTILE],
                   [Picture(HOSTILE, 'x" onerror="alert(1)', [[HOSTILE, HOSTILE]]),
                    Picture(HOSTILE, "AAAA", [[HOSTILE, HOSTILE]])],
                   [Event(HOSTILE, HOSTILE, 1, 2, HOSTILE, HOSTILE)], HOSTILE, HOSTILE, 30)
        for status in Status
    ]  # fmt: skip
    return Results(tests, HOSTILE, HOSTILE, HOSTILE, [HOSTILE])
