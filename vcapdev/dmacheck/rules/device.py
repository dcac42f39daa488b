# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules on what the device does: when it writes, where a write ends, and what it fetches its program from."""

from __future__ import annotations

from vcapdev.dmacheck.rules.base import ALWAYS, BY_ORDER, CONFIRMED, TWICE, Rule


class DmaOff(Rule):
    id, name = "V9", "dma-off"
    sentence = "the device wrote although the driver had switched DMA off"
    severity, certainty = "corruption", BY_ORDER
    facts = "the order of register writes and transfers, as the device handled them"
    why = (
        "Register writes and transfers are handled by one thread, in one order. After a stop that the "
        "device has handled, the driver may release every buffer; no state of a page is needed to know "
        "that the write is wrong."
    )
    looks = "vcapdev: dma-off (V9): DMA write after a stop"
    near = (
        "a stop that is still on its way when the bytes move: pending register writes are handled before "
        "each batch",
    )
    proof = (
        "memory made by hand: no driver can break it, only a card, and this card handles register writes "
        "and transfers in one order. Even one that ignores a stop (the fault dma-stop-ignored) finds nothing "
        "to write, since bttv unhooks its programs before it stops. test_fetches.py has a card that writes "
        "after a stop (test_v9_a_write_after_a_stop)"
    )


class CrossesPages(Rule):
    id, name = "V8", "crosses-pages"
    sentence = "one write runs from a page of the buffer into a page that does not follow it in the buffer"
    severity, certainty = "corruption", CONFIRMED
    facts = "page.mapping and page.index on both sides of the border, and both addresses by the reverse map"
    why = (
        "Memory that is contiguous for the device need not be so for its user. A write may cross into the "
        "next page frame only where the next page of the user lies there; the page tables of the owner say"
        " where it lies."
    )
    looks = "vcapdev: crosses-pages (V8): DMA write beyond a page, into an anonymous page"
    near = (
        "scatterlist entries that were merged (vb2): the next frame is the next page of the same mapping",
        "a huge page (L8, L9): contiguous for both",
        "two mappings side by side, such as a private file and what follows: their addresses follow one "
        "another",
        "the next frame is not pinned, free or the kernel's (that is V3, V1 or V2)",
    )
    unjudged = (
        "behind an IOMMU. There one mapping of the DMA API is contiguous for the device wherever its pages "
        "lie, so a write may cross into any page frame; what it may not do is leave the mapping, and that is "
        "never-mapped (D2) or, where another mapping follows, outside-buffer (V14)"
    )


class NoWriteRight(Rule):
    id, name = "V15", "no-write-right"
    sentence = "the device wrote to a page that its user has no right to write to"
    severity, certainty = "corruption", CONFIRMED
    facts = (
        "page.mapping, address_space.i_mmap_writable, the areas that map the page, their page table entries"
    )
    why = (
        "A pin for writing (FOLL_WRITE) breaks copy-on-write first and asks for a writable mapping. A page"
        " of a file that nobody maps shared and writable, but somebody maps privately or read-only, was "
        "pinned without it."
    )
    looks = "file page; refcount 1026, pins 1, mapcount 0; every mapping private"
    near = (
        "a shared file (L7): a shared mapping that may be written exists",
        "a shared file that was unmapped meanwhile: no mapping is left that lacks the right",
        "mprotect after QBUF: the mapping keeps its right to become writable again",
        "a private file: its pages were copied before they were pinned, and are anonymous",
    )


class StablePage(Rule):
    id, name = "S1", "stable-page"
    sentence = "the device wrote to a page of a shared file while it was being written to disk"
    severity, certainty = "hazard", TWICE
    facts = "PG_writeback before and after the bytes moved, on a page of a file"
    why = (
        "The page was under writeback at both looks, so what went to disk is neither the old nor the new "
        "content; checksums and RAID parity over it may be wrong. It is a hazard of every long-term pin of"
        " file pages, not a bug of the driver: reported, and no verdict."
    )
    looks = "file page; refcount 1027, pins 1, mapcount 0; lru uptodate writeback"
    near = (
        "anonymous and shmem pages on their way to swap: what is written there is not read again while "
        "pinned",
        "writeback that began or ended between the two looks",
    )
    proof = (
        "a look-alike (slow-file): a shared file on a slow disk, synced during DMA, on kernels before 6.5; "
        "and memory made by hand (test_hazards.py)"
    )


class FetchFree(Rule):
    id, name = "R1", "fetch-free"
    sentence = "the device fetched instructions from a page that is free"
    severity, certainty = "corruption", ALWAYS
    facts = "_refcount, page_type and order of the page and of what precedes it in its block"
    why = (
        "The page, or the free block around it, carries the allocator's mark; or no page that could be the"
        " first of an allocation around it is held by anybody."
    )
    looks = "free page; refcount 0, pins 0, buddy; fetch of WRITE SOL 1008 bytes"
    near = (
        "a page behind the first of a coherent allocation (L12): count 0 as well, but the first is held",
        "a program that was freed after DMA was stopped: nothing fetches it any more",
    )


class FetchReused(Rule):
    id, name = "R2", "fetch-reused"
    sentence = "the device fetched instructions from a page that belongs to somebody else by now"
    severity, certainty = "corruption", ALWAYS
    facts = "what the page was at the first fetch since DMA was switched on, and what it is now"
    why = (
        "Driver's memory does not turn into a page table, slab, a file's or a process's page while it is "
        "held. What was such a page from the start is held to what it was, and a user's page must be "
        "pinned."
    )
    looks = "anonymous page; refcount 1, pins 0, mapcount 0; fetch of an instruction that nobody wrote"
    near = (
        "the same memory given to another program of the driver: it looks the same",
        "programs that a driver keeps in slab or in pinned user memory: so they were when first fetched",
    )


class FetchChanged(Rule):
    id, name = "R3", "fetch-changed"
    sentence = "instructions were changed under the device while it was on its way through them"
    severity, certainty = "corruption", BY_ORDER
    facts = "the program's bytes when it was entered, and what was fetched further on in the same pass"
    why = (
        "The device compares what it fetches with what was there when it entered the program. Data "
        "instructions that were changed in between write where neither the old nor the new program alone "
        "would have written."
    )
    looks = "vcapdev: fetch-changed (R3): instructions changed while they ran"
    near = (
        "a JUMP or SYNC that a driver patches to hook another buffer: no data instruction",
        "a program that was rebuilt between two passes: it is another program then",
    )


DMA_OFF, CROSSES_PAGES, NO_WRITE_RIGHT, STABLE_PAGE = DmaOff(), CrossesPages(), NoWriteRight(), StablePage()
FETCH_FREE, FETCH_REUSED, FETCH_CHANGED = FetchFree(), FetchReused(), FetchChanged()
DEVICE_RULES: tuple[Rule, ...] = (
    DMA_OFF,
    CROSSES_PAGES,
    NO_WRITE_RIGHT,
    FETCH_FREE,
    FETCH_REUSED,
    FETCH_CHANGED,
    STABLE_PAGE,
)
