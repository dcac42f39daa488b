# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects guests that go on from a snapshot: two at a time, with a card, a clock and dice of their own."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from vcapdev.testing import Guest, GuestConfig

pytestmark = pytest.mark.guest

CONFIG = GuestConfig(memory=128, swap="disk")


@pytest.fixture(scope="module")
def guests() -> Iterator[list[Guest]]:
    """Two guests from one snapshot, both running: more than the fixture ``guest`` gives a test."""
    with Guest(CONFIG) as one, Guest(CONFIG) as other:
        yield [one, other]


def said(guest: Guest, *words: str) -> str:
    return guest.run(words, check=True).stdout.strip()


def test_frames_come_intact_and_every_write_is_judged(guests: list[Guest]) -> None:
    captures = [
        guest.start_capture(3, io="userptr", buffers=2, pool=3, hold=0, pageout=["idle", "queued"])
        for guest in guests
    ]
    for guest, capture in zip(guests, captures, strict=True):
        result = capture.wait(60)
        assert (result.status, result.summary["verified"], result.intact) == (0, 3, 3), result.stderr
        assert guest.card.settle(), "every pin was given back"
        status = guest.card.dma.status
        assert status["attached"]
        assert status["pages_checked"] >= 3 * 216
        assert status["unchecked_writes"] == 0
        assert status["verdicts"] == {}
        assert status["defects"] == []


def test_each_has_the_right_time_and_random_numbers_of_its_own(guests: list[Guest]) -> None:
    numbers = []
    for guest in guests:
        before = int(time.time())
        clock = int(said(guest, "date", "+%s"))
        assert before - 1 <= clock <= time.time() + 1
        numbers += [said(guest, "cat", "/proc/sys/kernel/random/uuid") for _ in range(2)]
        numbers.append(said(guest, "sh", "-c", "head -c 16 /dev/urandom | od -A n -t x1"))
    assert len(set(numbers)) == len(numbers)


def test_each_has_its_own_swap_and_the_whole_log(guests: list[Guest]) -> None:
    for guest in guests:
        assert "/dev/vda" in said(guest, "cat", "/proc/swaps")
        log = guest.vm.kernel_log().splitlines()
        assert "Linux version" in log[0]
        assert any(re.search(r"pci 0000:01:00\.0: \[109e:036e\]", line) for line in log)
        console = guest.vm.console_log.read_text(errors="replace")
        assert console.index("Linux version") < console.index("bttv: Bt8xx card found")
        assert said(guest, "sh", "-c", "swapoff /dev/vda && mkswap /dev/vda && swapon /dev/vda && echo good")
    assert len({guest.vm.config.swap_disk for guest in guests}) == 2
