# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects hazard S1: data written while a file's page is on its way to disk; told, and never a verdict."""

import pytest
from fakecard import cards
from synthetic import ANON, DIRECT_MAP

card = cards()
A, B = 2000, 2001
FILE = DIRECT_MAP + 0x123000
IDLE, BUSY = "lru uptodate dirty", "lru uptodate writeback"


def file(card, flags, pfn=A, **more):
    card.guest.page(pfn, flags, **{"mapping": FILE, "index": 5, "mapcount": 0, "refcount": 1026, **more})


def hazards(card):
    assert card.rules == []
    return card.checker.status()["hazards"]


def test_s1_under_writeback_before_and_after_the_bytes_moved(card):
    file(card, IDLE)
    file(card, IDLE, B)
    batch = card.program(B, A)
    card.write(batch)
    assert hazards(card) == []
    file(card, BUSY)
    card.write(batch)
    (hazard,) = hazards(card)
    assert (hazard["rule"], hazard["id"], hazard["pfn"], hazard["pages"]) == ("stable-page", "S1", A, 1)
    assert hazard["instruction"]["line"] == 1
    assert "writeback" in hazard["page"]
    card.write(batch)
    assert hazards(card)[0]["pages"] == 2
    file(card, IDLE)
    card.write(batch)
    assert hazards(card)[0]["pages"] == 2


def test_s1_seen_at_first_sight(card):
    file(card, BUSY)
    card.write(card.program(A))
    assert hazards(card)[0]["pages"] == 1


@pytest.mark.parametrize(("before", "after"), [(IDLE, BUSY), (BUSY, IDLE)])
def test_s1_writeback_that_began_or_ended_meanwhile(card, before, after):
    file(card, before)
    batch = card.program(A)
    card.during = lambda: file(card, after)
    card.write(batch)
    assert hazards(card) == []


def test_s1_pages_on_their_way_to_swap(card):
    card.guest.anon(A, extra=1, flags=f"writeback {card.guest.style.swapcache}", mapping=ANON)
    file(card, f"{BUSY} swapbacked", B)  # shmem
    card.write(card.program(A, B))
    assert hazards(card) == []


def test_s1_a_page_without_a_pin_is_a_rules_affair(card):
    file(card, BUSY, refcount=2)
    card.write(card.program(A))
    assert card.rules == ["not-pinned"]
    assert card.checker.status()["hazards"] == []
