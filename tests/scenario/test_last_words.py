# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what a guest says when the last scenario has been judged and none comes behind it. No guest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vcapdev.scenario import suite
from vcapdev.scenario.model import Test
from vcapdev.scenario.options import ScenarioOptions
from vcapdev.scenario.results import Status, TestResult
from vcapdev.testing.guest import Guest
from vcapdev.testing.keeper import Keeper

sys.path.insert(0, str(Path(__file__).parents[1] / "testing"))
import fakepair

WARNING = "WARNING: CPU: 0 PID: 1 at a.c:1"
#: A worker whose guests are fakes, and say something before they are ended.
WORKER = f"""
import sys
sys.path.insert(0, {str(Path(fakepair.__file__).parent)!r})
import fakepair
from vcapdev.scenario import worker
from vcapdev.testing.guest import Guest
from vcapdev.testing.keeper import Keeper
worker._guest = lambda config: Guest(config, opener=fakepair.opener)
close = Keeper.close
def talking(self):
    for vm in fakepair.VMS[-1:]:
        vm.log({WARNING!r})
    close(self)
Keeper.close = talking
sys.exit(worker.main())
"""
DEAD_END = WORKER.replace("    close(self)", "    import os; os._exit(7)")
SAYS = "title: x\nsteps: [{run: say well}]\nexpect: {pages: 0}\n"


@pytest.fixture
def tests(tmp_path: Path) -> Callable[..., list[Test]]:
    """Makes tests of texts that are added to a scenario in which all goes well."""

    def make(*more: str) -> list[Test]:
        for name, text in zip("abcd", more, strict=False):
            (tmp_path / f"{name}.yaml").write_text(SAYS + text)
        return suite.selected(ScenarioOptions(files=(tmp_path,), kernels=("bookworm-6.1",)))

    return make


def alone(tests: list[Test], monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[TestResult]:
    """Plays them in this process; ``act`` before the last guest is ended."""
    close = Keeper.close
    acts = [act]

    def closing(self: Keeper) -> None:
        while acts:
            acts.pop()()
        close(self)

    fakepair.VMS.clear()
    monkeypatch.setattr(Keeper, "close", closing)
    monkeypatch.setattr(suite, "_guest", lambda config: Guest(config, opener=fakepair.opener))
    told: list[TestResult] = []
    found = suite.run(tests, ScenarioOptions(), told.append)
    assert [one.id for one in found] == [test.id for test in tests]
    assert sorted((one.id, one.status) for one in found) == sorted((one.id, one.status) for one in told)
    return found


def complain() -> None:
    fakepair.VMS[-1].log(WARNING)


def find() -> None:
    fakepair.VMS[-1].device.find("not-pinned")


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (complain, f"after the test was judged: the guest's kernel complained (warning): {WARNING}"),
        (find, "after the test was judged: the checker found (not-pinned): vcapdev: not-pinned (V0): a page"),
    ],
)
def test_what_comes_behind_the_last_one_is_its_failure(
    tests: Callable[..., list[Test]], monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], text: str
) -> None:
    """Also where something that cannot be played stands behind it."""
    first, last, skipped = alone(tests("", "", "kernel: trixie-*\n"), monkeypatch, act)
    assert (first.status, last.status, skipped.status) == (Status.PASS, Status.FAIL, Status.SKIP)
    assert last.failures[0].text.startswith(text)
    assert last.message == text


@pytest.mark.parametrize(
    ("act", "more"),
    [
        (complain, "allow: [warning]\n"),
        (find, "allow: [not-pinned]\n"),
        (lambda: None, ""),
        # A control that is red as it must be: its driver is known to be wrong.
        (complain, "variants: {control: {red: never, expect: {kernel-log: {has: never}}}}\n"),
    ],
)
def test_what_it_allows_is_no_failure(
    tests: Callable[..., list[Test]], monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], more: str
) -> None:
    found = alone(tests(more), monkeypatch, act)
    assert [one.status for one in found] == [Status.PASS], found[0].message


def workers(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    start: Any = subprocess.Popen
    monkeypatch.setattr(
        suite.subprocess, "Popen", lambda words, **options: start([sys.executable, "-c", text], **options)
    )


@pytest.mark.timeout(60)
def test_each_worker_has_a_last_one(
    tests: Callable[..., list[Test]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines, two workers: their guests are heard out as soon as nothing is left to play."""
    workers(monkeypatch, WORKER)
    found = suite.run(
        tests("", "", "memory: 512M\n", "memory: 512M\n"), ScenarioOptions(jobs=2), lambda _: None
    )
    failed = [one for one in found if one.status == Status.FAIL]
    assert [one.status for one in found].count(Status.PASS) == 2
    assert len(failed) == 2
    assert {one.message for one in failed} == {
        f"after the test was judged: the guest's kernel complained (warning): {WARNING}"
    }


@pytest.mark.timeout(60)
def test_a_worker_that_dies_over_it_leaves_no_pass(
    tests: Callable[..., list[Test]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers(monkeypatch, DEAD_END)
    found = suite.run(tests("", "memory: 512M\n"), ScenarioOptions(jobs=2), lambda _: None)
    assert [(one.status, one.exit_status) for one in found] == [(Status.ERROR, 30)] * 2
    assert {one.message for one in found} <= {
        "the worker ended with status 7, its guest was not heard out",
        "the worker ended with status None, its guest was not heard out",  # its end is not yet known
    }
