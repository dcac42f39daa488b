# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules on the media framework's contract: whose the buffer is, where it ends, and that its user keeps it."""

from __future__ import annotations

from vcapdev.dmacheck.rules.base import CONFIRMED, TWICE, Rule


class NotTheDevices(Rule):
    id, name = "V13", "not-the-devices"
    sentence = "the device wrote to a buffer that, by the media framework's books, is not the device's"
    severity, certainty = "corruption", CONFIRMED
    facts = "vb2_buffer.state, or videobuf_buffer.state, at two fields before and after the bytes moved"
    why = (
        "The framework gives a buffer to the driver when it is queued and takes it back when the driver "
        "says it is done. Seen in the other's hands before and after the write, at two fields, and once "
        "more with the vCPUs stopped, the driver has told the user that the buffer is complete and let the"
        " device go on."
    )
    looks = "vcapdev: not-the-devices (V13): DMA write to a videobuf buffer in state DONE"
    near = (
        "a completion that overtook the device by a field: once is not twice",
        "another buffer with the same pages that is the device's",
    )


class OutsideBuffer(Rule):
    id, name = "V14", "outside-buffer"
    sentence = "the device wrote to bytes that are not the queued buffer's"
    severity, certainty = "corruption", CONFIRMED
    facts = "the buffer's user address and length, and the pages that the framework pinned for it"
    why = (
        "The user gave an address and a length, the framework lists the pages behind them: every byte of "
        "the program is either among them or not."
    )
    looks = "vcapdev: outside-buffer (V14): DMA write beside the buffer, in a page that it shares"
    near = (
        "an unaligned buffer (L5): it begins and ends within a page, and is judged to the byte",
        "a buffer of which the framework lists only a part: not judged",
    )


class MissingPin(Rule):
    id, name = "V16", "missing-pin"
    sentence = (
        "a page has fewer pins than the buffers that claim it account for: somebody else's pin holds it"
    )
    severity, certainty = "corruption", CONFIRMED
    facts = "the pins of the page, and the buffers of all queues that list it as pinned"
    why = (
        "Each buffer that lists a page as pinned has taken a pin of it. Fewer pins than such buffers, with"
        " the vCPUs stopped and no buffer amid a change, mean that one of them lives on a pin that is not "
        "its own."
    )
    looks = "anonymous page; refcount 1025, pins 1, mapcount 0; two buffers claim it"
    near = (
        "a buffer that is just being pinned or released: not counted",
        "more pins than buffers (another holder): no breach",
    )
    unjudged = (
        "where the kernel bounces the buffer (swiotlb). The device writes to slots of the pool then, and no "
        "user's page is under DMA: an early unpin harms the copy that the CPU makes at the end, which no DMA "
        "write shows. Pins that are left over are seen in the kernel's counters all the same (V11)"
    )


class CopiedAway(Rule):
    id, name = "V17", "copied-away"
    sentence = (
        "the kernel gave the user a copy of the page: what the device writes from now on is lost to him"
    )
    severity, certainty = "data loss", CONFIRMED
    facts = (
        "the owner's page table entry, which led to the page when its buffer was first seen, and the content"
    )
    why = (
        "The user's address leads to another page of the same area, with content that the device wrote, "
        "which only copying explains; or the entry had lost its write right in a writable area, so that the "
        "next write had to fault, and the new page is not one that began with zeroes. The kernel broke "
        "copy-on-write the wrong way round (fork, or mprotect in 5.10, and a write)."
    )
    looks = "at user address 0x7f1c5a800000 of pid 321, where pfn 0x2f31 was, pfn 0x30a2 is mapped now"
    near = (
        "munmap, MADV_DONTNEED, mremap or another mapping at the address: the user's own doing, told apart",
        "a page in the swap cache or behind a migration entry (L1, L3): the same page comes back",
        "the process has gone (L4): nobody is left who could miss it",
    )
    unjudged = (
        "where the kernel bounces the buffer (swiotlb): the content of a slot is not yet that of the user's "
        "page, so a copy cannot be told by what the device wrote; the comparison of frames tells of the "
        "loss. And where a page was copied between DQBUF and QBUF and its user has written all of it since: "
        "page and entry that wp_page_copy() leaves differ in nothing but content from those of "
        "do_anonymous_page() (mm/memory.c of 5.10), so it counts as replaced, like MADV_DONTNEED and a write"
    )


class StaleBuffer(Rule):
    id, name = "S2", "stale-buffer"
    sentence = "a buffer was queued again after its user had put other memory, or none, at its address"
    severity, certainty = "hazard", TWICE
    facts = "the owner's page table entries at two turns of the buffer, with another buffer's turn between"
    why = (
        "Both frameworks take a buffer that comes with the same address for the same memory, and keep the "
        "pages that they pinned. After DQBUF, munmap, mmap at the same address and QBUF the device writes to"
        " pages that the user no longer has. The user did it, and loses his frames: reported, and no verdict."
    )
    looks = "vb2 buffer 0 was queued again at 0x7fda492bb000, where 216 of its 216 pages are mapped no longer"
    unjudged = (
        "a queue of a single buffer (videobuf; vb2 gives bttv two): that it was queued again cannot be told "
        "from its being written to for longer. Its pages are counted as remapped, replaced or unmapped"
    )
    near = (
        "memory that is unmapped while the buffer is queued, once (L4): counted as unmapped, discarded or "
        "replaced",
        "mremap: the user has the pages at another address (moved)",
        "a page in the swap cache, a page of a file that was dropped from the page tables: it comes back",
        "another mapping of the same memory at the same address: the page is the same",
    )
    proof = (
        "a scene with the kernel's own drivers (tests/guest/test_framework_rules.py): munmap, mmap at the "
        "same address and QBUF, with videobuf and videobuf2; and memory made by hand (test_mapping.py)"
    )


class Unlisted(Rule):
    id, name = "S3", "unlisted"
    sentence = "the device wrote to pages that no queue lists, while it was filling buffers of a queue"
    severity, certainty = "hazard", TWICE
    facts = "the buffers of all queues that can be found, at two fields, and that one of them is the device's"
    why = (
        "The program is for none of the buffers that the media framework knows. A driver may have reasons to"
        " let its card write elsewhere (a scratch buffer for frames that nobody wants), and a file that only"
        " io_uring holds is not found: so it is reported, and no verdict. bttv has no such reason."
    )
    looks = "hazard: the device wrote to pages that no queue lists: 216 pages (unlisted, no verdict)"
    near = (
        "pages that were a queue's buffer before: that is not-the-devices (V13)",
        "coherent memory of a driver of which no program has a buffer in a queue (L12)",
        "the bounce pool (L13): its slots are found through the buffers' scatterlists, or not judged",
        "memory of a device, an overlay (L17): no page of RAM",
    )
    proof = "memory made by hand (tests/dmacheck/test_strays_of_queues.py), with both frameworks"


NOT_THE_DEVICES, OUTSIDE_BUFFER, MISSING_PIN = NotTheDevices(), OutsideBuffer(), MissingPin()
COPIED_AWAY = CopiedAway()
STALE_BUFFER, UNLISTED = StaleBuffer(), Unlisted()
CONTRACT_RULES: tuple[Rule, ...] = (
    NOT_THE_DEVICES,
    OUTSIDE_BUFFER,
    MISSING_PIN,
    COPIED_AWAY,
    STALE_BUFFER,
    UNLISTED,
)
