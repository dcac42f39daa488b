# SPDX-License-Identifier: GPL-2.0-or-later
"""Each rule fires on what it is for, on every layout of struct page, and blames the right page."""

import numpy as np
import pytest
from fakecard import cards
from synthetic import ANON, PAGE

from vcapdev.dma import Abort, Checkpoint
from vcapdev.dmacheck.rules import ALL_RULES

card = cards()
A, B, C = 2000, 2001, 2002


@pytest.fixture
def buffer(card):
    """Three pinned anonymous pages, their program, and one clean write to them."""
    for pfn in (A, B, C):
        card.guest.anon(pfn)
    batch = card.program(A, B, C)
    card.write(batch)
    assert card.rules == []
    return batch


def test_v1_write_to_a_free_page(card, buffer):
    card.guest.free(B)
    card.write(buffer)
    assert card.rules == ["free-page"]
    verdict = card.found[0]
    assert (verdict.pfn, verdict.address) == (B, B * PAGE)
    assert verdict.origin.line == 1
    assert (verdict.target.page, verdict.target.pages, verdict.target.first) == (1, 3, PAGE)


def test_v1_the_pages_behind_the_first_of_a_free_block(card, buffer):
    card.guest.free(C, buddy=False)
    card.write(buffer)
    assert card.rules == ["free-page"]


def test_v1_one_look_is_enough(card, buffer):
    card.guest.free(B)
    card.during = lambda: card.guest.anon(B)
    card.write(buffer)
    assert card.rules == ["free-page"]
    assert card.found[0].evidence.before.refcount == 0
    card.during = lambda: card.guest.free(C, buddy=False)
    card.write(buffer)
    assert card.found[-1].count == 2


def test_v1_and_v3_a_hugetlb_page_is_a_user_page_like_others(card):
    card.guest.hugetlb(1024, pins=2)
    batch = card.program(1024, 1300)
    card.write(batch)
    assert card.rules == []
    card.guest.hugetlb(1024, pins=0)
    card.write(batch)
    assert card.rules == ["not-pinned"]
    card.guest.hugetlb(1024, pins=0, references=0)  # back in the pool
    card.write(batch)
    assert card.rules == ["not-pinned", "free-page"]


def test_v1_a_free_compound_page(card):
    card.guest.compound(1024, 4, pins=16)
    batch = card.program(1024, 1030)
    card.write(batch)
    assert card.rules == []
    card.guest.compound(1024, 4, pins=0)
    card.guest.field(1024, 52, 0)
    card.write(batch)
    assert card.rules == ["free-page"]
    assert card.found[0].pages == 2


def slab(guest, pfn):
    if guest.style.top_byte_types:
        guest.page(pfn, mapcount=0xF5000000 - (1 << 32), refcount=0)
    else:
        guest.page(pfn, "slab", mapping=0xFFFF888000123400)


def page_table(guest, pfn):
    value = 0xF2000000 if guest.style.top_byte_types else 0xFFFFFDFF
    guest.page(pfn, mapcount=value - (1 << 32), mapping=0xFFFF888000123003)


def reserved(guest, pfn):
    guest.page(pfn, "reserved")


def unmarked(guest, pfn):
    guest.page(pfn)


def movable(guest, pfn):
    guest.page(pfn, "private", mapping=0xFFFFFFFFC0300382, mapcount=0)


@pytest.mark.parametrize("become", [slab, page_table, reserved, unmarked, movable])
def test_v2_write_to_a_page_of_the_kernel(card, buffer, become):
    become(card.guest, B)
    card.write(buffer)
    assert card.rules == ["kernel-page"]
    assert card.found[0].pfn == B


def test_v2_one_kernel_page_among_user_pages_at_first_sight(card):
    card.guest.anon(A)
    card.guest.page(B)
    card.write(card.program(A, B))
    assert card.rules == ["kernel-page"]


def test_v2_a_kernel_buffer_that_became_slab(card):
    card.guest.page(A)
    batch = card.program(A)
    card.write(batch)
    assert card.rules == []
    slab(card.guest, A)
    card.write(batch)
    assert card.rules == ["kernel-page"]


def test_v3_an_anonymous_page_without_a_pin(card, buffer):
    card.guest.anon(B, pins=0)
    card.write(buffer)
    assert card.rules == ["not-pinned"]
    assert "anonymous page" in card.found[0].key


def test_v3_a_page_with_ordinary_references_only(card):
    card.guest.anon(A, pins=0, extra=1)
    card.write(card.program(A))
    assert card.rules == ["not-pinned"]


def test_v3_a_file_page_without_a_pin(card):
    card.guest.page(A, "lru uptodate", mapping=0xFFFF888000123000, mapcount=0, refcount=2)
    card.write(card.program(A))
    assert card.rules == ["not-pinned"]
    assert "file page" in card.found[0].key


def test_v3_a_huge_page_without_a_pin(card):
    card.guest.compound(1024, 9, pins=0)
    card.write(card.program(1025))
    assert card.rules == ["not-pinned"]


def test_v3_an_mmap_page_that_only_its_mapping_holds(card):
    card.guest.page(A, refcount=1025, mapcount=0)
    batch = card.program(A)
    card.write(batch)
    assert card.rules == []
    card.guest.page(A, refcount=1, mapcount=0)
    card.write(batch)
    assert card.rules == ["not-pinned"]


def test_v4_the_zero_page(card, buffer):
    card.write(card.program(card.guest.zero_pfn))
    assert card.rules == ["shared-page"]


def test_v4_the_huge_zero_page(card):
    card.guest.poke64(card.guest.huge_zero_at, 1024)
    card.guest.compound(1024, 9, pins=4)
    card.write(card.program(1030))
    assert card.rules == ["shared-page"]


def test_v4_a_ksm_page_even_if_pinned(card, buffer):
    card.guest.anon(B, mapping=ANON | 3)
    card.write(buffer)
    assert card.rules == ["shared-page"]


def test_v12_more_pins_given_back_than_taken(card, buffer):
    card.guest.anon(B, pins=-1)
    card.write(buffer)
    assert card.rules == ["bad-count"]
    assert card.found[0].pfn == B
    assert card.found[0].evidence.before.refcount == -1023


def test_v12_pins_without_end(card, buffer):
    card.guest.anon(B, pins=64)
    card.write(buffer)
    assert card.rules == ["bad-count"]


def test_v12_a_huge_page_with_fewer_pins_than_none(card):
    card.guest.compound(1024, 9, pins=4)
    batch = card.program(1030)
    card.write(batch)
    card.guest.compound(1024, 9, pins=-1)
    card.guest.field(1024, 52, 1)
    card.write(batch)
    assert card.rules == ["bad-count"]


def test_v12_seen_at_a_release(card, buffer):
    card.guest.anon(A, pins=-1, flags="dirty")
    for pfn in (B, C):
        card.guest.anon(pfn, pins=0, flags="dirty")
    card.field()
    assert card.rules == ["bad-count"]
    assert (card.found[0].pfn, card.found[0].pages) == (A, 1)


def test_v6_a_pinned_page_with_another_identity(card, buffer):
    card.guest.anon(B, mapping=ANON + 0x1000, index=0x5555)
    card.write(buffer)
    assert card.rules == ["recycled"]
    assert card.found[0].pfn == B


def test_v6_no_release_no_new_identity(card, buffer):
    card.guest.anon(B, index=0x5555)
    card.field()
    card.write(buffer)
    assert card.rules == ["recycled"]


def test_v7_a_write_that_no_ram_answers(card):
    card.checker.aborted(0xFF000000, 1008, 3, True, Abort.UNMAPPED)
    card.checker.aborted(0xFF000000, 1008, 3, True, Abort.UNMAPPED)
    assert card.rules == ["outside-ram"]
    assert card.found[0].count == 2
    assert card.found[0].address == 0xFF000000
    assert "no memory answers" in card.found[0].splat()


def test_v7_a_page_beyond_the_kernels_ram_in_a_user_buffer(card):
    card.guest.anon(A)
    card.write(card.program(A, card.guest.pages + 5))
    assert card.rules == ["outside-ram"]


def test_v10_released_without_being_dirtied(card, buffer):
    for pfn in (A, B, C):
        card.guest.anon(pfn, pins=0)
    card.register_write()
    assert card.rules == []  # one vCPU may be waiting for the device: nobody can be stopped now
    assert card.pauses == 0
    card.guest.anon(A, pins=0, flags="dirty")
    card.checker.poll()
    assert card.rules == ["not-dirtied"]
    assert card.pauses == 1
    assert card.found[0].pages == 3
    assert card.found[0].target.program == 1
    assert card.checker.status()["pins"]["conclusive"]


def test_v10_at_a_field_boundary_and_at_a_poll(card, buffer):
    card.guest.anon(B, pins=0)
    card.field()
    card.guest.anon(C, pins=0)
    card.checker.poll()
    assert card.rules == ["not-dirtied"]
    assert card.found[0].count == 2


def test_v10_of_file_pages_while_nothing_is_written_back(card):
    def file(count):
        for pfn in (A, B):
            card.guest.page(
                pfn, "lru uptodate", mapping=0xFFFF888000123000, index=pfn, mapcount=0, refcount=count
            )

    card.guest.pages_written(77)
    file(1026)
    card.write(card.program(A, B))
    card.field()
    card.field()
    file(2)
    card.field()
    assert card.rules == ["not-dirtied"]
    assert card.found[0].count == 2


def test_v10_in_the_swap_cache_while_nothing_is_written_out(card):
    """What came back from swap may stay in the swap cache, and clean: reclaim drops it without a word."""
    swapcache = card.guest.style.swapcache
    card.guest.poke64(A * PAGE, 7)
    card.guest.anon(A, extra=1, flags=swapcache)
    card.guest.pages_written(77)
    card.write(card.program(A))
    card.field()
    card.field()
    card.guest.anon(A, pins=0, extra=1, flags=swapcache)
    card.field()
    assert card.rules == ["not-dirtied"]


def test_v10_of_a_huge_page(card):
    card.guest.compound(1024, 4, pins=16)
    card.write(card.program(1024, 1025))
    card.guest.compound(1024, 4, pins=0)
    card.field()
    assert card.rules == ["not-dirtied"]


def test_v11_pins_after_the_end(card, buffer):
    card.checker.checkpoint(Checkpoint.DMA_STOP)
    result = card.checker.settle()
    assert card.rules == ["pin-leak"]
    assert result["pinned_pages"] == 3
    assert not result["settled"]


def test_v11_pins_of_pages_that_were_never_written(card):
    card.guest.pin_counters(10, 0, unfolded=4)
    result = card.checker.settle()
    assert card.rules == ["pin-leak"]
    assert result["outstanding"] == 10
    assert card.found[0].pages == 10
    assert "nr_foll_pin_acquired 10" in card.found[0].splat()


def test_the_precedence_is_that_of_the_list(card, buffer):
    card.guest.free(A)
    reserved(card.guest, B)
    card.guest.anon(C, pins=0)
    card.write(buffer)
    assert card.rules == ["free-page", "kernel-page", "not-pinned"]


def test_every_rule_explains_itself():
    for rule in ALL_RULES:
        assert rule.id
        assert rule.name == rule.name.lower()
        assert rule.sentence
        assert rule.severity
        assert rule.certainty
        assert rule.facts
    assert len({rule.name for rule in ALL_RULES}) == len(ALL_RULES)
    assert len({rule.id for rule in ALL_RULES}) == len(ALL_RULES)


def test_a_piece_across_a_page_border_blames_the_right_page(card):
    card.guest.anon(A)
    card.guest.anon(B, pins=0)
    batch = card.program(A)
    batch.addr[0] = A * PAGE + 4000
    batch.length[0] = 200
    batch.cache.clear()
    card.write(batch)
    assert card.rules == ["not-pinned"]
    assert (card.found[0].pfn, card.found[0].address) == (B, B * PAGE)


def test_large_pieces_touch_every_page_between(card):
    for pfn in range(A, A + 6):
        card.guest.anon(pfn)
    card.guest.anon(A + 4, pins=0)
    batch = card.program(A)
    batch.length[0] = 6 * PAGE
    card.write(batch)
    assert card.rules == ["not-pinned"]
    assert card.found[0].pfn == A + 4
    assert np.uint64(card.found[0].address) == (A + 4) * PAGE
