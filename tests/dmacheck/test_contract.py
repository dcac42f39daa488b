# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the rules on the media framework's contract (V13, V14, V16), and what is no breach of it.

Both frameworks, with their books made by hand in synthetic memory.
"""

from __future__ import annotations

import numpy as np
import pytest
from fakecard import FakeCard
from frameworks import SPACE, USER, MediaGuest, at, guest_page
from synthetic import PAGE

from vcapdev.dma import Batch, Program

PAGES = (700, 701, 900, 710)


@pytest.fixture(params=["videobuf", "vb2"])
def card(request):
    guest = MediaGuest(framework=request.param)
    for row, pfn in enumerate(PAGES):
        guest.own(row, pfn)
    yield FakeCard(guest)
    guest.close()


def pieces(card: FakeCard, *ranges: tuple[int, int]) -> Batch:
    """A program of these pieces: bus address and length."""
    card._programs += 1
    table = np.array(ranges, dtype=np.uint64)
    card.checker.program(Program(card._programs, 0x5000, table, b"code"))
    count = np.arange(len(table))
    return Batch(
        table[:, 0].copy(),
        table[:, 1].astype(np.uint32),
        count.astype(np.uint32) * PAGE,
        count,
        card._programs,
    )


def frames(card: FakeCard, batch: Batch, count: int = 2) -> None:
    for _ in range(count):
        card.write(batch)
        card.field()


def status(card: FakeCard) -> dict:
    return card.checker.status()["contract"]


def test_the_buffer_behind_a_program_is_found(card):
    card.guest.buffer(PAGES)
    frames(card, card.program(*PAGES))
    assert card.rules == []
    assert status(card)["buffers_found"] == 1
    assert status(card)["why_not"] == ""


def test_a_program_without_a_buffer_is_counted(card):
    card.guest.anon(1200)
    frames(card, card.program(1200))
    assert card.rules == []
    assert (status(card)["buffers_found"], status(card)["not_found"]) == (0, 1)


# V13


def test_writing_to_a_buffer_that_was_given_back(card):
    buffer = card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    buffer.state = "done"
    frames(card, batch)
    assert card.rules == ["not-the-devices"]
    (verdict,) = card.found
    assert "state done" in verdict.key
    assert "userptr buffer 0" in verdict.evidence.notes[0]
    assert "pid 42 (capture)" in verdict.evidence.notes[0]
    assert verdict.evidence.stopped


def test_one_field_is_not_enough(card):
    """The driver may complete a buffer while the card begins with its other field, on a slow machine."""
    buffer = card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    for _ in range(4):
        buffer.state = "done"
        frames(card, batch, 1)
        buffer.state = "active"
        frames(card, batch, 1)
    assert card.rules == []
    assert card.oddities["given-back"] == 4 * len(PAGES)


def test_both_fields_of_one_frame_are_enough(card):
    buffer = card.guest.buffer(PAGES)
    top, bottom = card.program(*PAGES), card.program(*PAGES[:3])
    frames(card, top)
    frames(card, bottom)
    buffer.state = "error"
    frames(card, top, 1)
    frames(card, bottom, 1)
    assert card.rules == ["not-the-devices"]


def test_a_buffer_completed_while_the_bytes_move(card):
    buffer = card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    card.during = lambda: setattr(buffer, "state", "done")
    frames(card, batch, 1)
    card.during = lambda: setattr(buffer, "state", "active")
    frames(card, batch, 1)
    assert card.rules == []


def test_a_buffer_that_the_framework_has_released(card):
    buffer = card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    buffer.release()
    frames(card, batch)
    assert card.rules == ["not-the-devices"]
    assert "state released" in card.found[0].key


def test_it_is_the_devices_again_once_the_vcpus_stand(card):
    buffer = card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    buffer.state = "done"
    card.on_pause = lambda: setattr(buffer, "state", "active")
    frames(card, batch)
    assert card.rules == []
    assert card.pauses == 1


def test_a_stop_that_comes_meanwhile_excuses(card):
    buffer = card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    buffer.state = "done"
    card.running = False
    frames(card, batch)
    assert card.rules == []


def test_the_same_memory_in_two_buffers(card):
    """One of them is the device's: which one it is makes no difference."""
    first, second = card.guest.buffer(PAGES), card.guest.buffer(PAGES, slot=1)
    for pfn in PAGES:
        card.guest.field(pfn, 52, 2 * 1024 + 1)
    batch = card.program(*PAGES)
    frames(card, batch)
    first.state, second.state = "done", "active"
    frames(card, batch)
    first.state, second.state = "active", "done"
    frames(card, batch)
    assert card.rules == []


def test_a_buffer_that_comes_again_elsewhere(card):
    """Freed and allocated anew: the same pages behind the same program, by another buffer."""
    card.guest.buffer(PAGES).release()
    batch = card.program(*PAGES)
    frames(card, batch)
    card.guest.buffer(PAGES, slot=1)
    frames(card, batch)
    card.guest.buffer(PAGES, slot=0)
    frames(card, batch)
    assert card.rules == []


# V14


def test_to_the_byte(card):
    """A buffer that begins and ends within its pages: all of it, and not a byte more."""
    user = USER + 0x200
    guest = card.guest
    from frameworks import Buffer

    Buffer(guest, PAGES, user, length=3 * PAGE + 0x100 - 0x200)
    first, last = 700 * PAGE + 0x200, 710 * PAGE
    good = pieces(card, (first, PAGE - 0x200), (701 * PAGE, PAGE), (900 * PAGE, PAGE), (last, 0x100))
    frames(card, good)
    assert card.rules == []
    frames(card, pieces(card, (first, PAGE - 0x200), (701 * PAGE, PAGE), (900 * PAGE, PAGE), (last, 0x101)))
    assert card.rules == ["outside-buffer"]
    (verdict,) = card.found
    assert verdict.pfn == 710
    assert verdict.origin.instruction == "WRITE 3"
    assert f"{last + 0x101 - 1:#x}" in verdict.evidence.notes[1]


def test_before_the_start(card):
    card.guest.buffer(PAGES)
    card.guest.own(10, 699)
    frames(card, pieces(card, (700 * PAGE - 8, 8), (700 * PAGE, 8), (701 * PAGE, PAGE), (900 * PAGE, PAGE)))
    assert card.rules == ["outside-buffer"]
    assert card.found[0].pfn == 699
    assert "not the buffer's" in card.found[0].key


def test_merged_pieces_stay_inside(card):
    """Pages that follow one another in memory as well: a write across their border is within the buffer."""
    card.guest.buffer(PAGES)
    frames(card, pieces(card, (700 * PAGE, 2 * PAGE), (900 * PAGE, PAGE), (710 * PAGE, PAGE)))
    assert "outside-buffer" not in card.rules


def test_a_list_of_pages_that_is_not_complete_proves_nothing(card):
    card.guest.buffer(PAGES[:3], length=4 * PAGE)
    frames(card, card.program(*PAGES))
    assert card.rules == []


def test_another_address_is_queued_and_the_old_pages_are_kept(card):
    buffer = card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    buffer.queue_at(USER + 32 * PAGE)
    frames(card, batch)
    assert card.rules == ["outside-buffer"]
    assert "a former address" in card.found[0].key


def test_the_same_pages_at_another_address(card):
    """The user has mapped his memory twice, or moved it."""
    guest, buffer = card.guest, card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    for row, pfn in enumerate(PAGES):
        guest.map(USER + (32 + row) * PAGE, pfn * PAGE, top=guest.user_top)
    buffer.queue_at(USER + 32 * PAGE)
    frames(card, batch)
    assert card.rules == []


# V16


def shared(card: FakeCard, pins: int) -> None:
    """Two buffers that share page 710, which is pinned so many times."""
    card.guest.buffer(PAGES)
    card.guest.buffer((710, 720), slot=1, row=3, state="queued")
    card.guest.own(4, 720)
    card.guest.own(3, 710, pins=pins)


def test_two_buffers_that_share_a_page(card):
    shared(card, pins=2)
    frames(card, card.program(*PAGES))
    assert card.rules == []


def test_a_pin_that_hides_that_another_is_missing(card):
    shared(card, pins=1)
    frames(card, card.program(*PAGES))
    assert card.rules == ["missing-pin"]
    (verdict,) = card.found
    assert verdict.pfn == 710
    assert "1 pins, but the buffers that list it account for 2" in verdict.evidence.notes[1]


def test_a_pin_that_goes_while_buffers_are_queued(card):
    shared(card, pins=2)
    batch = card.program(*PAGES)
    frames(card, batch)
    card.guest.own(3, 710, pins=1)
    frames(card, batch)
    assert card.rules == ["missing-pin"]


def test_the_other_buffer_is_being_released(card):
    """It has lost its scatterlist, its pins may be gone, and its pages are still listed."""
    guest = card.guest
    guest.buffer(PAGES)
    other = guest.buffer((710, 720), slot=1, row=3, state="error")
    guest.own(3, 710, pins=2)
    batch = card.program(*PAGES)
    frames(card, batch)
    other.unmap()
    guest.own(3, 710, pins=1)
    frames(card, batch, 4)
    assert card.rules == []


def test_short_of_pins_for_one_field_only(card):
    shared(card, pins=2)
    batch = card.program(*PAGES)
    frames(card, batch)
    card.guest.own(3, 710, pins=1)
    frames(card, batch, 1)
    card.guest.own(3, 710, pins=2)
    frames(card, batch, 1)
    assert card.rules == []


def test_a_huge_page_counts_the_pins_of_all_its_pages(card):
    guest = card.guest
    guest.compound(1024, 9, pins=3)
    guest.buffer((1024, 1025, 1030))
    batch = card.program(1024, 1025, 1030)
    frames(card, batch)
    assert card.rules == []
    guest.compound(1024, 9, pins=2)
    frames(card, batch)
    assert card.rules == ["missing-pin"]


# A guest that lies


@pytest.mark.parametrize("word", [0, 1, 0xFFFFFFFFFFFFFFFF, 0xFFFF888000000001, 0xFFFF888700000000])
@pytest.mark.parametrize("which", ["pages", "memory_at", "place", "sg"])
def test_books_that_lead_nowhere(card, which, word):
    guest, buffer = card.guest, card.guest.buffer(PAGES)
    batch = card.program(*PAGES)
    frames(card, batch)
    for offset in range(0, 128, 8):
        guest.put(getattr(buffer, which) + offset, word)
        frames(card, batch, 1)
    assert set(card.rules) <= {"not-the-devices", "outside-buffer"}


@pytest.mark.parametrize("framework", ["videobuf", "vb2"])
def test_a_descriptor_table_that_claims_too_much(framework):
    guest = MediaGuest(framework=framework)
    from frameworks import TABLE

    guest.poke(TABLE, b"\xff\xff\xff\xff")
    guest.own(0, 700)
    guest.buffer((700,))
    card = FakeCard(guest)
    frames(card, card.program(700))
    assert card.rules == []
    guest.close()


# Imported memory.


@pytest.mark.parametrize(("references", "rules"), [(2, []), (1, ["not-pinned"])])
def test_a_dmabuf_that_its_exporter_holds_by_references_alone(references, rules):
    """As udmabuf did before Linux 6.11: shmem pages in the page cache, and one reference more."""
    guest = MediaGuest(framework="vb2")
    for pfn in PAGES:
        guest.page(pfn, "uptodate lru swapbacked", refcount=references, mapping=at(SPACE), index=pfn)
    buffer = guest.buffer(PAGES, memory="dmabuf")
    for number, pfn in enumerate(PAGES):
        guest.put(buffer.sg + 32 * number, guest_page(pfn), PAGE << 32, pfn * PAGE, 0)
    card = FakeCard(guest)
    frames(card, card.program(*PAGES))
    assert card.rules == rules
    assert card.oddities.get("held-by-exporter", 0) == (0 if rules else 2 * len(PAGES))
    assert status(card)["buffers_found"] == 1
    guest.close()
