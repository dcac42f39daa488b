# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects ``-j N`` from waiting for ever, and the machine from workers that outlive it. No guest."""

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

JOBS = ScenarioOptions(jobs=2)
PATIENT = "import sys, time; sys.stdin.readline(); print(flush=True); sys.stdin.readline(); time.sleep(1000)"

Popen = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def tests(tmp_path: Path) -> list[Test]:
    for name in "abcd":
        (tmp_path / f"{name}.yaml").write_text("title: nothing\nsteps: [{run: 'true'}]\n")
    return suite.selected(ScenarioOptions(files=(tmp_path,), kernels=("bookworm-6.1",)))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Workers that answer their first order with an empty line and never the second."""
    found: list[subprocess.Popen[str]] = []
    start: Popen = subprocess.Popen

    def patient(words: Any, **options: Any) -> subprocess.Popen[str]:
        found.append(start([sys.executable, "-c", PATIENT], **options))
        return found[-1]

    monkeypatch.setattr(suite.subprocess, "Popen", patient)
    return found


def ended(processes: list[subprocess.Popen[str]]) -> bool:
    return bool(processes) and all(process.poll() is not None for process in processes)


@pytest.mark.timeout(60)
def test_workers_that_cannot_be_started_are_told_of(
    tests: list[Test], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where memory or processes have run out."""

    def refused(words: Any, **options: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(suite.subprocess, "Popen", refused)
    found = suite.run(tests, JOBS, lambda result: None)
    assert [(one.status, one.exit_status) for one in found] == [(Status.ERROR, 30)] * len(tests)
    assert {one.message for one in found} == {
        "no worker could be started to play it: Resource temporarily unavailable"
    }


@pytest.mark.timeout(60)
def test_a_defect_in_a_thread_ends_the_run(
    tests: list[Test], started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has status 1, and the workers are ended."""
    monkeypatch.setattr(suite, "_lost", lambda test, text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        suite.run(tests, JOBS, lambda result: None)
    assert ended(started)


@pytest.mark.timeout(60)
def test_an_interrupt_ends_workers_that_are_busy(
    tests: list[Test], started: list[subprocess.Popen[str]]
) -> None:
    def interrupted(result: TestResult) -> None:
        raise KeyboardInterrupt("SIGINT")

    with pytest.raises(KeyboardInterrupt):
        suite.run(tests, JOBS, interrupted)
    assert ended(started)
