# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the pin ledger: one account a buffer, its balance against the kernel's counters; and rule P1."""

import numpy as np
import pytest
from fakecard import cards

from vcapdev.dma import Checkpoint
from vcapdev.dmacheck.examiner import LONG

card = cards(["6.1", "5.10"])
A, B, C, D = 2000, 2001, 2002, 2003


def ledger(card):
    return card.checker.status()["pins"]["ledger"]


def release(card, *pfns, flags="dirty"):
    for pfn in pfns:
        card.guest.anon(pfn, pins=0, flags=flags)
    card.register_write()
    card.field()


def test_a_buffer_from_its_pin_to_its_release(card):
    card.field()
    for pfn in (A, B):
        card.guest.anon(pfn, pins=2)
    card.write(card.program(A, B))
    card.field()
    card.field()
    release(card, A)
    release(card, B, flags="")
    (account,) = ledger(card)["buffers"]
    assert (account["pfn"], account["pages"], account["pins"], account["most"]) == (A, 2, 4, 2)
    assert (account["pinned_field"], account["first_release_field"], account["last_release_field"]) == (
        1,
        3,
        4,
    )
    assert (account["released"], account["dirty"], account["late"]) == (2, 1, 0)
    assert (ledger(card)["opened"], ledger(card)["closed"], ledger(card)["pins_seen"]) == (1, 1, 4)
    assert card.rules == ["not-dirtied"]


def test_both_fields_of_a_frame_are_one_account_and_two_buffers_are_two(card):
    for pfn in (A, B, C, D):
        card.guest.anon(pfn)
    for pfns in ((A, B), (B, A), (C, D)):
        card.write(card.program(*pfns))
    assert [account["pages"] for account in ledger(card)["buffers"]] == [2, 2]
    release(card, C, D)
    assert (ledger(card)["opened"], ledger(card)["closed"]) == (2, 1)
    assert [account["released"] for account in ledger(card)["buffers"]] == [2, 0]


def test_pins_that_pile_up_on_a_buffer_that_is_queued_again(card):
    card.guest.anon(A)
    card.write(card.program(A))
    card.guest.anon(A, pins=5)
    card.write(card.program(A))
    (account,) = ledger(card)["buffers"]
    assert (account["pins"], account["most"]) == (1, 5)


def test_pages_that_were_gone_before_they_were_looked_at_are_late(card):
    card.guest.anon(A)
    card.write(card.program(A))
    card.guest.free(A)
    card.field()
    (account,) = ledger(card)["buffers"]
    assert (account["released"], account["dirty"], account["late"]) == (1, 0, 1)


def test_pins_of_a_huge_page_are_counted_once(card):
    card.guest.compound(1024, 9, pins=64)
    card.write(card.program(1024, 1025, 1300))
    (account,) = ledger(card)["buffers"]
    assert (account["pages"], account["pins"]) == (3, 64)


def test_the_balance_agrees_with_the_counters(card):
    card.guest.pin_counters(0, 0)
    card.guest.anon(A)
    card.write(card.program(A))
    card.guest.pin_counters(1, 0, unfolded=1)
    card.checker.settle(final=False)
    balance = ledger(card)["balance"]
    assert (balance["outstanding"], balance["left"], balance["unaccounted"]) == (1, 1, 0)
    assert balance["agrees"]
    release(card, A)
    card.guest.pin_counters(1, 1)
    card.checker.settle()
    balance = ledger(card)["balance"]
    assert (balance["outstanding"], balance["left"], balance["slack"]) == (0, 0, 0)
    assert balance["agrees"]
    assert balance["vmstat_slack"] == 250  # one CPU, one node


def test_the_balance_shows_pins_that_nobody_accounts_for(card):
    card.guest.anon(A)
    card.write(card.program(A))
    release(card, A)
    card.guest.pin_counters(9, 2)
    card.checker.settle(final=False)
    balance = ledger(card)["balance"]
    assert balance["unaccounted"] == 7
    assert not balance["agrees"]


def test_accounts_without_end_are_bounded(card):
    for round_ in range(300):
        card.guest.anon(A + round_ % 7)
        card.write(card.program(A + round_ % 7))
        release(card, A + round_ % 7)
    assert ledger(card)["closed"] == 300
    assert len(ledger(card)["buffers"]) == 64


def test_a_reset_keeps_what_was_told_and_opens_no_account_twice(card):
    card.guest.anon(A)
    card.write(card.program(A))
    card.checker.checkpoint(Checkpoint.RESET)
    card.checker.checkpoint(Checkpoint.DMA_START)
    card.write(card.program(A))
    assert [account["number"] for account in ledger(card)["buffers"]] == [1, 2]


@pytest.fixture
def idle(card):
    """A buffer that a framework once listed, DMA off; ``card.listed`` are the pages that one lists now."""
    card.guest.anon(A, mapcount=-1)
    card.write(card.program(A))
    ground = card.checker._ground
    ground.pins.ledger.name(A, "videobuf userptr buffer 0")
    card.listed = []
    ground.contract.claimed = lambda pfns: np.isin(pfns, card.listed)
    card.checker.checkpoint(Checkpoint.DMA_STOP)
    card.seconds = card.checker._examiner.clock()
    card.checker._examiner.clock = lambda: card.seconds
    return card


def later(card, ticks=2500):
    """Time goes by for everybody; for the guest so many ticks of its clock."""
    card.seconds += LONG
    guest = card.guest
    guest.poke64(guest.jiffies_at, guest.peek64(guest.jiffies_at) + ticks)


def looks(card, count, ticks=2500):
    """So many looks for pins that nobody lists."""
    for _ in range(count):
        later(card, ticks)
        card.checker.poll()


def test_p1_pins_long_after_the_framework_has_let_go(idle):
    looks(idle, 3)
    idle.seconds += LONG - 1
    idle.checker.poll()
    assert idle.rules == []
    looks(idle, 1)
    assert idle.rules == ["pinned-after-close"]
    assert idle.found[0].pfn == A
    looks(idle, 1)
    assert idle.found[0].count == 2  # counted, and told once


def test_p1_while_dma_runs_for_other_buffers(idle):
    """And the card is hardly ever polled while it sees fields."""
    idle.checker.checkpoint(Checkpoint.DMA_START)
    idle.guest.anon(B)
    other = idle.program(B)
    idle.listed = [B]
    for _ in range(4):
        assert idle.rules == []
        later(idle)
        idle.write(other)
        idle.field()
    assert idle.rules == ["pinned-after-close"]
    assert idle.found[0].pfn == A


def test_p1_l16_a_buffer_that_stays_in_its_queue(idle):
    idle.listed = [A]
    looks(idle, 12)
    assert idle.rules == []


def test_p1_a_list_in_between(idle):
    looks(idle, 3)
    idle.listed = [A]
    looks(idle, 1)
    idle.listed = []
    looks(idle, 3)
    assert idle.rules == []


def test_p1_a_release_in_time(idle):
    looks(idle, 3)
    idle.guest.anon(A, pins=0, flags="dirty")
    looks(idle, 2)
    assert idle.rules == []


def test_p1_released_and_pinned_again_between_two_looks(idle):
    """By a program that comes again and again: each time it is met without a list, but it is another pin."""
    looks(idle, 3)
    idle.guest.anon(A, pins=0, flags="dirty")
    idle.checker.poll()
    idle.guest.anon(A)
    idle.checker.checkpoint(Checkpoint.DMA_START)
    idle.write(idle.program(A))
    idle.checker.checkpoint(Checkpoint.DMA_STOP)
    idle.checker._ground.pins.ledger.name(A, "videobuf userptr buffer 1")
    looks(idle, 3)
    assert idle.rules == []
    looks(idle, 1)
    assert idle.rules == ["pinned-after-close"]


def test_p1_a_guest_that_is_paused_has_no_time_to_give_back(idle):
    looks(idle, 1)
    looks(idle, 20, ticks=1)
    assert idle.rules == []
    looks(idle, 3)
    assert idle.rules == ["pinned-after-close"]


def test_p1_where_no_framework_can_be_read(idle):
    idle.checker._ground.contract.claimed = lambda pfns: None
    looks(idle, 5)
    assert idle.rules == []


def test_p1_pages_that_no_framework_ever_listed(card):
    card.guest.anon(A)
    card.write(card.program(A))
    card.checker._ground.contract.claimed = lambda pfns: np.zeros(len(pfns), dtype=bool)
    card.checker.checkpoint(Checkpoint.DMA_STOP)
    card.seconds = card.checker._examiner.clock()
    card.checker._examiner.clock = lambda: card.seconds
    looks(card, 5)
    assert card.rules == []
