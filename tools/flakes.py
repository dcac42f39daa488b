# SPDX-License-Identifier: GPL-2.0-or-later
"""How often a test fails for no reason: many guest tests in a row, shuffled, and the rate with its interval.

``make flakes N=1000``. The tests are such as users write: captures of all ways and formats with and without
memory pressure, the clock stepped by hand, modules exchanged, guests thrown away. The driver is the stock
one, so that each failure is a flake: of the tool, of the guest, or of the machine. Two processes share them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

TESTS = """
import pytest
import vcapdev

NUMBERS = {numbers!r}
FORMATS = ("YUYV", "RGB4", "YU12", "GREY", "RGBP")


def captured(guest, card, number, **more):
    wanted = 6 + number % 9
    result = guest.capture(frames=wanted, format=FORMATS[number % 5], **more)
    assert result.intact == wanted, result
    card.dma.assert_clean()


def userptr(guest, card, number):
    captured(guest, card, number, io="userptr", size="768x576")


def mmap(guest, card, number):
    captured(guest, card, number, io="mmap", size="384x288", buffers=2 + number % 6)


def read(guest, card, number):
    captured(guest, card, number, io="read", size="320x240")


def reclaim(guest, card, number):
    with guest.pressure("pageout", every="50ms"):
        captured(guest, card, number, io="userptr", size="768x576")


def compaction(guest, card, number):
    with guest.pressure("compact", every="50ms"):
        captured(guest, card, number, io="userptr", size="640x480")


def stepped(guest, card, number):
    with card.stepped():
        card.step(4)
    captured(guest, card, number, io="mmap", size="320x240")


def reloaded(guest, card, number):
    guest.unload("bttv")
    guest.load("bttv")
    captured(guest, card, number, io="mmap", size="320x240")


def commands(guest, card, number):
    guest.push(b"x" * (1 + number), "/tmp/file")
    assert guest.pull("/tmp/file") == b"x" * (1 + number)
    assert guest.run("v4l2-ctl --all -d /dev/video0").ok


KINDS = (userptr, mmap, read, reclaim, compaction, stepped, reloaded, commands)


def play(guest, card, number):
    KINDS[number % len(KINDS)](guest, card, number)


@pytest.mark.parametrize("number", [n for n in NUMBERS if n % 5])
@vcapdev.guest(kernel="{kernel}", memory="256M", swap="disk")
def test_shared(guest, card, number):
    play(guest, card, number)


@pytest.mark.parametrize("number", [n for n in NUMBERS if not n % 5])
@vcapdev.guest(kernel="{kernel}", memory="256M", swap="disk", fresh=True)
def test_fresh(guest, card, number):
    play(guest, card, number)
"""


def interval(failed: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """The exact (Clopper-Pearson) confidence interval of a rate."""
    tail = (1 - level) / 2

    def beyond(rate: float, least: int) -> float:
        """The probability of at least so many failures."""
        return sum(math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(least, of + 1))

    def solve(least: int, wanted: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if beyond(middle, least) < wanted else (low, middle)
        return low

    return (
        0.0 if not failed else solve(failed, tail),
        1.0 if failed == of else solve(failed + 1, 1 - tail),
    )


def main() -> int:
    """Play, count, and tell; 0 whatever the rate is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--kernel", default="bookworm-6.1")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    numbers = list(range(options.tests))
    random.Random(options.seed).shuffle(numbers)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vcap-flakes-") as name:
        shares = [numbers[share :: options.workers] for share in range(options.workers)]
        workers = [_start(Path(name), at, share, options.kernel) for at, share in enumerate(shares)]
        try:
            for worker in workers:
                worker.wait()
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
        found = [_read(Path(name) / f"{at}.xml") for at in range(options.workers)]
    figures = _figures(options, found, time.monotonic() - begin)
    print(json.dumps(figures, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _start(place: Path, at: int, numbers: list[int], kernel: str) -> subprocess.Popen[bytes]:
    directory = place / str(at)
    directory.mkdir()
    text = TESTS.replace("{numbers!r}", repr(numbers)).replace("{kernel}", kernel)
    (directory / "test_flakes.py").write_text(text, encoding="utf-8")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider"]
    argv += ["--rootdir", str(directory), f"--junitxml={place / f'{at}.xml'}", str(directory)]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _read(path: Path) -> list[tuple[str, str, str]]:
    """Of each test: its name, how it ended, and the first line of why."""
    if not path.is_file():
        return [("all of them", "error", "pytest wrote no results")]
    found = []
    for case in ET.parse(path).iter("testcase"):
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        lines = [] if bad is None else str(bad.get("message")).splitlines()
        found.append((str(case.get("name")), "passed" if bad is None else bad.tag, " ".join(lines)[:300]))
    return found


def _figures(
    options: argparse.Namespace, found: list[list[tuple[str, str, str]]], seconds: float
) -> dict[str, object]:
    tests = [test for each in found for test in each]
    bad = [test for test in tests if test[1] != "passed"]
    low, high = interval(len(bad), max(len(tests), 1))
    return {
        "kernel": options.kernel,
        "seed": options.seed,
        "tests": len(tests),
        "failures": sum(test[1] == "failure" for test in bad),
        "errors": sum(test[1] == "error" for test in bad),
        "rate": len(bad) / max(len(tests), 1),
        "interval_95": [round(low, 5), round(high, 5)],
        "minutes": round(seconds / 60, 1),
        "tests_a_minute": round(len(tests) * 60 / seconds, 1),
        "bad": bad,
    }


if __name__ == "__main__":
    sys.exit(main())
