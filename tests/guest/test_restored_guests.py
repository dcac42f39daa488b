# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects guests that go on from a snapshot: two at a time, with a card, a clock and dice of their own."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from vcapdev.bt878.expected import expected_frame
from vcapdev.progress import Silent
from vcapdev.run.capture import EXPECT
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair
from vcapdev.run.prepare import Prepared
from vcapdev.vm.agent import Agent

pytestmark = pytest.mark.guest

OPTIONS = RunOptions(cold=False, memory=128, swap="disk")
CAPTURE = ["vcap-capture", "--io", "userptr", "--frames", "3", "--buffers", "2", "--pool", "3"]
CAPTURE += ["--expect", EXPECT, "--full-every", "1", "--hold-ms", "0", "--pageout", "idle,queued"]


@pytest.fixture(scope="module")
def pairs(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pair]]:
    """Two guests from one snapshot, both running."""
    with ExitStack() as stack:
        made = []
        for name in ("a", "b"):
            pair = Pair(OPTIONS, prepared, Path(tmp_path_factory.mktemp(name)), Silent())
            stack.callback(pair.stop)
            pair.start()
            made.append(pair)
        yield made


def said(agent: Agent, *words: str) -> str:
    result = agent.run(list(words))
    assert result.status == 0, result.stderr
    return result.stdout.strip()


def test_frames_come_intact_and_every_write_is_judged(pairs: list[Pair]) -> None:
    expected = expected_frame("PAL", "YUYV", 768, 576, "interlaced").file()
    captures = []
    for pair in pairs:
        pair.vm.agent.push(expected, EXPECT)
        captures.append(pair.vm.agent.spawn(CAPTURE))
    for pair, capture in zip(pairs, captures, strict=True):
        result = capture.wait(60)
        summary: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        assert (result.status, summary["verified"], summary["intact"]) == (0, 3, 3), result.stderr
        assert pair.pins_left(pair.vm.agent) == 0
        status = pair.device.call("check-status")
        assert status["attached"]
        assert status["pages_checked"] >= 3 * 216
        assert status["unchecked_writes"] == 0
        assert status["verdicts"] == {}
        assert status["defects"] == []


def test_each_has_the_right_time_and_random_numbers_of_its_own(pairs: list[Pair]) -> None:
    numbers = []
    for pair in pairs:
        before = int(time.time())
        clock = int(said(pair.vm.agent, "date", "+%s"))
        assert before - 1 <= clock <= time.time() + 1
        numbers += [said(pair.vm.agent, "cat", "/proc/sys/kernel/random/uuid") for _ in range(2)]
        numbers.append(said(pair.vm.agent, "sh", "-c", "head -c 16 /dev/urandom | od -A n -t x1"))
    assert len(set(numbers)) == len(numbers)


def test_each_has_its_own_swap_and_the_whole_log(pairs: list[Pair]) -> None:
    for pair in pairs:
        agent = pair.vm.agent
        assert "/dev/vda" in said(agent, "cat", "/proc/swaps")
        log = pair.vm.kernel_log().splitlines()
        assert "Linux version" in log[0]
        assert any(re.search(r"pci 0000:01:00\.0: \[109e:036e\]", line) for line in log)
        console = pair.vm.console_log.read_text(errors="replace")
        assert console.index("Linux version") < console.index("bttv: Bt8xx card found")
        assert said(agent, "sh", "-c", "swapoff /dev/vda && mkswap /dev/vda && swapon /dev/vda && echo good")
    assert len({pair.vm.config.swap_disk for pair in pairs}) == 2
