# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects --iommu: DMA is judged by the page behind its address; what no mapping allows, by its history."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from fakecard import FakeCard
from synthetic import PAGE, Map, Segment, SyntheticGuest

from vcapdev.dma import Batch, Checkpoint, Program
from vcapdev.dmacheck import domain as domain_module
from vcapdev.dmacheck.domain import Domain, Moment
from vcapdev.dmacheck.iommu import BehindIommu
from vcapdev.pci.busmaster import BusAbort, BusMaster

A, B, C = 2000, 2002, 2001  # page frames
BUS = 0xFFFF_0000
RISC = 0xFFF0_0000


class IommuCard(FakeCard):
    """A card behind an IOMMU: what a test maps is all that it reaches."""

    def __init__(self, guest: SyntheticGuest, *, translating: bool = True) -> None:
        super().__init__(guest)
        self.writes = self.fields = 0
        self.bus_map = Map([])
        self.domain = Domain(
            lambda fd, offset, size: offset if fd == guest.fd else None,
            lambda number: Moment(number, self.writes, ("STOP", self.writes), 0.001 * number, self.fields),
            lambda: self.view.classify(),
        )
        self.view = BehindIommu(self.checker, self.domain, lambda last: f"{last[0]} {last[1]}")
        self.bus = BusMaster(self.bus_map, lambda: True)
        self.bus.observers.append(self.view)
        self.data = np.arange(1 << 16, dtype=np.uint32).astype(np.uint8)
        if not translating:
            self.map(0, 0, pages=1024)

    def map(
        self, bus: int, pfn: int, *, pages: int = 1, writable: bool = True, fd: int | None = None
    ) -> None:
        guest, start = self.guest, pfn * PAGE
        data = guest.ram[start : start + pages * PAGE]
        segment = Segment(bus, pages * PAGE, data, guest.fd if fd is None else fd, start, writable)
        self.bus_map.segments = sorted([*self.bus_map.segments, segment], key=lambda each: each.start)
        self.bus_map.generation += 1
        self.bus.mapped(segment)
        self.domain.mapped(segment)

    def unmap(self, bus: int, pages: int = 1) -> None:
        inside = [s for s in self.bus_map.segments if bus <= s.start < bus + pages * PAGE]
        self.bus_map.segments = [s for s in self.bus_map.segments if s not in inside]
        self.bus_map.generation += 1
        self.bus.unmapped(inside)
        self.domain.unmapped(inside)

    def pieces(self, *pieces: tuple[int, int]) -> Batch:
        """A program that writes these ``(bus address, length)``; announced."""
        self._programs += 1
        self.bus.program(Program(self._programs, RISC, np.array(pieces, np.uint64), b"code"))
        addr, length = (np.array(each) for each in zip(*pieces, strict=True))
        source = np.cumsum(length) - length
        return Batch(
            addr.astype(np.uint64), length.astype(np.uint32), source.astype(np.uint32),
            np.arange(len(pieces)), self._programs,
        )  # fmt: skip

    def move(self, batch: Batch) -> bool:
        """Whether it got through."""
        with suppress(BusAbort):
            return self.bus.write(batch, self.data)
        return False


@pytest.fixture(params=["6.1", "7.2"])
def card(request):
    guest = SyntheticGuest(request.param)
    for pfn in (A, B, C):
        guest.anon(pfn)
    yield IommuCard(guest)
    guest.close()


def byte(card: IommuCard, pfn: int, offset: int) -> int:
    return int(card.guest.ram[pfn * PAGE + offset])


def test_a_piece_over_two_bus_pages_goes_to_two_pages_far_apart(card):
    card.map(BUS, A)
    card.map(BUS + PAGE, B)
    batch = card.pieces((BUS + PAGE - 16, 32))
    assert card.move(batch)
    assert [byte(card, A, PAGE - 16), byte(card, B, 0), byte(card, B, 15)] == [0, 16, 31]
    assert card.rules == []
    status = card.checker.status()
    assert (status["pages_checked"], status["distinct_pages"], status["bytes"]) == (2, 2, 32)
    assert status["oddities"] == {}


def test_the_page_behind_the_address_is_judged_and_the_mapping_told(card):
    card.map(BUS, A)
    card.map(BUS + PAGE, B)
    card.guest.anon(B, pins=0)
    batch = card.pieces((BUS, 64), (BUS + PAGE, 64))
    assert card.move(batch)
    assert card.rules == ["not-pinned"]
    (verdict,) = card.found
    card.view.annotate(verdict)
    assert verdict.pfn == B
    assert verdict.origin.instruction == "WRITE 1"
    assert f"bus address {BUS + PAGE:#x}" in verdict.evidence.notes[0]


def test_the_same_program_over_other_pages_is_judged_anew(card):
    """A driver that gives a buffer back and maps the next one gets the same addresses again."""
    card.map(BUS, A)
    batch = card.pieces((BUS, 64))
    assert card.move(batch)
    card.unmap(BUS)
    card.map(BUS, C)
    card.guest.anon(A, pins=0)
    assert card.move(batch)
    assert card.rules == []
    card.guest.anon(C, pins=0)
    assert card.move(batch)
    assert card.rules == ["not-pinned"]
    assert card.found[0].pfn == C
    assert (byte(card, A, 1), byte(card, C, 1)) == (1, 1)


def test_an_unchanged_translation_is_not_made_again(card):
    card.map(BUS, A)
    batch = card.pieces((BUS, 64))
    card.move(batch)
    first = batch.cache[card.view][1]
    card.map(BUS + PAGE, B)
    card.move(batch)
    assert batch.cache[card.view][1] is first
    looks = card.checker.status()["thorough_looks"]
    card.move(batch)
    assert card.checker.status()["thorough_looks"] == looks


def test_use_after_unmap_tells_the_story(card):
    card.map(BUS, B)
    card.unmap(BUS)
    card.writes = 5
    card.map(BUS, A)
    batch = card.pieces((BUS + 8, 64))
    assert card.move(batch)
    card.writes, card.fields = 7, 2
    before = byte(card, A, 8)
    card.unmap(BUS)
    card.guest.anon(A, pins=0)
    card.writes = 9
    card.data[:] = 0xEE
    assert not card.move(batch)
    assert byte(card, A, 8) == before
    assert card.rules == ["use-after-unmap"]
    (verdict,) = card.found
    assert verdict.key.endswith("(D1): DMA write to user pages (streaming)")
    assert (verdict.pfn, verdict.address) == (A, BUS + 8)
    assert verdict.evidence.now.pins == 0, "the page as it is now"
    made, torn, earlier = verdict.evidence.notes[:3]
    assert "mapped as no. 3 (field 0, register write 5: STOP 5)" in made
    assert "unmapped as no. 4 (field 2, register write 7: STOP 7)" in torn
    assert "since then 2 register writes, 0 maps," in torn
    assert f"physical {B * PAGE + 8:#x}, mapped as no. 1" in earlier
    assert not card.move(batch)
    assert verdict.count == 2
    assert card.view.status()["refused"] == 2


def test_streaming_coherent_and_program_memory_are_told_apart(card):
    card.guest.page(B, refcount=1, mapcount=-1)
    card.guest.page(C, refcount=1, mapcount=-1)
    card.map(BUS, A)
    card.map(BUS + PAGE, B)
    card.map(RISC, C)
    card.bus.read(RISC, 8)
    assert card.view.status()["live"] == {
        "user pages (streaming)": 1,
        "coherent memory": 1,
        "a program (coherent)": 1,
    }
    card.unmap(RISC)
    card.unmap(BUS + PAGE)
    with pytest.raises(BusAbort):
        card.bus.read(RISC, 8)
    assert not card.move(card.pieces((BUS + PAGE, 4)))
    assert card.rules == ["use-after-unmap", "use-after-unmap"]
    subjects = [verdict.subject for verdict in card.found]
    assert subjects == [
        "DMA fetch from a program (coherent)",
        "DMA write to coherent memory",
    ]


def test_what_a_mapping_was_of_is_seen_before_it_ends(card):
    """A driver that unmaps and then unpins, all between two fields."""
    card.map(BUS, A)
    card.unmap(BUS)
    card.guest.free(A)
    assert not card.move(card.pieces((BUS, 4)))
    assert card.found[0].subject == "DMA write to user pages (streaming)"


def test_never_mapped(card):
    card.map(BUS, A)
    batch = card.pieces((BUS + PAGE - 8, 16))
    assert not card.move(batch)
    assert byte(card, A, PAGE - 8) == 0
    assert card.rules == ["never-mapped"]
    (verdict,) = card.found
    assert verdict.address == BUS + PAGE
    assert verdict.pfn == -1
    assert "0x0 bytes above the end of user pages (streaming)" in verdict.evidence.notes[1]
    assert verdict.splat().count("\n") < 25


def test_mapped_for_reading(card):
    card.map(BUS, A, writable=False)
    card.bus.read(BUS, 4)
    assert card.rules == []
    assert not card.move(card.pieces((BUS, 4)))
    assert card.rules == ["mapped-for-reading"]


def test_a_stop_that_is_handled_first_leaves_nothing_to_judge(card):
    """The driver stops the card, then unmaps: both are handled before the batch, and nothing is written."""
    card.map(BUS, A)
    batch = card.pieces((BUS, 64))
    stopped = []

    class Stops:
        def before_write(self, batch):
            stopped.append(1)
            card.unmap(BUS)

        def __getattr__(self, name):
            return lambda *_: None

    card.bus.observers.append(Stops())
    assert not card.bus.write(batch, card.data, wanted=lambda: not stopped)
    assert card.rules == []
    assert byte(card, A, 1) == 0


def test_before_the_guest_switches_its_iommu_on_all_is_as_without():
    guest = SyntheticGuest("6.1")
    card = IommuCard(guest, translating=False)
    try:
        guest.anon(300, pins=0)
        assert card.move(card.pieces((300 * PAGE, 8)))
        assert card.rules == ["not-pinned"]
        assert card.found[0].address == 300 * PAGE
        assert not card.move(card.pieces((A * PAGE, 8)))
        assert card.rules == ["not-pinned", "outside-ram"]
        card.unmap(0, 1024)
        card.map(BUS, A)
        assert not card.move(card.pieces((300 * PAGE, 8)))
        assert card.rules[-1] == "never-mapped", "all of RAM was never the driver's mapping"
    finally:
        guest.close()


def test_memory_that_is_no_ram_is_moved_but_not_judged(card):
    """Another device's memory: there is no struct page to look at."""
    card.map(BUS, A, fd=card.guest.fd + 1)
    assert card.move(card.pieces((BUS, 8)))
    assert card.rules == []
    assert card.view.status()["outside_ram"] > 0
    assert card.checker.status()["pages_checked"] == 0


def test_the_history_is_bounded(card, monkeypatch):
    monkeypatch.setattr(domain_module, "HISTORY", 8)
    for page in range(32):
        card.map(BUS + page * PAGE, A)
        card.unmap(BUS + page * PAGE)
    assert card.domain.former(BUS) is None
    assert card.domain.former(BUS + 31 * PAGE) is not None
    assert sum(card.domain.former(BUS + page * PAGE) is not None for page in range(32)) == 8
    for _ in range(32):
        card.map(BUS, B)
        card.unmap(BUS)
    assert len(card.domain.formerly(BUS, 100)) == 8
    assert card.domain.former(BUS).behind(BUS) == B * PAGE
    assert not card.move(card.pieces((BUS, 8)))
    assert card.rules == ["use-after-unmap"]


def test_an_unmap_may_take_many_mappings(card):
    for page, pfn in enumerate((A, B, C)):
        card.map(BUS + page * PAGE, pfn)
    card.unmap(BUS, 16)
    assert card.domain.live == []
    assert card.domain.unmaps == 1
    torn = [card.domain.former(BUS + page * PAGE) for page in range(3)]
    assert len({mapping.torn for mapping in torn}) == 1


def test_pages_of_a_frame_are_named_by_bus_address(card):
    card.map(BUS, A)
    card.move(card.pieces((BUS, 8)))
    card.view.checkpoint(Checkpoint.FIELD)
    assert list(card.view.page_states()) == [BUS >> 12]


def test_a_fetch_over_two_pages_is_judged_page_by_page(card):
    for pfn in (B, C):
        card.guest.page(pfn, refcount=1, mapcount=-1)
    card.map(RISC, B)
    card.map(RISC + PAGE, C)
    assert len(card.bus.read(RISC + PAGE - 4, 8)) == 8
    assert card.rules == []
    card.guest.free(C)
    card.field()
    card.bus.read(RISC + PAGE - 4, 8)
    assert card.rules == ["fetch-free"]
    assert card.found[0].pfn == C


def test_a_mapping_that_outlives_the_pins_of_its_page(card):
    card.map(BUS, A)
    card.map(BUS + PAGE, B)
    card.map(RISC, C)
    card.guest.page(C, refcount=1, mapcount=-1)
    card.view.classify()
    card.guest.anon(A, pins=0)
    card.unmap(BUS + PAGE)
    card.guest.anon(B, pins=0)
    card.view.settle(final=False)
    assert card.rules == []
    card.view.settle(final=True)
    assert card.rules == ["mapping-left"]
    (verdict,) = card.found
    assert (verdict.pfn, verdict.address, verdict.origin) == (A, BUS, None)
    assert "mapped as no. 1" in verdict.splat()


def test_a_buffer_that_waits_for_its_next_frame_is_mapped_and_pinned(card):
    card.map(BUS, A)
    card.view.classify()
    card.view.settle(final=True)
    assert "mapping-left" not in card.rules
