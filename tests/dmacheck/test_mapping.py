# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects following a buffer through its owner's page tables: a copy is data loss, all else has its name."""

from __future__ import annotations

import pytest
from fakecard import FakeCard
from frameworks import MM, SPACE, TASK, USER, MediaGuest, at
from synthetic import PAGE, STYLES
from test_contract import frames

PAGES = (700, 701, 900, 710)
COPY = 1300


def swap_entry(offset: int) -> int:
    """A page table entry of a page that was swapped out: type 1."""
    return (1 << 59) | (~(offset << 14) >> 5 & ((1 << 59) - 1) & ~0x1FF)


SWAP = swap_entry(0x1234)
PRIVATE = (1 << 58) | 0x1234  # the same as page.private has it
MIGRATION = (31 << 59) | (~(700 << 14) >> 5 & ((1 << 59) - 1) & ~0x1FF)


def following(style: str = "6.1", **more: object) -> FakeCard:
    """A card that has filled a buffer twice, whose pages are where they belong."""
    guest = MediaGuest(style)
    for row, pfn in enumerate(PAGES):
        guest.own(row, pfn, **more)
        guest.fill(pfn, pfn)
    card = FakeCard(guest)
    card.buffer = guest.buffer(PAGES)
    card.batch = card.program(*PAGES)
    frames(card, card.batch)
    assert card.rules == []
    return card


@pytest.fixture(params=sorted(STYLES))
def card(request):
    made = following(request.param)
    yield made
    made.guest.close()


def lost(card: FakeCard) -> dict[str, int]:
    names = ("remapped", "replaced", "discarded", "unmapped", "moved", "process-gone", "stale-buffer")
    return {name: card.oddities[name] for name in names if name in card.oddities}


def give_copy(card: FakeCard, row: int = 0, **more: object) -> None:
    """Another page at the user's address, in the same area."""
    card.guest.own(row, COPY + row, pins=0, **more)


def test_a_copy_is_data_loss(card):
    card.guest.fill(COPY, PAGES[0])
    give_copy(card)
    frames(card, card.batch)
    assert card.rules == ["copied-away"]
    (verdict,) = card.found
    assert verdict.pfn == PAGES[0]
    assert f"user address {USER:#x} of pid 42 (capture)" in verdict.evidence.notes[1]
    assert f"pfn {COPY:#x} is mapped now" in verdict.evidence.notes[1]
    assert verdict.pages == 1


def test_a_copy_that_its_owner_has_written_to_since(card):
    card.guest.fill(COPY, PAGES[0])
    card.guest.put(COPY * PAGE, *([7] * 400))
    give_copy(card)
    frames(card, card.batch)
    assert card.rules == ["copied-away"]


def test_a_copy_is_pronounced_once(card):
    card.guest.fill(COPY, PAGES[0])
    give_copy(card)
    frames(card, card.batch, 6)
    assert card.found[0].count == 1


def test_the_page_is_back_once_the_vcpus_stand(card):
    card.guest.fill(COPY, PAGES[0])
    give_copy(card)
    card.on_pause = lambda: card.guest.map(USER, PAGES[0] * PAGE, top=card.guest.user_top)
    frames(card, card.batch)
    assert card.rules == []


def test_new_memory_at_the_address_is_no_copy(card):
    card.guest.fill(COPY, 99)
    give_copy(card)
    frames(card, card.batch)
    assert card.rules == []
    assert lost(card) == {"replaced": 1}


def test_empty_pages_are_like_any_other(card):
    """Two pages of zeroes, or of one pattern, prove nothing."""
    for pfn in (PAGES[0], COPY):
        card.guest.put(pfn * PAGE, *([0x8080808080808080] * 512))
    give_copy(card)
    frames(card, card.batch)
    assert card.rules == []
    assert lost(card) == {"replaced": 1}


def test_before_the_device_has_written_nothing_proves_a_copy():
    guest = MediaGuest()
    for row, pfn in enumerate(PAGES):
        guest.own(row, pfn)
        guest.fill(pfn, pfn)
    card = FakeCard(guest)
    guest.buffer(PAGES)
    batch = card.program(*PAGES)
    guest.fill(COPY, PAGES[0])
    guest.own(0, COPY, pins=0)
    frames(card, batch, 4)
    assert card.rules == []
    guest.close()


def test_another_area_at_the_address(card):
    card.guest.own(0, COPY, pins=0, mapping=0xFFFF888000701001)
    frames(card, card.batch)
    assert card.rules == []
    assert lost(card) == {"remapped": 1}


def protect(card: FakeCard, *, writable: bool = True) -> None:
    """mprotect to and fro: the entry has lost its write right; the area has it again, or not yet."""
    for row, pfn in enumerate(PAGES):
        card.guest.entry(row, pfn * PAGE | 0x65)
    card.guest.rights(2 if writable else 0)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {})


def test_a_copy_that_its_owner_has_overwritten(card):
    """mprotect to and fro in 5.10, and the buffer is filled anew: nothing in it is the same."""
    protect(card)
    card.guest.fill(COPY, 99)
    give_copy(card)
    frames(card, card.batch)
    assert card.rules == ["copied-away"]


def test_no_copy_of_a_page_that_its_owner_could_not_write_to(card):
    protect(card, writable=False)
    card.guest.fill(COPY, 99)
    give_copy(card)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {"replaced": 1})


def test_no_copy_where_memory_began_with_zeroes(card):
    protect(card)
    card.guest.put(COPY * PAGE, *([7] * 500), *([0] * 12))
    give_copy(card)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {"replaced": 1})


def test_the_zero_page_at_the_address(card):
    card.guest.entry(0, card.guest.zero_pfn * PAGE | 0x25)
    frames(card, card.batch)
    assert lost(card) == {"discarded": 1}


def test_nothing_at_the_address(card):
    card.guest.entry(1, 0)
    frames(card, card.batch)
    assert card.rules == []
    assert lost(card) == {"unmapped": 1}


def test_the_process_has_gone(card):
    for row in range(len(PAGES)):
        card.guest.entry(row, 0)
    card.guest.put(TASK + 48, 0)
    frames(card, card.batch)
    assert card.rules == []
    assert lost(card) == {"process-gone": 4}


def test_the_whole_page_table_has_gone(card):
    card.guest.put(card.guest.user_top + 8 * (USER >> 39 & 511), 0)
    card.guest.put(TASK + 48, 0)
    frames(card, card.batch)
    assert lost(card) == {"process-gone": 4}


def test_moved_to_another_address(card):
    """mremap: the area is elsewhere, and the pages with it."""
    guest, away = card.guest, 0x1000000
    for row, pfn in enumerate(PAGES):
        guest.entry(row, 0)
        guest.map(USER + away + row * PAGE, pfn * PAGE, top=guest.user_top)
    from frameworks import AREA

    guest.put(AREA, USER + away, USER + away + 64 * PAGE)
    frames(card, card.batch)
    assert card.rules == []
    assert lost(card) == {"moved": 4}


@pytest.mark.parametrize(
    "entry",
    [PAGES[0] * PAGE | 0x25, PAGES[0] * PAGE | 0x7, PAGES[0] * PAGE | 0x8000000000000067],
    ids=["read-only", "young", "no-execute"],
)
def test_rights_and_accesses_do_not_matter(card, entry):
    card.guest.entry(0, entry)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {})


def test_without_any_rights(card):
    """PROT_NONE and NUMA hints: the frame number is kept inverted."""
    frame = ~(PAGES[0] * PAGE) & ((1 << 52) - 1) & ~(PAGE - 1)
    card.guest.entry(0, frame | 0x120)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {})


def test_the_same_page_in_the_swap_cache(card):
    card.guest.field(PAGES[0], 40, PRIVATE, 8)
    card.guest.entry(0, SWAP)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {})


def test_another_page_in_swap(card):
    card.guest.field(PAGES[0], 40, PRIVATE + 1, 8)
    card.guest.entry(0, SWAP)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {"replaced": 1})


@pytest.mark.parametrize("tails_say", [False, True], ids=["since 6.6", "before"])
def test_a_huge_page_in_the_swap_cache(tails_say):
    """Reclaim unmaps it, and cannot free it: its tails' places in swap follow from the head's."""
    guest = MediaGuest()
    guest.compound(1024, 9, pins=3)
    guest.field(1024, 24, guest.anon_mapping, 8)
    guest.map(USER, 1024 * PAGE, large=True, top=guest.user_top)
    card = FakeCard(guest)
    guest.buffer((1024, 1025, 1026), row=0)
    batch = card.program(1024, 1025, 1026)
    frames(card, batch)
    table = guest._table()
    for row in range(512):
        guest.poke64(table + 8 * row, swap_entry(0x1200 + row))
        guest.field(1024 + row, 40, (1 << 58) + 0x1200 + row if tails_say or not row else 0, 8)
    guest.put(place_of_pmd(guest), table | 0x67)
    frames(card, batch)
    assert (card.rules, lost(card)) == ([], {})
    guest.poke64(table + 8, swap_entry(0x1300))
    frames(card, batch)
    assert lost(card) == {"replaced": 1}
    guest.close()


def test_reclaim_that_is_stopped_amid_a_page(card):
    """The vCPU may be away just then, for as long as the host likes: the page is locked all the time."""
    locked = card.guest.flag_bits("locked")
    flags = card.guest.peek64(card.guest.row_at(PAGES[1]))
    card.guest.field(PAGES[1], 0, flags | locked, 8)
    card.guest.entry(1, 0)
    frames(card, card.batch)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {})
    card.guest.field(PAGES[1], 0, flags, 8)
    frames(card, card.batch)
    assert lost(card) == {"unmapped": 1}


def test_a_migration_that_is_under_way(card):
    card.guest.entry(0, MIGRATION)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {})


def test_a_page_of_a_file_comes_back_with_the_next_access():
    card = following(mapping=at(SPACE))
    card.guest.entry(0, 0)
    frames(card, card.batch)
    assert (card.rules, lost(card)) == ([], {})
    card.guest.close()


def test_a_page_that_its_file_has_lost():
    card = following(mapping=at(SPACE))
    card.guest.entry(0, 0)
    card.guest.field(PAGES[0], 24, 0, 8)
    frames(card, card.batch)
    assert lost(card) == {"unmapped": 1}
    card.guest.close()


def test_a_huge_page():
    guest = MediaGuest()
    guest.compound(1024, 9, pins=3)
    guest.field(1024, 24, guest.anon_mapping, 8)
    guest.map(USER, 1024 * PAGE, large=True, top=guest.user_top)
    card = FakeCard(guest)
    guest.buffer((1024, 1025, 1030), row=0)
    card.guest.buffer((1024, 1025, 1026), row=0)
    batch = card.program(1024, 1025, 1026)
    frames(card, batch)
    assert (card.rules, lost(card)) == ([], {})
    table = guest._table()  # split into single pages, all of them in place
    for row in range(512):
        guest.poke64(table + 8 * row, (1024 + row) * PAGE | 0x67)
    guest.put(place_of_pmd(guest), table | 0x67)
    frames(card, batch)
    assert (card.rules, lost(card)) == ([], {})
    guest.poke64(table + 8, 0)
    frames(card, batch)
    assert lost(card) == {"unmapped": 1}
    guest.close()


def place_of_pmd(guest: MediaGuest) -> int:
    table = guest.user_top
    for shift in (39, 30):
        table = guest.peek64(table + 8 * (USER >> shift & 511)) & ~0xFFF & (1 << 52) - 1
    return table + 8 * (USER >> 21 & 511)


def test_dqbuf_munmap_mmap_qbuf_is_told_by_name():
    """Both frameworks keep the old pins. That it was queued again shows once another buffer had its turn."""
    card = following()
    guest = card.guest
    for row in range(4, 6):
        guest.own(row, 1100 + row)
    guest.buffer((1104, 1105), slot=1, row=4)
    other = card.program(1104, 1105)
    for row in range(len(PAGES)):
        guest.own(row, COPY + row, pins=0, mapping=0xFFFF888000701001)
    frames(card, card.batch)
    assert lost(card) == {"remapped": 4}
    frames(card, other)
    frames(card, card.batch)
    assert card.rules == []
    assert lost(card) == {"remapped": 4, "stale-buffer": 4}
    (hazard,) = card.checker.status()["hazards"]
    assert (hazard["rule"], hazard["pages"], hazard["pfn"]) == ("stale-buffer", 4, PAGES[0])
    (notice,) = card.checker.status()["contract"]["notices"]
    assert f"buffer 0 was queued again at {USER:#x} by pid 42 (capture)" in notice
    frames(card, other)
    frames(card, card.batch)
    assert lost(card)["stale-buffer"] == 4
    guest.close()


def test_pages_that_were_not_in_place_at_first_sight_are_not_followed():
    guest = MediaGuest()
    for row, pfn in enumerate(PAGES):
        guest.own(row, pfn, mapped=row != 2)
    card = FakeCard(guest)
    guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    guest.own(2, COPY, pins=0)
    frames(card, batch)
    assert (card.rules, lost(card)) == ([], {})
    guest.close()


@pytest.mark.parametrize("word", [0, 0xFFFFFFFFFFFFFFFF, 0x0000F00000000067, 0x67])
def test_page_tables_that_lead_nowhere(card, word):
    for shift in (39, 30, 21):
        table = card.guest.user_top
        for upper in range(39, shift, -9):
            table = card.guest.peek64(table + 8 * (USER >> upper & 511)) & ~0xFFF & (1 << 52) - 1
        place = table + 8 * (USER >> shift & 511)
        before = card.guest.peek64(place)
        card.guest.poke64(place, word)
        frames(card, card.batch)
        card.guest.poke64(place, before)
        frames(card, card.batch)
    assert card.rules == []


def test_a_process_that_is_another_ones_memory(card):
    """The mm_struct is overwritten after the process has ended: no crash, nothing certain."""
    card.guest.put(MM, 0, 0xFFFFFFFFFFFFFFFF)
    card.guest.put(card.guest.user_top + 8 * (USER >> 39 & 511), 0xDEAD000)
    frames(card, card.batch)
    assert card.rules == []
