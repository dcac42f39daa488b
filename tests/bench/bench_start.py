# SPDX-License-Identifier: GPL-2.0-or-later
"""How quickly a test has a guest: from its start to the first verified frame, and tests a minute.

Sessions of pytest are measured, with tests as users write them: each captures one frame of 768x576 by
USERPTR, has all of it compared, and the card's DMA judged. Each asks for a fresh guest of 128 MiB, which goes
on from its snapshot; ``shared`` tests all have one guest. The snapshot is there before. Times are medians
over the tests of one process, without its first, which starts the process that forks devices. Rates are those
of two workers of pytest-xdist, first tests included: all tests over the time from the first begin to the last
end.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_TESTS = 15
_ROOT = Path(__file__).parents[2]
_DEADLINE = 600.0  # seconds for a session
_CONFTEST = """
import json
import os
import time
from pathlib import Path

import pytest

TIMES = {}

@pytest.fixture
def times():
    return TIMES

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    TIMES["begin"] = time.monotonic()
    result = yield
    TIMES["end"] = time.monotonic()
    with Path("times", str(os.getpid())).open("a") as file:
        file.write(json.dumps(TIMES) + "\\n")
    return result
"""
_TEST = """
import time
from pathlib import Path

import pytest
import vcapdev

def megabytes(pid):
    "What a process takes, with its share of what it shares (proc(5), smaps_rollup)."
    lines = Path(f"/proc/{{pid}}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000

@vcapdev.guest(memory="128M", fresh={fresh})
@pytest.mark.parametrize("number", range({count}))
def test_first_frame(guest, card, times, number):
    times["ready"] = time.monotonic()
    capture = guest.start_capture(frames=1, buffers=2, pool=3, hold=0)
    capture.wait_frames(1)
    times["verified"] = time.monotonic()
    assert capture.wait().intact == 1
    times["memory"] = sum(megabytes(pid) for pid in (guest.vm.pid, guest.device.pid))
    card.dma.assert_clean(at_least=216)
"""


def measure() -> dict[str, float]:
    """Medians in seconds, megabytes of one guest with its card, tests a minute."""
    session(1)  # makes the snapshot, and what else the cache lacks
    tests = sorted(session(_TESTS + 1), key=lambda each: each["begin"])[1:]
    both = [(f"{name}tests_a_minute", rate(session(2 * _TESTS, "-n2", fresh=not name)))
            for name in ("", "shared_")]  # fmt: skip
    return {
        "guest_ready": statistics.median(each["ready"] - each["begin"] for each in tests),
        "first_frame": statistics.median(each["verified"] - each["begin"] for each in tests),
        "whole_test": statistics.median(each["end"] - each["begin"] for each in tests),
        "memory_mb": statistics.median(each["memory"] for each in tests),
    } | dict(both)


def rate(tests: list[dict[str, float]]) -> float:
    """Tests a minute."""
    span = max(each["end"] for each in tests) - min(each["begin"] for each in tests)
    return 60 * len(tests) / span


def session(count: int, *options: str, fresh: bool = True) -> list[dict[str, Any]]:
    """When each test of a session began, had its guest, had its frame verified, and had ended; and memory.

    :raise RuntimeError: a test failed: there is no figure then.
    """
    with tempfile.TemporaryDirectory(prefix="vcap-b-") as name:
        place = Path(name)
        (place / "times").mkdir()
        (place / "conftest.py").write_text(_CONFTEST)
        (place / "test_start.py").write_text(_TEST.format(count=count, fresh=fresh))
        words = ["-m", "pytest", "-q", "-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider", *options]
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run(
            [sys.executable, *words], cwd=place, env={**os.environ, "PYTHONPATH": path}, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE, check=False,
        )  # fmt: skip
        lines = [line for file in (place / "times").iterdir() for line in file.read_text().splitlines()]
    if done.returncode or len(lines) != count:
        raise RuntimeError(f"a session failed: {done.stdout}{done.stderr}")
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:22} {value:8.2f}")
