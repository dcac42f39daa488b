# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects against verdicts on a moving target: a stop under way, pages that do not stand still, a reset."""

from fakecard import cards
from synthetic import DIRECT_MAP

from vcapdev.dma import Checkpoint

card = cards(["6.1"])
A = 2000


def bad_buffer(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    card.guest.anon(A, pins=0, flags="dirty")
    return batch


def test_a_stop_that_was_still_under_way(card):
    batch = bad_buffer(card)
    card.running = False
    card.write(batch)
    assert card.rules == []
    assert card.oddities["raced-with-stop"] == 1
    assert card.pauses == 0


def test_a_stop_and_a_start_that_were_still_under_way(card):
    batch = bad_buffer(card)

    def drain():
        card.checker.checkpoint(Checkpoint.DMA_STOP)
        card.checker.checkpoint(Checkpoint.DMA_START)

    card.on_drain = drain
    card.write(batch)
    assert card.rules == []
    assert card.oddities["raced-with-stop"] == 1


def test_a_stop_that_shows_only_once_the_vcpus_stand(card):
    batch = bad_buffer(card)
    card.on_pause = lambda: setattr(card, "running", False)
    card.write(batch)
    assert card.rules == []
    assert card.oddities["raced-with-stop"] == 1


def test_a_reset_while_messages_are_drained(card):
    batch = bad_buffer(card)
    card.on_drain = lambda: card.checker.checkpoint(Checkpoint.RESET)
    card.write(batch)
    assert card.rules == []
    assert not card.checker.attached


def test_a_reset_while_the_vcpus_stand(card):
    batch = bad_buffer(card)
    card.on_pause = lambda: card.checker.checkpoint(Checkpoint.RESET)
    card.write(batch)
    assert card.checker.status()["defects"] == []
    assert not card.checker.attached


def test_without_a_pause_the_verdict_says_so(card):
    batch = bad_buffer(card)
    card.can_pause = False
    card.write(batch)
    assert card.rules == ["not-pinned"]
    assert not card.found[0].evidence.stopped
    assert "running guest" in card.found[0].splat()


def test_registers_written_while_a_verdict_is_made_do_not_pause_twice(card):
    card.guest.anon(A + 1)
    card.write(card.program(A + 1))
    batch = bad_buffer(card)
    card.guest.anon(A + 1, pins=0)
    deep = []

    def drain():
        deep.append(card.pauses)
        card.register_write()

    card.on_drain = drain
    card.write(batch)
    assert card.rules.count("not-pinned") == 1
    assert max(deep) <= card.pauses


def test_a_page_that_never_stands_still_ends(card):
    batch = bad_buffer(card)
    plan = batch.cache[card.checker]
    read, count = plan.pages.read, []

    def restless():
        count.append(1)
        card.guest.field(A, 52, 1 + len(count) % 7)
        return read()

    plan.pages.read = restless
    card.write(batch)
    assert len(count) < 60
    assert card.rules == []  # nothing is certain of it
    assert card.checker.status()["unchecked_writes"] >= 1  # and the run must not pass for clean


def test_restless_neighbours_do_not_protect_a_bad_page(card):
    card.guest.anon(A + 1)
    card.guest.anon(A)
    batch = card.program(A, A + 1)
    card.write(batch)
    card.guest.anon(A, pins=0)
    plan = batch.cache[card.checker]
    read, count = plan.pages.read, []

    def restless():
        count.append(1)
        card.guest.field(A + 1, 52, 1025 + len(count) % 7)
        return read()

    plan.pages.read = restless
    card.write(batch)
    assert card.rules == ["not-pinned"]
    assert card.found[0].pfn == A
    assert card.found[0].count == 1
    assert card.checker.status()["unchecked_writes"] == 0


def test_a_tail_without_a_head_is_not_passed_for_good(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    card.guest.page(A, refcount=0, link=DIRECT_MAP + 1)  # a tail of what is no struct page
    card.write(batch)
    card.write(batch)
    assert card.rules == []
    assert card.checker.status()["unchecked_writes"] == 2


def test_repetitions_are_counted_without_another_pause(card):
    batch = bad_buffer(card)
    for _ in range(50):
        card.write(batch)
    assert card.pauses == 1
    assert card.rules == ["not-pinned"]
    assert card.found[0].count == 50
    assert card.checker.status()["verdicts"] == {"not-pinned": 50}
