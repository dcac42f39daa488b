# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker never cries wolf: every legitimate state of a page under DMA (L0 to L18) stays silent."""

from types import SimpleNamespace

import numpy as np
import pytest
from fakecard import cards
from synthetic import ANON, PAGE

from vcapdev.dma import Checkpoint
from vcapdev.dmacheck.releases import Releases

card = cards()
A, B, C = 2000, 2001, 2002
FILE = 0xFFFF888000123000


def hold(card, *states, pfns=(A, B)):
    """Go through states during one buffer's life: each is a function that sets the pages up."""
    states[0]()
    batch = card.program(*pfns)
    for state in states:
        card.during = lambda: None
        state()
        card.write(batch)
        card.during = state
        card.field()
        card.write(batch)
    assert card.rules == []
    return batch


def test_l0_and_l5_pinned_once_and_twice(card):
    hold(
        card,
        lambda: [card.guest.anon(p) for p in (A, B)],
        lambda: [card.guest.anon(p, pins=2) for p in (A, B)],
        lambda: [card.guest.anon(p, pins=1, extra=1) for p in (A, B)],
    )


def test_l1_in_the_swap_cache(card):
    flags = "swapcache" if card.guest.style.swapcache == "swapcache" else card.guest.style.swapcache
    hold(card, lambda: [card.guest.anon(p, extra=1, flags=flags) for p in (A, B)])


@pytest.mark.parametrize(
    "flags", ["locked", "reclaim", "referenced active", "workingset", "mlocked unevictable"]
)
def test_l2_and_l15_transient_holders(card, flags):
    hold(
        card,
        lambda: card.guest.anon(A),
        lambda: card.guest.anon(A, extra=1, flags=flags),
        lambda: card.guest.anon(A, extra=15, flags=flags),
        lambda: card.guest.page(
            A, f"uptodate swapbacked {flags}", refcount=1026, mapcount=0, mapping=ANON, index=0x7F0000000 + A
        ),
        pfns=(A,),
    )


def test_l3_unmapped_while_pinned(card):
    hold(
        card,
        lambda: card.guest.anon(A),
        lambda: card.guest.anon(A, mapcount=-1, extra=1, flags=card.guest.style.swapcache),
        lambda: card.guest.anon(A),
        pfns=(A,),
    )
    assert card.oddities == {"unmapped-in-swap-cache": 1}


def test_l4_orphaned_by_munmap_or_exit(card):
    hold(card, lambda: card.guest.anon(A), lambda: card.guest.anon(A, mapcount=-1), pfns=(A,))
    assert card.oddities == {"orphan": 1}


def test_l7_shared_file_and_shmem_under_writeback(card):
    def file(flags, count):
        def state():
            card.guest.page(A, flags, mapping=FILE, index=5, mapcount=0, refcount=1024 + count)

        return state

    hold(
        card,
        file("lru uptodate", 2),
        file("lru uptodate writeback", 3),
        file("lru uptodate dirty", 2),
        pfns=(A,),
    )
    assert card.oddities == {"under-writeback": 1}
    hold(card, file("lru uptodate swapbacked dirty", 2), pfns=(A,))


def test_l8_huge_pages(card):
    def pinned(count):
        return lambda: card.guest.compound(1024, 9, pins=count)

    hold(card, pinned(64), pinned(65), pinned(1), pfns=(1024, 1030, 1500))


@pytest.mark.parametrize("anon", [True, False])
def test_l9_hugetlb(card, anon):
    def pinned(count):
        return lambda: card.guest.hugetlb(1024, pins=count, anon=anon)

    hold(card, pinned(2), pinned(3), pinned(1), pfns=(1024, 1300))


def test_l10_mmap_buffers_pinned_by_videobuf(card):
    hold(card, lambda: [card.guest.page(p, refcount=1025, mapcount=0) for p in (A, B)])


def test_l10_mmap_buffers_of_vb2_are_not_pinned_but_held(card):
    hold(
        card,
        lambda: [card.guest.page(p, refcount=2, mapcount=0) for p in (A, B)],
        lambda: [card.guest.page(p, refcount=1, mapcount=-1) for p in (A, B)],
    )


def test_l11_and_l14_coherent_memory(card):
    hold(card, lambda: [card.guest.page(p) for p in (A, B)])


def test_l13_bounce_buffers():
    from fakecard import FakeCard
    from synthetic import SyntheticGuest

    guest = SyntheticGuest()
    first, last = 2048, 2304
    for name, value in (("io_tlb_start", first * PAGE), ("io_tlb_end", last * PAGE)):
        guest.variable(name, value.to_bytes(8, "little"))
    guest.write_note()
    card = FakeCard(guest)
    guest.page(2048, "reserved")
    guest.page(2303, "reserved")
    guest.page(2304, "reserved")
    guest.anon(A)
    card.write(card.program(2048, 2303))
    card.write(card.program(2048, A))
    assert card.rules == []
    card.write(card.program(A, 2304))
    assert card.rules == ["kernel-page"]
    guest.close()


def test_l17_memory_of_another_device(card):
    hold(card, lambda: None, pfns=(card.guest.pages + 1, card.guest.pages + 2))


def test_l18_dirty_or_not_during_dma(card):
    hold(card, lambda: card.guest.anon(A), lambda: card.guest.anon(A, flags="dirty"), pfns=(A,))


def test_links_of_lists_change_all_the_time(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    thorough = card.checker.status()["thorough_looks"]
    for i in range(20):
        card.guest.field(A, 8, 0xFFFF888000200000 + 64 * i, 8)
        card.guest.field(A, 56, i, 8)
        card.write(batch)
    assert card.rules == []
    assert card.checker.status()["thorough_looks"] == thorough


def test_a_page_released_dirty(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    card.guest.anon(A, pins=0, flags="dirty")
    card.register_write()
    assert card.rules == []
    assert card.checker.status()["pins"]["released_dirty"] == 1
    assert card.checker.status()["pins"]["conclusive"]


def test_a_new_page_at_the_address_of_the_one_released(card):
    """A program's heap gives memory back and gets the same page again: clean, and not yet on an LRU list."""
    card.guest.anon(A)
    card.write(card.program(A))
    card.guest.page(A, "uptodate swapbacked", mapping=ANON, index=0x7F0000000 + A, mapcount=0, refcount=2)
    card.field()
    assert card.rules == []
    assert card.oddities == {"release-seen-late": 1}


def test_a_page_released_but_never_written(card):
    card.guest.anon(A)
    card.program(A)
    card.guest.anon(A, pins=0)
    card.field()
    assert card.rules == []
    assert not card.checker.status()["pins"]["conclusive"]


def free(card):
    card.guest.free(A)


def reused(card):
    card.guest.anon(A, pins=0, index=0x999)


def in_swap_cache(card):
    card.guest.anon(A, pins=0, extra=1, flags=card.guest.style.swapcache)


def written_out(card):
    card.guest.anon(A, pins=0, flags="writeback")


def lazily_freed(card):
    card.guest.page(A, "uptodate lru", mapping=ANON, index=0x7F0000000 + A, mapcount=0)


@pytest.mark.parametrize("state", [free, reused, in_swap_cache, written_out, lazily_freed])
def test_a_release_that_was_seen_too_late(card, state):
    card.guest.anon(A)
    card.write(card.program(A))
    state(card)
    card.field()
    assert card.rules == []
    assert card.oddities == {"release-seen-late": 1}


def test_a_page_that_stayed_in_the_swap_cache_and_was_dirtied_is_not_late(card):
    """What comes from swap may stay in the swap cache while it is pinned; dirty is dirty there, too."""
    swapcache = card.guest.style.swapcache
    card.guest.anon(A, extra=1, flags=swapcache)
    card.guest.anon(B, extra=1, flags=swapcache)
    card.write(card.program(A, B))
    card.guest.anon(A, pins=0, extra=1, flags=f"{swapcache} dirty")
    card.guest.anon(B, pins=0, extra=1, flags=swapcache)
    card.field()
    assert card.rules == []
    assert card.oddities == {"release-seen-late": 1}  # B: reclaim may have cleaned it
    pins = card.checker.status()["pins"]
    assert (pins["released"], pins["released_dirty"], pins["conclusive"]) == (2, 1, False)


def test_a_page_on_its_way_to_another_list_may_have_been_freed_lazily(card):
    """MADV_FREE right after the release: clean at once, swap-backed until the batch of pages is full."""
    card.guest.anon(A)
    card.write(card.program(A))
    card.field()
    card.guest.anon(A, pins=0, extra=1)
    card.field()
    assert card.rules == []
    assert card.oddities == {"release-seen-late": 1}


@pytest.mark.parametrize("why", ["written", "locked", "held", "zeroes", "zswap", "not there before"])
def test_a_page_in_the_swap_cache_that_may_have_been_written_out(card, why, monkeypatch):
    """Dirtied at its release and cleaned by reclaim: only the kernel's count of writes rules that out."""
    guest, swapcache = card.guest, card.guest.style.swapcache
    guest.poke64(A * PAGE, 0 if why == "zeroes" else 7)
    guest.anon(A, extra=1, flags="" if why == "not there before" else swapcache)
    guest.pages_written(77)
    card.write(card.program(A))
    card.field()
    card.field()
    extra = 2 if why == "held" else 1  # whoever ends a write holds the page until the write is counted
    guest.anon(A, pins=0, extra=extra, flags=f"{swapcache} locked" if why == "locked" else swapcache)
    if why == "written":
        guest.pages_written(78)
    if why == "zswap":
        monkeypatch.setattr(Releases, "_compresses", lambda _: True)
    card.field()
    assert card.rules == []
    assert card.oddities == {"release-seen-late": 1}


@pytest.mark.parametrize(
    ("names", "byte", "may"),
    [
        ((), b"", False),
        (("zswap_store", "zswap_enabled"), b"\0", False),
        (("zswap_store", "zswap_enabled"), b"\1", True),
        (("zswap_store",), b"", True),
    ],
)
def test_whether_zswap_may_take_what_is_swapped_out(names, byte, may):
    symbols = SimpleNamespace(address=dict.fromkeys(names, 0x1000).get)
    kernel = SimpleNamespace(symbols=symbols, table=SimpleNamespace(read=lambda place, size: byte))
    assert Releases._compresses(SimpleNamespace(_kernel=kernel)) is may


def test_a_page_that_was_dirty_at_the_last_look_and_cleaned_since(card):
    card.guest.anon(A, flags="dirty")
    card.write(card.program(A))
    card.guest.anon(A, pins=0)
    card.field()
    assert card.rules == []
    assert card.oddities == {"release-seen-late": 1}
    assert not card.checker.status()["pins"]["conclusive"]


def test_file_pages_of_which_some_are_already_written_back(card):
    def file(pfn, flags, count):
        card.guest.page(
            pfn, f"lru uptodate {flags}".strip(), mapping=FILE, index=pfn, mapcount=0, refcount=count
        )

    for pfn in (A, B):
        file(pfn, "", 1026)
    card.write(card.program(A, B))
    file(A, "", 2)
    file(B, "writeback", 3)
    card.field()
    assert card.rules == []


def file_pages(card, flags, count, *pfns):
    for pfn in pfns:
        card.guest.page(
            pfn, f"lru uptodate {flags}".strip(), mapping=FILE, index=pfn, mapcount=0, refcount=count
        )


def test_file_pages_that_were_all_written_back_before_the_next_look(card):
    """A fsync right behind the release: nothing is left of the dirtiness but the kernel's own count."""
    file_pages(card, "", 1026, A, B)
    card.write(card.program(A, B))
    card.field()
    card.field()
    file_pages(card, "", 2, A, B)
    card.guest.pages_written(2)
    card.field()
    assert card.rules == []
    assert card.oddities == {"release-seen-late": 2}


def test_a_file_page_that_is_about_to_be_written_back(card):
    """Locked: PG_dirty is taken off before PG_writeback is put on."""
    file_pages(card, "", 1026, A, B)
    card.write(card.program(A, B))
    card.field()
    card.field()
    file_pages(card, "", 2, A)
    file_pages(card, "locked", 3, B)
    card.field()
    assert card.rules == []


def test_a_file_truncated_under_dma(card):
    """Pinned pages stay, but the file lets go of them: mapping becomes NULL, index may be anything."""
    file_pages(card, "", 1026, A, B)
    batch = card.program(A, B)
    card.write(batch)
    card.guest.page(A, "uptodate", mapping=0, index=0, mapcount=-1, refcount=1024)
    card.write(batch)
    card.field()
    card.write(batch)
    assert card.rules == []
    assert card.oddities == {}


def test_a_small_buffer_released_and_pinned_again_at_once(card):
    """QBUF with another address: one system call, and the one frame and the program may be the same."""
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    card.guest.anon(A, mapping=ANON + 0x1000, index=0x4444)
    card.write(batch)
    card.write(batch)
    assert card.rules == []
    assert card.oddities == {"pinned-again": 1}


def test_the_same_pages_pinned_again_after_a_release_that_was_seen(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    card.guest.anon(A, pins=0, flags="dirty")
    card.field()
    card.guest.anon(A, index=0x4444)  # by another process, at another address, with the same program bytes
    card.write(batch)
    card.write(batch)
    assert card.rules == []


def test_the_same_program_in_another_role_after_a_stop(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    card.checker.checkpoint(Checkpoint.DMA_STOP)
    card.guest.page(A)  # now a read() buffer
    card.checker.checkpoint(Checkpoint.DMA_START)
    card.write(batch)
    assert card.rules == []


def test_bad_during_one_look_only(card):
    card.guest.anon(A, pins=0)
    batch = card.program(A)
    card.during = lambda: card.guest.anon(A)
    card.write(batch)
    assert card.rules == []
    assert card.oddities == {"passing": 1}


def test_settled_when_all_pins_are_back(card):
    card.guest.pin_counters(5, 5)
    card.guest.anon(A)
    card.write(card.program(A))
    card.guest.pin_counters(6, 5)
    assert not card.checker.settle(final=False)["settled"]
    card.guest.anon(A, pins=0, flags="dirty")
    card.guest.pin_counters(6, 6, unfolded=1)
    assert card.checker.settle()["settled"]
    assert card.rules == []


def test_a_late_release_is_told_from_a_leak(card):
    card.guest.anon(A)
    card.write(card.program(A))
    assert card.checker.settle(final=False)["pinned_pages"] == 1
    card.guest.anon(A, pins=0, flags="dirty")
    assert card.checker.settle()["settled"]
    assert card.rules == []


def test_a_thousand_pages_in_all_legitimate_states_at_once(card):
    guest, pfns = card.guest, np.arange(3000, 4000)
    states = [
        lambda p: guest.anon(p),
        lambda p: guest.anon(p, pins=2),
        lambda p: guest.anon(p, mapcount=-1),
        lambda p: guest.anon(p, mapcount=-1, extra=1, flags=guest.style.swapcache),
        lambda p: guest.page(p, "lru uptodate", mapping=FILE, index=p, mapcount=3, refcount=1029),
        lambda p: guest.page(p, refcount=1025, mapcount=0),
    ]
    for pfn in pfns.tolist():
        states[pfn % len(states)](pfn)
    batch = card.program(*pfns.tolist())
    for _ in range(5):
        card.write(batch)
        card.field()
    assert card.rules == []
    assert card.checker.status()["distinct_pages"] == 1000
    assert card.checker.status()["pages_checked"] == 5000
