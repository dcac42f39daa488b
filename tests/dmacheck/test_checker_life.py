# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the checker's coming and going: attach, reset, reboot, changed maps; and that it never grows."""

import gc
import sys
from pathlib import Path

import numpy as np
from fakecard import FakeCard, cards
from synthetic import PAGE, SyntheticGuest

from vcapdev.dma import Abort, Batch, Checkpoint, Program
from vcapdev.dmacheck.history import History
from vcapdev.dmacheck.ledger import MAX_PAGES
from vcapdev.guestmm.pages import PageSet

card = cards(["6.1"])
A = 2000


def test_attaches_by_itself_when_dma_starts():
    guest = SyntheticGuest()
    guest.anon(A)
    card = FakeCard(guest, start=False)
    batch = card.program(A)
    card.write(batch)
    status = card.checker.status()
    assert (status["attached"], status["unchecked_writes"], status["pages_checked"]) == (False, 1, 0)
    card.checker.checkpoint(Checkpoint.DMA_START)
    card.write(batch)
    status = card.checker.status()
    assert (status["attached"], status["kernel"]) == (True, guest.release)
    assert (status["writes"], status["bytes"], status["pages_checked"]) == (1, PAGE, 1)
    guest.close()


def test_says_why_it_cannot_attach_and_goes_on():
    guest = SyntheticGuest()
    guest.ram[:] = 0
    card = FakeCard(guest, start=False)
    card.checker.checkpoint(Checkpoint.DMA_START)
    card.write(card.program(A))
    status = card.checker.status()
    assert "no VMCOREINFO note" in status["why_not"]
    assert status["unchecked_writes"] == 1
    assert status["defects"] == []
    assert card.checker.settle()["settled"] is False
    guest.close()


def test_a_reset_drops_everything_and_the_next_start_attaches_again(card):
    card.guest.anon(A)
    card.write(card.program(A))
    card.checker.checkpoint(Checkpoint.RESET)
    assert not card.checker.attached
    card.guest.release = "6.1.0-next"
    card.guest.poke(card.guest.uts + 130, b"6.1.0-next\0")
    card.guest.write_note()
    card.checker.checkpoint(Checkpoint.DMA_START)
    assert card.checker.status()["kernel"] == "6.1.0-next"
    card.guest.anon(A, pins=0)
    card.write(card.program(A))
    assert card.rules == ["not-pinned"]
    assert card.checker.status()["pages_checked"] == 2


def follow_on(card, release):
    """Another kernel in the place of the first, as kexec leaves it: no reset of the device."""
    card.guest.release = release
    card.guest.poke(card.guest.uts + 130, release.encode() + b"\0")
    card.guest.write_note()


def test_a_kernel_started_by_another_is_found_at_the_next_start_of_dma(card):
    card.guest.anon(A)
    card.write(card.program(A))
    card.guest.pin_counters(3, 0)
    follow_on(card, "6.1.0-kexec")
    card.checker.doubt()
    assert not card.checker.attached
    card.checker.checkpoint(Checkpoint.DMA_START)
    assert card.checker.status()["kernel"] == "6.1.0-kexec"
    assert card.checker.attached
    assert card.checker.status()["pins"]["pinned_now"] == 0  # they were the former kernel's
    assert card.checker.settle()["outstanding_at_attach"] == 3
    assert card.rules == []


def test_a_doubt_without_ground_keeps_the_books_of_pins(card):
    card.checker.doubt()
    card.guest.pin_counters(3, 0)
    card.checker.checkpoint(Checkpoint.DMA_START)
    assert card.checker.settle()["outstanding_at_attach"] == 0


def test_a_kernel_that_is_gone_is_given_up(card):
    card.guest.ram[card.guest.note_at : card.guest.note_at + 4096] = 0
    card.checker.doubt()
    card.checker.checkpoint(Checkpoint.DMA_START)
    card.guest.anon(A)
    card.write(card.program(A))
    status = card.checker.status()
    assert not status["attached"]
    assert "a former kernel is no more" in status["why_not"]
    assert status["unchecked_writes"] == 1


def test_dma_that_is_switched_on_while_the_kernel_is_looked_for_leaves_it_found(card):
    """A driver that is loaded anew does so, and the messages are handled meanwhile."""
    nested: list[Checkpoint] = []

    def handle_messages() -> bool:
        if not nested:
            nested.append(Checkpoint.DMA_START)
            card.checker.checkpoint(nested[0])
        return True

    card.checker._ground._dma_running = handle_messages
    card.checker.doubt()
    card.checker.checkpoint(Checkpoint.DMA_START)
    assert nested, "nothing was handled meanwhile"
    assert card.checker.attached


def test_a_batch_tells_the_state_that_its_pages_were_judged_in(card):
    """For the timeline: most pages speak for all, but for one that is not pinned."""
    card.guest.anon(A)
    card.guest.anon(A + 1)
    batch = card.program(A, A + 1)
    assert card.checker.state_of(batch) == ""
    card.write(batch)
    assert card.checker.state_of(batch) == "pinned-anon"
    card.guest.anon(A + 1, pins=0)
    card.write(batch)
    assert card.checker.state_of(batch) == "unpinned"


def test_a_defect_while_attaching_is_reported_and_no_more(card):
    card.checker._ground.attachment.attach = lambda breathe, **more: 1 / 0
    assert card.checker.attach() is True  # to the kernel that it knows
    assert card.checker.status()["defects"] == ["ZeroDivisionError: division by zero"]


def test_more_pages_than_can_be_looked_at_are_not_passed_for_checked(card):
    batch = card.program(A)
    count = MAX_PAGES + 1
    batch = Batch(
        (np.arange(count, dtype=np.uint64) * np.uint64(PAGE)),
        np.full(count, 4, dtype=np.uint32),
        np.zeros(count, dtype=np.uint32),
        np.zeros(count, dtype=np.int64),
        batch.program,
    )
    card.write(batch)
    assert card.checker.status()["unchecked_writes"] == 1
    assert card.checker.status()["defects"] == []


def test_the_history_is_bounded_by_pages_as_well(card):
    pages = PageSet(card.checker._ground.kernel, np.array([A] + [A + 1] * ((1 << 14) - 1), dtype=np.int64))
    pages.read()
    facts, history = pages.facts(), History()
    for number in range(40):
        history.record(f"look {number}", facts)
    assert sum(len(facts.pfn) for _, facts in history._events) <= 1 << 17
    assert history.of(card.checker._ground.kernel, A)[-1][0] >= "look 32"


def test_a_reset_during_attaching_makes_it_void():
    guest = SyntheticGuest()
    card = FakeCard(guest, start=False)
    card.on_drain = lambda: card.checker.checkpoint(Checkpoint.RESET)
    assert card.checker.attach() is False
    assert not card.checker.attached
    guest.close()


def test_a_start_during_attaching_does_not_attach_twice():
    guest = SyntheticGuest()
    card = FakeCard(guest, start=False)
    card.on_drain = lambda: card.checker.checkpoint(Checkpoint.DMA_START)
    assert card.checker.attach() is True
    assert card.checker.status()["defects"] == []
    guest.close()


def test_a_changed_map_is_followed(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    card.guest.memory.generation += 1
    card.checker.memory_changed()
    card.write(batch)
    card.guest.memory.generation += 1
    card.guest.anon(A, pins=0)
    card.write(batch)
    assert card.rules == ["not-pinned"]
    assert card.checker.status()["pages_checked"] == 3


def test_a_map_without_the_kernel_detaches(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.guest.memory.segments = []
    card.guest.memory.generation += 1
    card.write(batch)
    assert not card.checker.attached
    assert "memory map changed" in card.checker.status()["why_not"]
    assert card.checker.status()["defects"] == []


def test_writes_of_a_program_that_was_not_announced_are_judged(card):
    card.guest.anon(A)
    card.guest.anon(A + 1, pins=0)
    card.write(card.program(A, A + 1, announce=False))
    assert card.rules == ["not-pinned"]


def test_empty_programs_and_batches_are_harmless(card):
    none = np.zeros(0, dtype=np.uint64)
    card.checker.program(Program(9, 0x5000, np.zeros((0, 2), dtype=np.uint64), b""))
    card.write(Batch(none, none.astype(np.uint32), none.astype(np.uint32), none.astype(np.int64), 9))
    card.field()
    assert card.rules == []


def test_what_is_not_a_write_to_nowhere_is_only_counted(card):
    card.checker.aborted(0xFF000000, 4, 0, False, Abort.UNMAPPED)
    card.checker.aborted(0x1000, 4, 0, True, Abort.MASTER_DISABLED)
    card.checker.device_read(0x1000, 4, 0)
    assert card.rules == []
    assert card.oddities == {"fetch-aborted": 1, "bus-master-off": 1}


def test_page_states_are_those_of_the_last_frame(card):
    for pfn in range(A, A + 4):
        card.guest.anon(pfn)
    odd, even, later = card.program(A, A + 1), card.program(A + 1, A + 2), card.program(A + 3)
    for batch in (odd, even):
        card.write(batch)
        card.field()
    assert card.checker.page_states() == dict.fromkeys(range(A, A + 3), "pinned-anon")
    card.write(later)
    assert A + 3 not in card.checker.page_states()
    card.guest.anon(A + 3, pins=2, extra=1, flags="owner_priv_1")
    card.write(later)
    card.field()
    assert card.checker.page_states()[A + 3] == "pinned-swapcache"


def test_a_defect_is_reported_and_does_not_reach_the_device(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.checker._examiner.prepare = lambda batch: 1 / 0
    card.write(batch)
    card.write(batch)
    assert card.checker.status()["defects"] == ["ZeroDivisionError: division by zero"]
    assert card.checker.status()["unchecked_writes"] == 2


def churn(card, frames):
    """Frames as in real life: two programs a buffer, buffers released and taken again, reclaim at work."""
    random = np.random.default_rng(frames)
    for frame in range(frames):
        pfns = [A + (frame % 7) * 4 + i for i in range(4)]
        for pfn in pfns:
            card.guest.anon(pfn, extra=int(random.integers(0, 2)))
        batches = [card.program(*pfns[:3]), card.program(*pfns[1:])]
        for batch in batches:
            card.write(batch)
            card.register_write()
            card.field()
        for pfn in pfns:
            card.guest.anon(pfn, pins=0, flags="dirty")
        card.register_write()
        for number in (card._programs - 1, card._programs):
            card.checker.gone(number)


def resident():
    """Bytes of this process's own memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_ten_thousand_frames_do_not_grow(card):
    churn(card, 1500)
    gc.collect()
    blocks, size = sys.getallocatedblocks(), resident()
    churn(card, 8500)
    gc.collect()
    assert card.rules == []
    assert card.checker.status()["fields"] == 20000
    assert sys.getallocatedblocks() - blocks < 20_000
    assert resident() - size < 16 << 20


def test_programs_without_end_are_bounded(card):
    card.guest.anon(A)
    for _ in range(5000):
        card.program(A)
    assert card.checker.status()["programs"] <= 4096
    assert card.checker.status()["defects"] == []
