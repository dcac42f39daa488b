# SPDX-License-Identifier: GPL-2.0-or-later
"""Placement: the machine is asked, its answer is used, and nothing is left changed that was not asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vcapdev.run import placement


@pytest.fixture(autouse=True)
def _own_affinity() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    yield
    assert os.sched_getaffinity(0) == before, "the runner itself was left on one CPU"


@pytest.fixture
def two_threads() -> Iterator[subprocess.Popen[bytes]]:
    code = "import threading; t = threading.Thread(target=input); t.start(); print('up', flush=True)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


@pytest.mark.parametrize(("alone", "apart", "together"), [(20e-6, 90e-6, True), (20e-6, 40e-6, False)])
def test_the_measured_way_decides(
    monkeypatch: pytest.MonkeyPatch, alone: float, apart: float, together: bool
) -> None:
    first, second = 3, 7
    here = os.sched_getaffinity(0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {second, first})
    moved: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: moved.append(set(cpus)))
    monkeypatch.setattr(placement, "_round_trip", lambda cpu: {first: alone, second: apart}[cpu])
    assert placement.better_together() is together
    assert moved == [{first}, {first, second}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: here)


def test_one_cpu_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda pid: {0})
        patch.setattr(placement, "_round_trip", lambda cpu: pytest.fail("nothing to choose"))
        assert not placement.better_together()


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hinders the measurement, the scheduler keeps its choice."""
    monkeypatch.setattr(placement, "_ECHO", "raise SystemExit(1)")
    assert not placement.better_together()


def test_messages_go_to_and_fro() -> None:
    cpu = min(os.sched_getaffinity(0))
    assert 0 < placement._round_trip(cpu) < placement._SILENCE


def test_all_threads_are_moved(two_threads: subprocess.Popen[bytes]) -> None:
    assert placement.put_together([two_threads.pid])
    tasks = [int(name) for name in os.listdir(f"/proc/{two_threads.pid}/task")]
    assert len(tasks) == 2
    (where,) = {frozenset(os.sched_getaffinity(task)) for task in tasks}
    assert len(where) == 1


def test_a_process_that_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not placement.put_together([process.pid])


def test_for_a_while_only(monkeypatch: pytest.MonkeyPatch, two_threads: subprocess.Popen[bytes]) -> None:
    here = os.sched_getaffinity(0)
    threads = [int(name) for name in os.listdir(f"/proc/{two_threads.pid}/task")]
    for wanted, cpus in ((True, {1}), (False, {len(here)})):
        monkeypatch.setattr(placement, "_asked", lambda wanted=wanted: wanted)
        with placement.together([two_threads.pid]):
            assert {len(os.sched_getaffinity(thread)) for thread in threads} == cpus
        assert all(os.sched_getaffinity(thread) == here for thread in threads)
