# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what is said of a program whose pages no queue lists (V13, S3), and when nothing is.

Both frameworks, with their books made by hand in synthetic memory.
"""

from __future__ import annotations

import pytest
from fakecard import FakeCard
from frameworks import MediaGuest

from vcapdev.dma import Batch, Checkpoint

ONE, OTHER, ELSEWHERE = (700, 701, 900, 710), (720, 721, 722, 723), (1200, 1201, 1202)


@pytest.fixture(params=["videobuf", "vb2"])
def card(request):
    guest = MediaGuest(framework=request.param)
    for row, pfn in enumerate(ONE):
        guest.own(row, pfn, pins=2)  # somebody else's pin stays when the buffer goes
    for row, pfn in enumerate(OTHER):
        guest.own(row + 8, pfn)
    yield FakeCard(guest)
    guest.close()


def frames(card: FakeCard, *batches: Batch, count: int = 3) -> None:
    for _ in range(count):
        for batch in batches:
            card.write(batch)
            card.field()


def restart(card: FakeCard) -> None:
    card.checker.checkpoint(Checkpoint.DMA_STOP)
    card.checker.checkpoint(Checkpoint.DMA_START)


def release(buffer) -> None:
    buffer.release()
    buffer.state = "needs-init" if buffer.guest.framework == "videobuf" else "dequeued"


def hazards(card: FakeCard) -> list[tuple[str, int, int]]:
    return [(found["id"], found["pfn"], found["pages"]) for found in card.checker.status()["hazards"]]


@pytest.mark.parametrize("announced", [False, True])
def test_the_program_of_a_released_buffer_runs_again_after_a_stop(card, announced):
    one = card.guest.buffer(ONE)
    card.guest.buffer(OTHER, row=8, slot=1)
    stale, good = card.program(*ONE), card.program(*OTHER)
    frames(card, stale, good)
    release(one)
    restart(card)
    frames(card, card.program(*ONE) if announced else stale, good)
    assert card.rules == ["not-the-devices"]
    (verdict,) = card.found
    assert "former buffer" in verdict.key
    assert verdict.pfn == ONE[0]
    assert verdict.evidence.notes[0].startswith("no buffer of any queue lists these pages; the device's is ")
    assert "buffer 1 at" in verdict.evidence.notes[0]
    assert verdict.evidence.stopped
    assert hazards(card) == []


@pytest.mark.parametrize("pinned", [False, True], ids=["kernel-pages", "another-owners-pages"])
def test_pages_that_never_were_a_buffers(card, pinned):
    for row, pfn in enumerate(ELSEWHERE):
        if pinned:
            card.guest.own(row + 16, pfn)
        else:
            card.guest.page(pfn)
    card.guest.buffer(OTHER, row=8, slot=1)
    odd, good = card.program(*ELSEWHERE), card.program(*OTHER)
    frames(card, good, odd)
    assert card.rules == []
    assert hazards(card) == [("S3", ELSEWHERE[0], 2 * len(ELSEWHERE))]  # of the second field, and the third
    (found,) = card.checker.status()["hazards"]
    assert found["instruction"]["instruction"] == "WRITE 0"


def test_only_the_pages_that_no_buffer_lists_are_told_of(card):
    card.guest.buffer(OTHER, row=8, slot=1)
    for row, pfn in enumerate(ELSEWHERE):
        card.guest.own(row + 16, pfn)
    odd, good = card.program(OTHER[0], *ELSEWHERE), card.program(*OTHER)
    frames(card, good, odd, count=2)
    assert hazards(card) == [("S3", ELSEWHERE[0], len(ELSEWHERE))]


def test_a_driver_without_buffers_in_a_queue_may_write_where_it_likes(card):
    card.guest.buffer(OTHER, row=8, slot=1)  # some other device's
    for pfn in ELSEWHERE:
        card.guest.page(pfn)
    frames(card, card.program(*ELSEWHERE))
    assert (card.rules, hazards(card)) == ([], [])


def test_nothing_is_said_while_no_buffer_of_the_card_is_being_filled(card):
    other = card.guest.buffer(OTHER, row=8, slot=1)
    good = card.program(*OTHER)
    frames(card, good)
    restart(card)
    other.state = "done"
    for pfn in ELSEWHERE:
        card.guest.page(pfn)
    frames(card, card.program(*ELSEWHERE))
    assert (card.rules, hazards(card)) == ([], [])


def test_one_field_is_not_enough(card):
    card.guest.buffer(OTHER, row=8, slot=1)
    good, early = card.program(*OTHER), card.program(*ONE)
    frames(card, good, early, count=1)
    card.guest.buffer(ONE)  # the driver is a moment late with its list
    frames(card, good, early)
    assert (card.rules, hazards(card)) == ([], [])
    found = card.checker.status()["contract"]
    assert (found["buffers_found"], found["not_found"]) == (2, 0)


def test_the_buffer_is_there_once_the_vcpus_stand(card):
    one = card.guest.buffer(ONE)
    card.guest.buffer(OTHER, row=8, slot=1)
    stale, good = card.program(*ONE), card.program(*OTHER)
    frames(card, stale, good)
    release(one)
    restart(card)
    card.on_pause = lambda: card.guest.buffer(ONE)
    frames(card, stale, good, count=2)
    assert card.rules == []
    assert card.pauses == 1


def test_a_buffer_of_which_the_framework_lists_a_part_puts_all_in_doubt(card):
    card.guest.buffer(OTHER, row=8, slot=1)
    card.guest.buffer(OTHER[:2], row=24, slot=2, length=1 << 20)
    for row, pfn in enumerate(ELSEWHERE):
        card.guest.own(row + 16, pfn)
    frames(card, card.program(*OTHER), card.program(*ELSEWHERE))
    assert hazards(card) == []
