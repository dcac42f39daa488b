# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the faults that no shipped scenario has: each comes in a real guest, at its point, and is seen."""

from __future__ import annotations

from contextlib import suppress

import pytest

import vcapdev
from vcapdev.errors import GuestError
from vcapdev.testing import Card, Guest, ViolationError

pytestmark = [pytest.mark.guest, vcapdev.guest(clock="fast")]

SMALL = {"size": "384x288", "format": "YUYV"}
LINES = 144  # of a field


def test_half_of_a_field_is_missing_where_sync_was_lost(guest: Guest, card: Card) -> None:
    for at in range(8, 60, 5):  # on a busy host a field may come for which no buffer waits: it shows nothing
        with card.fault("sync-lost", at=at) as fault:
            result = guest.capture(at, **SMALL)
            assert fault.fired
        if result.damaged:
            break
    assert (result.captured, result.intact, result.damaged) == (at, at - 1, 1)
    (bad,) = result.bad
    assert (bad["line"], bad["bad_lines"]) == (LINES // 2, LINES // 2)
    card.dma.assert_clean()


def test_a_stop_of_dma_that_is_not_obeyed_at_once(guest: Guest, card: Card) -> None:
    """The driver stops DMA only when no buffer is left, so that nothing is written in between."""
    with card.fault("dma-stop-ignored") as fault:
        assert guest.capture(6, **SMALL).intact == 6
        assert fault.fired
    assert guest.capture(6, **SMALL).intact == 6
    card.dma.assert_clean()


def test_the_driver_lives_with_an_i2c_bus_on_which_nobody_answers(guest: Guest, card: Card) -> None:
    with card.fault("i2c-nack") as fault:
        guest.unload("bttv")
        guest.load("bttv")
        assert fault.fired
        assert fault.seen > 1, "it asks on"
    assert guest.capture(6, **SMALL).intact == 6


@pytest.mark.parametrize("name", ["unplug", "device-killed"])
def test_a_card_that_goes_while_it_captures(guest: Guest, card: Card, name: str) -> None:
    """The stock driver mostly dies of it: it frees what the open file still uses (docs/findings.md)."""
    with card.fault(name, at=8) as fault:
        captured = []
        with suppress(GuestError, ViolationError), guest.expect_complaint("oops"):
            captured.append(guest.capture(100, timeout=30, **SMALL))
        assert fault.fired
        assert not any(result.captured == 100 for result in captured), "without a card"
    guest.transition("off")


def test_the_next_test_has_a_guest_and_a_card_again(guest: Guest, card: Card) -> None:
    assert guest.capture(6, **SMALL).intact == 6
    card.dma.assert_clean()
