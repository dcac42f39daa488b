# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects rule V5: buffers pinned in memory that must stay movable, and how such memory is recognised."""

import numpy as np
import pytest
from fakecard import FakeCard
from synthetic import STYLES, SyntheticGuest

from vcapdev.guestmm.kernel import attach
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.placement import read_placement

FIRST, PAGES = 2048, 1024
STRICT = sorted(set(STYLES) - {"5.10"})


@pytest.fixture
def guest(request):
    guest = SyntheticGuest(getattr(request, "param", "6.1"))
    yield guest
    guest.close()


def buffer(guest, *pfns):
    """A card that has written once to these pages, pinned."""
    card = FakeCard(guest)
    for pfn in pfns:
        guest.anon(pfn)
    card.write(card.program(*pfns))
    return card


@pytest.mark.parametrize("guest", STRICT, indirect=True)
def test_v5_a_buffer_in_zone_movable(guest):
    guest.make_movable(FIRST, PAGES)
    card = buffer(guest, FIRST - 1, FIRST + 5)
    assert card.rules == ["ill-placed"]
    assert card.found[0].pfn == FIRST + 5


@pytest.mark.parametrize("guest", STRICT, indirect=True)
def test_v5_a_buffer_in_cma(guest):
    guest.make_cma(FIRST, PAGES)
    card = buffer(guest, FIRST + 5, FIRST + PAGES)
    assert card.rules == ["ill-placed"]
    assert card.found[0].pfn == FIRST + 5


@pytest.mark.parametrize("guest", ["5.10"], indirect=True)
def test_v5_before_long_term_pins_moved_pages_out_of_zone_movable(guest):
    guest.make_movable(FIRST, PAGES)
    assert buffer(guest, *range(FIRST, FIRST + 40)).rules == []


@pytest.mark.parametrize("guest", ["5.10"], indirect=True)
def test_v5_where_moving_was_only_tried_most_of_a_buffer_tells(guest):
    guest.make_cma(FIRST, PAGES)
    assert buffer(guest, *range(FIRST - 30, FIRST + 20)).rules == []
    assert buffer(guest, *range(FIRST - 10, FIRST + 30)).rules == ["ill-placed"]


def test_v5_other_pages_beside_such_memory_stay_silent(guest):
    guest.make_movable(FIRST, PAGES)
    guest.make_cma(FIRST + PAGES, 512)
    card = buffer(guest, FIRST - 1, FIRST + PAGES + 512)
    guest.page(FIRST + PAGES)
    card.write(card.program(FIRST + PAGES))  # L14: coherent memory, held but not pinned
    assert card.rules == []


def test_v5_an_unpinned_page_there_is_another_rules(guest):
    guest.make_movable(FIRST, PAGES)
    card = FakeCard(guest)
    guest.anon(FIRST, pins=0)
    card.write(card.program(FIRST))
    assert card.rules == ["not-pinned"]


def placement(guest):
    return read_placement(attach(GuestMemory(guest.memory)))


def test_a_guest_without_such_memory_costs_nothing(guest):
    found = placement(guest)
    assert not found
    assert found.why_not == ""


def test_blocks_are_told_apart(guest):
    guest.make_movable(FIRST, 512)
    guest.make_cma(FIRST + 512, 512)
    found = placement(guest)
    names = [found.name(pfn) for pfn in (FIRST - 1, FIRST, FIRST + 512, FIRST + 1024, 1 << 40)]
    assert names == ["neither", "ZONE_MOVABLE", "MIGRATE_CMA", "neither", "no pageblock"]
    assert found.forbids(np.array([FIRST - 1, FIRST, 1 << 40])).tolist() == [False, True, False]


def test_flags_that_no_zone_agrees_with_are_not_believed(guest):
    guest.make_movable(FIRST, PAGES)
    guest.poke64(guest.node + 8 + 3 * 64, 0)
    guest.poke64(guest.node + 8 + 3 * 64 + 8, 0)
    found = placement(guest)
    assert not found
    assert "disagree on what is movable" in found.why_not


def test_bitmaps_that_the_total_does_not_agree_with_are_not_believed(guest):
    guest.make_cma(FIRST, PAGES)
    guest.poke64(guest.total_cma, 512)
    found = placement(guest)
    assert not found
    assert "totalcma_pages" in found.why_not


def test_a_section_that_leads_nowhere_is_no_crash(guest):
    guest.make_cma(FIRST, PAGES)
    guest.poke64(guest.section + 8, 0xFFFF800000000000)
    found = placement(guest)
    assert not found
    assert "not mapped" in found.why_not


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("zone_type", {"ZONE_MOVABLE": -1, "__MAX_NR_ZONES": 5}),
        ("zone_type", {"ZONE_MOVABLE": 3, "__MAX_NR_ZONES": 1 << 30}),
        ("pageblock_bits", {"PB_migrate": 0, "PB_migrate_end": (1 << 31) - 1}),
        ("migratetype", {"MIGRATE_CMA": -5}),
    ],
)
def test_absurd_numbers_of_the_kernels_types_are_no_crash(guest, name, values):
    guest.make_cma(FIRST, PAGES)
    kernel = attach(GuestMemory(guest.memory))
    real = kernel.btf.enumerators
    absurd = kernel.btf.find(name).id
    kernel.btf.enumerators = lambda type_id: values if type_id == absurd else real(type_id)
    placement = read_placement(kernel)
    assert placement.why_not or not placement or placement.name(FIRST) == "MIGRATE_CMA"
