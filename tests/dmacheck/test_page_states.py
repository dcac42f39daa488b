# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the figure of distinct page states and changes: each once, in words, none that was not seen."""

import pytest
from fakecard import cards

card = cards()
A, B = 2000, 2001
PLAIN = "anonymous, lru, mapped, pins 1"


@pytest.fixture(autouse=True)
def collecting(card):
    card.checker.collect_states()


def states(card):
    return set(card.checker.status()["states"])


def test_equal_pages_are_one_state(card):
    for pfn in (A, B):
        card.guest.anon(pfn)
    card.write(card.program(A, B))
    assert states(card) == {PLAIN}


def test_a_change_counts_once_for_all_pages(card):
    for pfn in (A, B):
        card.guest.anon(pfn)
    batch = card.program(A, B)
    card.write(batch)
    for pfn in (A, B):
        card.guest.anon(pfn, mapcount=-1)
    card.field()
    card.write(batch)
    orphan = "anonymous, lru, unmapped, pins 1"
    assert states(card) == {PLAIN, orphan, f"{PLAIN} > {orphan}"}


def test_what_differs_is_told(card):
    card.guest.compound(1024, 9, pins=4)
    card.guest.anon(A, pins=2, extra=1, flags="unevictable")
    card.guest.page(B, "lru dirty", mapping=0xFFFF888000123000, index=5, mapcount=1, refcount=1024 + 5)
    card.write(card.program(1030, A, B))
    assert states(card) == {
        "large anonymous, lru, unmapped, pins 3 or more",
        "anonymous, lru, unevictable, mapped, pins 2, 1 references more",
        "file, lru, dirty, mapped more than once, pins 1, 3 or more references more",
    }


def test_nothing_is_collected_unasked_and_a_new_scene_asks(card):
    other = card.checker.afresh()
    card.checker._ground.oddities.states.wanted = False
    card.guest.anon(A)
    card.write(card.program(A))
    assert states(card) == set()
    assert other._ground.oddities.states.wanted
