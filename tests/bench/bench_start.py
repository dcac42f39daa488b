# SPDX-License-Identifier: GPL-2.0-or-later
"""How quickly a test has a guest: from its start to the first verified frame, and tests a minute.

A test here is what a short one of a user is: a guest of 128 MiB with a swap disk goes on from its snapshot,
with the card and the checker, captures one frame of 768x576 by USERPTR into it, compares all of it, and ends.
The snapshot is made before, the first test is not counted: it starts the process that forks devices. Times
are medians. The rate is that of two processes which do such tests one after another, as pytest-xdist would.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

from vcapdev.bt878.expected import expected_frame
from vcapdev.progress import Silent
from vcapdev.run.capture import EXPECT
from vcapdev.run.nursery import warm
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair
from vcapdev.run.prepare import Prepared, prepare

_TESTS = 15
_WORKERS = 2
_CAPTURE = ["vcap-capture", "--frames", "1", "--buffers", "2", "--pool", "3", "--hold-ms", "0"]
_CAPTURE += ["--expect", EXPECT]
_OPTIONS = RunOptions(memory=128)
_EXPECTED = ("PAL", "YUYV", 768, 576, "interlaced")


def measure() -> dict[str, float]:
    """Medians in seconds, tests a minute, and megabytes of one guest with its card."""
    prepared = prepare(_OPTIONS, Silent())
    expected = expected_frame(*_EXPECTED).file()
    one_test(prepared, expected)
    tests = [one_test(prepared, expected) for _ in range(_TESTS)]
    figures = {name: statistics.median(each[name] for each in tests) for name in tests[0]}
    warm().close()  # the workers have their own
    return figures | {"tests_a_minute": rate()}


def one_test(prepared: Prepared, expected: bytes) -> dict[str, float]:
    """When its guest was ready, when the first frame was verified, when all had ended; memory meanwhile."""
    with tempfile.TemporaryDirectory(prefix="vcap-b-") as name:
        begin = time.monotonic()
        pair = Pair(_OPTIONS, prepared, Path(name))
        try:
            agent = pair.start()
            ready = time.monotonic()
            agent.push(expected, EXPECT)
            lines: list[tuple[float, str]] = []
            agent.run(_CAPTURE, on_stdout=lambda line: lines.append((time.monotonic(), line)))
            verified, last = lines[-1]  # told behind the comparison
            summary = json.loads(last)
            status = pair.device.call("check-status")
            if summary["intact"] != 1 or not status["pages_checked"] or status["verdicts"]:
                raise RuntimeError(f"a test failed: {summary}, {status}")
            memory = sum(_megabytes(pid) for pid in (pair.vm.pid, pair.device.pid) if pid is not None)
        finally:
            pair.stop()
    end = time.monotonic()
    return {
        "guest_ready": ready - begin,
        "first_frame": verified - begin,
        "whole_test": end - begin,
        "memory_mb": memory,
    }


def _megabytes(pid: int) -> float:
    """What a process takes, with its share of what it shares (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def rate() -> float:
    """Tests a minute of two processes."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(_WORKERS + 1)
    workers = [context.Process(target=_work, args=(start,)) for _ in range(_WORKERS)]
    for worker in workers:
        worker.start()
    start.wait()
    begin = time.monotonic()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a worker failed")
    return 60 * _WORKERS * _TESTS / (time.monotonic() - begin)


def _work(start: multiprocessing.synchronize.Barrier) -> None:
    prepared, expected = prepare(_OPTIONS, Silent()), expected_frame(*_EXPECTED).file()
    one_test(prepared, expected)
    start.wait()
    for _ in range(_TESTS):
        one_test(prepared, expected)


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:20} {value:8.2f}")
