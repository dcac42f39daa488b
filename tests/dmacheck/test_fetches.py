# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the rules on what a device reads and when it writes: R1, R2 and R3 on fetches, V9 on writes."""

import numpy as np
import pytest
from fakecard import cards
from synthetic import ANON, DIRECT_MAP, PAGE, VMEMMAP

from vcapdev.dma import Checkpoint, Program

card = cards()
CODE, BUFFER = 2048, 2000
NONE = np.zeros((0, 2), dtype=np.uint64)


def announce(card, pages=4, number=7, code=b"", at=CODE * PAGE):
    """A program of the card in these pages of driver memory."""
    card.checker.program(Program(number, at, NONE, code or bytes(pages * PAGE)))


def coherent(card, pages=4):
    """An allocation of more than a page, as dma_alloc_coherent makes it: only the first page is counted."""
    card.guest.page(CODE)
    for pfn in range(CODE + 1, CODE + pages):
        card.guest.page(pfn, refcount=0)


def fetch(card, *pages, length=2048):
    """Slices of the program, one from each of these pages."""
    for pfn in pages:
        card.checker.device_read(pfn * PAGE, length, 3)


@pytest.fixture
def program(card):
    """A program of four pages that was fetched once."""
    coherent(card)
    announce(card)
    fetch(card, *range(CODE, CODE + 4))
    card.field()
    assert card.rules == []
    return card


def test_r1_a_program_that_was_freed(program):
    program.guest.free(CODE + 2)
    fetch(program, CODE + 2)
    assert program.rules == ["fetch-free"]
    assert program.found[0].pfn == CODE + 2
    assert "fetch of instructions from a free page" in program.found[0].key
    assert program.found[0].origin.line == 3
    assert "\nfetched     WRITE " in program.found[0].splat()
    assert "written by" not in program.found[0].splat()


def test_r1_a_block_that_was_freed_shows_in_its_first_page_alone(program):
    program.guest.free(CODE)
    program.guest.field(CODE, 40, 2, 8)
    fetch(program, CODE + 3)
    assert program.rules == ["fetch-free"]
    assert program.found[0].count == 4  # all pages of the program


def test_r1_a_block_that_was_merged_with_its_neighbour(program):
    program.guest.free(CODE, buddy=False)
    program.guest.free(CODE - 1024)
    program.guest.field(CODE - 1024, 40, 11, 8)
    fetch(program, CODE + 1)
    assert program.rules == ["fetch-free"]


def test_r1_a_block_on_a_cpus_own_list_has_no_mark(program):
    program.guest.free(CODE, buddy=False)
    fetch(program, CODE + 1)
    assert program.rules == ["fetch-free"]


def test_r1_a_free_page_at_first_sight(card):
    card.guest.free(CODE)
    fetch(card, CODE)
    assert card.rules == ["fetch-free"]


LIST_HEAD = 64  # physical address of a CPU's list of free pages


def on_list(guest, *pfns):
    """Free pages without a mark, in the list of their CPU."""
    nodes = [DIRECT_MAP + LIST_HEAD, *(VMEMMAP + pfn * 64 + 8 for pfn in pfns)]
    for pfn in pfns:
        guest.free(pfn, buddy=False)
    for place, node in zip([LIST_HEAD, *(guest.row_at(pfn) + 8 for pfn in pfns)], nodes, strict=True):
        at = nodes.index(node)
        after, before = nodes[(at + 1) % len(nodes)], nodes[at - 1]
        guest.poke(place, after.to_bytes(8, "little") + before.to_bytes(8, "little"))


@pytest.mark.parametrize("others", [(), (CODE - 9,), (CODE - 9, CODE + 700)])
def test_r1_a_page_in_its_cpus_list_is_free_at_first_sight(card, others):
    """As a program that is first fetched after the driver has freed it."""
    on_list(card.guest, *others[:1], CODE, *others[1:])
    fetch(card, CODE)
    assert card.rules == ["fetch-free"]


def test_r1_a_block_in_a_cpus_list_at_first_sight(card):
    on_list(card.guest, CODE)
    card.guest.free(CODE + 1, buddy=False)
    fetch(card, CODE + 1)
    assert card.rules == ["fetch-free"]


@pytest.mark.parametrize("neighbour", ["itself", "of others", "poison"])
def test_an_uncounted_page_that_no_neighbour_knows_stays_silent(card, neighbour):
    """It left its list long ago, and may be held in a way of its own."""
    on_list(card.guest, CODE - 9, CODE + 700)
    node = VMEMMAP + CODE * 64 + 8
    link = {"itself": node, "of others": VMEMMAP + (CODE - 9) * 64 + 8, "poison": 0xDEAD000000000100}[
        neighbour
    ]
    card.guest.page(CODE, refcount=0, link=link)
    card.guest.field(CODE, 16, link, 8)
    for _ in range(3):
        fetch(card, CODE)
        card.field()
    assert card.rules == []


def test_r1_a_program_behind_the_first_page_of_its_allocation(card):
    coherent(card)
    announce(card, pages=1, at=(CODE + 2) * PAGE)
    for _ in range(3):
        fetch(card, CODE + 2)
        card.field()
    assert card.rules == []
    card.guest.free(CODE)
    card.guest.field(CODE, 40, 2, 8)
    fetch(card, CODE + 2)
    assert card.rules == ["fetch-free"]


def anon(guest, pfn):
    guest.anon(pfn, pins=0)


def pinned(guest, pfn):
    guest.anon(pfn)


def file(guest, pfn):
    guest.page(pfn, "lru uptodate", mapping=0xFFFF888000123000, index=4, refcount=2, mapcount=0)


def slab(guest, pfn):
    if guest.style.top_byte_types:
        guest.page(pfn, mapcount=0xF5000000 - (1 << 32), refcount=0)
    else:
        guest.page(pfn, "slab", mapping=0xFFFF888000123400)


def table(guest, pfn):
    value = 0xF2000000 if guest.style.top_byte_types else 0xFFFFFDFF
    guest.page(pfn, mapcount=value - (1 << 32), mapping=0xFFFF888000123003)


@pytest.mark.parametrize("become", [anon, pinned, file, slab, table])
def test_r2_a_page_that_somebody_else_has_got(program, become):
    become(program.guest, CODE + 3)
    fetch(program, CODE)
    assert program.rules == ["fetch-reused"]
    assert program.found[0].pfn == CODE + 3
    fetch(program, CODE)
    program.field()
    fetch(program, CODE)
    assert program.found[0].count == 2


def test_r2_a_users_page_without_a_pin_at_first_sight(card):
    anon(card.guest, CODE)
    fetch(card, CODE)
    assert card.rules == ["fetch-reused"]


def test_r2_another_users_page(card):
    pinned(card.guest, CODE)
    fetch(card, CODE)
    card.field()
    card.guest.anon(CODE, mapping=ANON + 0x1000)
    fetch(card, CODE)
    assert card.rules == ["fetch-reused"]


def words(*values):
    return b"".join(value.to_bytes(4, "little") for value in values)


OLD = words(1, 2, 3, 4, 5, 6, 7, 8) * 64


def run_to(card, offset):
    """The device enters the program and gets so far without a jump."""
    card.checker.device_read(CODE * PAGE, 64, 3)
    card.checker.device_read(CODE * PAGE + 64, offset - 64, 4)


def test_r3_instructions_changed_under_the_device(card):
    coherent(card)
    announce(card, code=OLD)
    run_to(card, 512)
    announce(card, number=8, code=OLD[512:1024].replace(words(5), words(9)), at=CODE * PAGE + 512)
    assert card.rules == ["fetch-changed"]
    assert card.found[0].address == CODE * PAGE + 512


def test_r3_the_device_reads_the_changed_slice_twice(card):
    coherent(card)
    announce(card, code=OLD)
    run_to(card, 512)
    card.checker.device_read(CODE * PAGE + 512, 256, 5)
    card.checker.device_read(CODE * PAGE + 512, 8, 5)
    announce(card, number=8, code=words(9) * 8, at=CODE * PAGE + 512)
    assert card.rules == ["fetch-changed"]


def test_r3_in_a_program_that_is_entered_by_a_sync(card):
    """As every program of bttv is: it is known from the instruction behind that."""
    coherent(card)
    card.checker.device_read(CODE * PAGE, 8, 3)
    announce(card, code=OLD, at=CODE * PAGE + 8)
    card.checker.device_read(CODE * PAGE + 8, 512, 4)
    announce(card, number=8, code=words(9) * 8, at=CODE * PAGE + 8 + 512)
    assert card.rules == ["fetch-changed"]


def test_a_program_entered_amid_another_is_no_change(card):
    coherent(card)
    announce(card, code=OLD)
    run_to(card, 512)
    announce(card, number=8, code=OLD[512:], at=CODE * PAGE + 512)
    assert card.rules == []


def test_a_program_rebuilt_between_two_passes_is_no_change(card):
    coherent(card)
    announce(card, code=OLD)
    run_to(card, len(OLD))
    card.checker.device_read(0x9000, 8, 1)  # the driver's loop, from where it comes again
    card.checker.gone(7)
    card.checker.device_read(CODE * PAGE, 8, 1)
    announce(card, number=8, code=OLD.replace(words(5), words(9)))
    assert card.rules == []


def test_a_program_behind_a_sync_in_the_same_memory_is_no_change(card):
    coherent(card)
    card.checker.device_read(CODE * PAGE, 8, 1)
    card.checker.device_read(CODE * PAGE + 8, 64, 1)
    announce(card, number=8, code=OLD, at=CODE * PAGE + 8)
    assert card.rules == []


def test_a_program_changed_after_a_stop_is_no_change(card):
    coherent(card)
    announce(card, code=OLD)
    run_to(card, 512)
    card.checker.checkpoint(Checkpoint.DMA_STOP)
    announce(card, number=8, code=words(9) * 8, at=CODE * PAGE + 512)
    assert card.rules == []


def frozen(guest, pfn):
    guest.page(pfn, refcount=0)


@pytest.mark.parametrize("memory", [pinned, slab, frozen])
def test_l11_l12_and_programs_in_other_memory_stay_silent(card, memory):
    """A page without count or mark may be held in a way of its own, as since 6.14 slab's are."""
    memory(card.guest, CODE)
    announce(card, pages=1)
    for _ in range(3):
        fetch(card, CODE)
        card.field()
    assert card.rules == []


def test_memory_given_to_another_program_of_the_driver(program):
    program.checker.gone(7)
    program.guest.page(CODE + 1)
    program.guest.page(CODE + 2)
    announce(program, number=8, pages=1, at=(CODE + 1) * PAGE)
    fetch(program, CODE + 1)
    assert program.rules == []


def test_memory_in_another_role_after_a_stop(program):
    program.checker.checkpoint(Checkpoint.DMA_STOP)
    slab(program.guest, CODE)
    program.checker.checkpoint(Checkpoint.DMA_START)
    announce(program, number=8, pages=1)
    fetch(program, CODE)
    assert program.rules == []


def test_a_fetch_that_raced_with_a_stop(program):
    program.guest.free(CODE)
    program.running = False
    fetch(program, CODE)
    assert program.rules == []
    assert program.oddities["raced-with-stop"] >= 1


def test_a_fetch_from_another_devices_memory(card):
    fetch(card, card.guest.pages + 2)
    assert card.rules == []


def test_a_field_of_many_slices_is_looked_at_once(program):
    group = program.checker._ground.fetches._by_page[CODE]
    peek, peeks = group.pages.peek, []
    group.pages.peek = lambda: (peeks.append(1), peek())[1]
    for _ in range(5):
        fetch(program, *range(CODE, CODE + 4), length=PAGE)
    assert len(peeks) == 1
    program.field()
    fetch(program, CODE + 1)
    assert len(peeks) == 2


def test_a_program_in_pages_that_changed_is_looked_at_again_until_it_is_good(program):
    program.guest.field(CODE, 52, 2)  # somebody has taken a reference
    looks = program.checker._ground.fetches.looks
    fetch(program, CODE, CODE + 1)
    program.field()
    fetch(program, CODE, CODE + 1)
    assert program.rules == []
    assert program.checker._ground.fetches.looks == looks + 1


def test_a_changed_map_is_followed_before_a_page_is_looked_at(program):
    program.guest.memory.generation += 1
    program.guest.free(CODE)
    fetch(program, CODE)
    assert program.rules == ["fetch-free"]
    assert program.checker.status()["defects"] == []


def test_programs_without_end_are_bounded(card):
    coherent(card)
    for number in range(4200):
        announce(card, pages=1, number=number, at=(CODE + number % 900) * PAGE)
        fetch(card, CODE + number % 900)
    assert len(card.checker._ground.fetches._programs) == 4096
    assert card.checker.status()["defects"] == []


def test_v9_a_write_after_a_stop(card):
    card.guest.anon(BUFFER)
    batch = card.program(BUFFER)
    card.write(batch)
    card.checker.checkpoint(Checkpoint.DMA_STOP)
    card.write(batch)
    card.write(batch)
    assert card.rules == ["dma-off"]
    verdict = card.found[0]
    assert (verdict.pfn, verdict.address, verdict.count) == (BUFFER, BUFFER * PAGE, 2)
    assert verdict.origin.line == 0


def test_v9_a_stop_and_a_new_start(card):
    card.guest.anon(BUFFER)
    batch = card.program(BUFFER)
    for what in (Checkpoint.DMA_STOP, Checkpoint.DMA_START):
        card.checker.checkpoint(what)
    card.write(batch)
    assert card.rules == []


def test_v9_where_nothing_was_told_of_dma(card):
    """A device that announces no switching of DMA is not held to it."""
    other = type(card)(card.guest, start=False)
    other.checker.attach()
    card.guest.anon(BUFFER)
    other.write(other.program(BUFFER))
    assert other.rules == []


def test_a_tail_that_leads_nowhere_is_no_crash(card):
    card.guest.page(CODE, refcount=0, link=DIRECT_MAP + 1)
    fetch(card, CODE)
    assert card.rules == []
