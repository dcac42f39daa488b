# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the watch over pins: chunks by program, their bound, pages that several look through."""

import numpy as np
import pytest
from fakecard import cards
from synthetic import SyntheticGuest

from vcapdev.dmacheck.pins import MAX_CHUNKS, PinTable
from vcapdev.guestmm.kernel import attach
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.pages import PageSet

card = cards(["6.1"])
A, B, C, D = 2000, 2001, 2002, 2003


class Watch:
    """A pin table of a guest's own, without a card."""

    def __init__(self, guest):
        self.guest, self.kernel = guest, attach(GuestMemory(guest.memory))
        self.table = PinTable(self.kernel)

    def add(self, *pfns, shared=True):
        for pfn in pfns:
            self.guest.anon(pfn)
        pages = PageSet(self.kernel, np.array(pfns, dtype=np.int64))
        self.table.add(pages.sight(), pages if shared else None, (pfns[0], pfns[-1]))
        return pages

    def released(self):
        found = self.table.look()
        return [] if found is None else found.facts.pfn.tolist()


@pytest.fixture
def watch():
    guest = SyntheticGuest()
    yield Watch(guest)
    guest.close()


def test_tiny_programs_without_end_make_few_chunks(watch):
    pfns = range(2000, 2400)
    for pfn in pfns:
        watch.add(pfn)
        assert watch.table.chunks <= MAX_CHUNKS
    assert len(watch.table) == len(pfns)
    for pfn in pfns:
        watch.guest.anon(pfn, pins=0)
    assert watch.released() == list(pfns)
    assert (len(watch.table), watch.table.chunks) == (0, 0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_release_in_one_chunk_leaves_the_others_as_they_were(watch, shared):
    watch.add(A, B, shared=shared)
    watch.add(C, D, shared=shared)
    watch.table.mark_written(np.array([A, C]))
    watch.guest.anon(A, pins=0)
    assert watch.released() == [A]
    assert watch.table.chunks == 2
    assert watch.released() == []
    for pfn in (B, C, D):
        watch.guest.anon(pfn, pins=0)
    release = watch.table.look()
    assert release.facts.pfn.tolist() == [B, C, D]
    assert release.written.tolist() == [False, True, False]
    assert release.was_clean.all()
    assert release.same.all()


def test_a_page_that_comes_again_has_not_been_written_yet(watch):
    watch.add(A)
    watch.table.mark_written(np.array([A]))
    watch.guest.anon(A, pins=0)
    assert watch.table.look().written.all()
    watch.add(A)
    watch.guest.anon(A, pins=0)
    assert not watch.table.look().written.any()


def test_a_page_is_watched_once(watch):
    watch.add(A, B)
    watch.add(B, C)
    assert len(watch.table) == 3
    for pfn in (A, B, C):
        watch.guest.anon(pfn, pins=0)
    assert watch.released() == [A, B, C]


def test_buffers_that_stay_become_one_chunk(watch):
    watch.add(C, D)
    watch.add(A, B)
    watch.table.mark_written(np.array([B, C]))
    looks = 0
    while watch.table.chunks > 1:
        assert watch.table.look() is None
        looks += 1
        assert looks < 1000, "quiet chunks are never joined"
    for pfn in (A, B, C, D):
        watch.guest.anon(pfn, pins=0)
    release = watch.table.look()
    assert release.facts.pfn.tolist() == [A, B, C, D]
    assert release.written.tolist() == [False, True, True, False]


def test_the_first_page_of_any_chunk_stirs(watch):
    watch.add(A, B)
    watch.add(C, D)
    assert not watch.table.stirred()
    watch.guest.anon(D, pins=2)
    assert watch.table.stirred()
    assert not watch.table.stirred()


def test_who_looks_through_the_same_set_takes_no_release_from_the_table(watch):
    pages = watch.add(A, B)
    watch.guest.anon(B, pins=0)
    pages.read()
    assert pages.facts().pinned.tolist() == [True, False]
    assert watch.released() == [B]


def test_pins_dropped_between_the_fields_of_a_frame_are_seen(card):
    card.guest.anon(A)
    card.guest.anon(B)
    odd, even = card.program(A, B), card.program(B, A)
    card.write(odd)
    assert card.rules == []
    card.guest.anon(B, pins=0, flags="dirty")
    card.write(even)
    assert card.rules == ["not-pinned"]
    assert card.found[0].pfn == B


def test_pins_dropped_and_seen_by_the_other_field_first(card):
    card.guest.anon(A)
    odd, even = card.program(A), card.program(A)
    card.write(odd)
    card.write(even)
    card.guest.anon(A, pins=0, flags="dirty")
    card.write(odd)
    card.write(even)
    assert card.rules == ["not-pinned"]
    assert card.found[0].count == 2


def test_a_bad_page_that_was_read_for_another_program_is_not_taken_for_good(card):
    card.guest.anon(A)
    card.guest.anon(B)
    odd, even = card.program(A, B), card.program(A, B)
    card.guest.anon(A, index=77)
    card.write(odd)
    card.guest.anon(A)
    card.write(even)
    card.guest.anon(A, index=77)
    card.write(even)
    assert card.rules == ["recycled"]
    assert card.found[0].count == 2


def test_buffers_released_together_are_one_finding(card):
    card.guest.anon(A)
    card.guest.anon(B)
    for pfn in (B, A):
        card.write(card.program(pfn))
    card.guest.anon(A, pins=0)
    card.guest.anon(B, pins=0)
    card.field()
    assert card.rules == ["not-dirtied"]
    assert (card.found[0].pfn, card.found[0].pages, card.found[0].count) == (A, 2, 2)


def test_a_whole_program_and_a_part_of_it_are_both_judged(card):
    for pfn in (A, B, C):
        card.guest.anon(pfn)
    whole = card.program(A, B, C)
    part = type(whole)(*(column[1:] for column in (whole.addr, whole.length, whole.source, whole.origin)), 1)
    card.write(whole)
    card.write(part)
    card.guest.anon(A, pins=0, flags="dirty")
    card.write(part)
    assert card.rules == []
    card.write(whole)
    assert card.rules == ["not-pinned"]
    assert card.checker.status()["pages_checked"] == 3 + 2 + 2 + 3
