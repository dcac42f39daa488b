# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules on the state of a page at the moment of a write. A page is blamed under the first one it breaks."""

from __future__ import annotations

import numpy as np

from vcapdev.dmacheck.rules.base import (
    ALWAYS,
    DEVICE,
    TWICE,
    USER,
    Codes,
    PageRule,
    Promise,
    Setting,
    unmarked,
)
from vcapdev.guestmm.pages import Bools, PageFacts

MOST_PINS = 64  # of one page; more than all buffers of a queue may account for
_BIAS = 1024
_FEW = 16  # pages from which on "most of them" means something


class OutsideRam(PageRule):
    id, name = "V7", "outside-ram"
    sentence = "the device wrote to an address behind which there is no guest RAM"
    severity, certainty = "corruption", ALWAYS
    facts = "the DMA map and the size of the kernel's page array"
    why = (
        "The bus master itself found nothing there, or the kernel has no struct page for memory that a "
        "program for user pages writes to. Neither depends on when one looks."
    )
    looks = "vcapdev: outside-ram (V7): DMA write refused, no memory answers at this address"
    near = ("a frame buffer of another card (overlay, L17): no page of the whole program has a struct page",)

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        if promise.kind == DEVICE:  # a frame buffer of another card, for example
            return np.zeros(len(facts.pfn), dtype=bool)
        result: Bools = ~facts.present
        return result


class FreePage(PageRule):
    id, name = "V1", "free-page"
    sentence = "the device wrote to a page that is free: nobody holds a reference to it"
    severity, certainty = "corruption", ALWAYS
    facts = "_refcount and page_type of the page, or of its compound head"
    why = (
        "A page with a count of 0 belongs to the allocator. Nobody who could have been promised the write "
        "holds it, and one look that two reads agree on is enough: a page that is held cannot pass through"
        " 0."
    )
    looks = "free page; refcount 0, pins 0, buddy"
    near = (
        "a tail of a huge page (L8, L9): its own count is 0, its head's is not",
        "a slab page since 7.0: its count is 0, its page type says whose it is (that is V2)",
    )

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        kernel_type = facts.typed & ~setting.is_type(facts, setting.buddy_type)
        slab = facts.has(setting.slab_bit) | kernel_type  # slab pages have refcount 0 since 7.0
        result: Bools = (facts.refcount == 0) & facts.present & ~slab
        return result


class SharedPage(PageRule):
    id, name = "V4", "shared-page"
    sentence = "the device wrote to the zero page or a KSM page, which many share and nobody may write"
    severity, certainty = "corruption", ALWAYS
    facts = "zero_pfn, huge_zero_pfn, the low bits of page.mapping"
    why = (
        "These pages are read by everyone who has never written to his memory, or who has the same content"
        " as others. No state of theirs makes a write right."
    )
    looks = "zero page; refcount 1, pins 0, not mapped; mapping 0x0 index 0x0; reserved"
    near = (
        "an anonymous page that KSM scans but leaves alone because it is pinned (L2): its low bits are 01",
    )

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        zero = facts.pfn == setting.zero_pfn
        first = setting.huge_zero() if facts.large.any() else None
        if first is not None:
            zero |= (facts.pfn >= first) & (facts.pfn < first + 512)
        plain = ~facts.typed & ~facts.has(setting.slab_bit) & (facts.refcount > 0)
        result: Bools = zero | (facts.ksm & plain)
        return result


class KernelPage(PageRule):
    id, name = "V2", "kernel-page"
    sentence = "the device wrote to a page that the kernel uses for itself"
    severity, certainty = "corruption", ALWAYS
    facts = "PG_slab, PG_reserved and page_type; whether all pages of the program looked so at first sight"
    why = (
        "Slab, page tables, reserved memory and movable driver pages carry a mark of their owner, and are "
        "no target of a device. A page without any mark is one only in a program of which another page is "
        "a user's."
    )
    looks = "page table; refcount 1, pins 0, table; mapping 0xffff888003f8c003 index 0x0; no flags"
    near = (
        "a buffer of the driver's own (read() and coherent memory, L11, L14): all pages of its program "
        "have no mark",
        "a bounce buffer (L13): reserved, but inside the swiotlb pool",
        "an MMAP buffer (L10): no mark either, but pinned, or held by page tables alone",
    )

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        marked = facts.has(setting.slab_bit) | (facts.typed & ~setting.is_type(facts, setting.buddy_type))
        reserved = facts.has(setting.reserved_bit) & ~setting.bounced(facts)
        movable = ((facts.mapping & np.uint64(3)) == 2) & ~facts.pinned
        found = marked | reserved | movable
        if promise.kind == USER:
            found |= unmarked(facts, setting) & ~facts.pinned & ~setting.bounced(facts) & self._held(facts)
        result: Bools = found & facts.present
        return result

    @staticmethod
    def _held(facts: PageFacts) -> Bools:
        """Somebody other than page tables holds the page."""
        result: Bools = facts.refcount > facts.mapcount + 1
        return result


class BadCount(PageRule):
    id, name = "V12", "bad-count"
    sentence = "the page's reference count is negative, or holds more pins than buffers can account for"
    severity, certainty = "corruption", ALWAYS
    facts = f"_refcount below 0 or from {MOST_PINS * _BIAS} on (order 0), a pin count below 0 (compound)"
    why = (
        "A count goes below 0 only when somebody gave back what he did not hold: a pin (1024) from a page "
        "with fewer references. Upwards, a queue has at most 32 buffers; 64 pins of one page mean that "
        "pins are taken again and again and never given back."
    )
    looks = "anonymous page; refcount -1023, pins -1, mapcount 0; lru swapbacked uptodate"
    near = (
        "two buffers, or two queues, that share a page (L5): 2048 and a little more",
        "a library's page in hundreds of processes: each adds 1, not 1024",
        "the zero page, which 5.10 counts pins of (that is V4)",
    )

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        usable = facts.present & ~facts.typed & ~facts.has(setting.slab_bit)
        many = ~facts.large & (facts.refcount >= MOST_PINS * _BIAS)
        result: Bools = usable & ((facts.refcount < 0) | (facts.pins < 0) | many)
        return result


class Recycled(PageRule):
    id, name = "V6", "recycled"
    sentence = "the page was given to somebody else since the program was first seen, without a new program"
    severity, certainty = "corruption", TWICE
    facts = "page.mapping and page.index now and at first sight, and that no release was seen between"
    why = (
        "A pinned page keeps its place in its owner's address space. Another place means that the page was"
        " free in between, while the program that writes to it stayed the same."
    )
    looks = "anonymous page; refcount 1025, pins 1, mapcount 0; mapping and index of another process"
    unjudged = (
        "huge pages: mapping and index stand in the first page of each, and a pin on one page cannot be told "
        "from one on its neighbour. Those of buffers that a media framework knows have missing-pin (V16) and "
        "copied-away (V17)"
    )
    near = (
        "the whole buffer released and pinned anew within one system call: all pages changed, and all are "
        "pinned",
        "a file that was truncated under DMA: its mapping is 0 then, not another",
        "the same pages in another buffer after a release that was seen: the program is learnt anew",
    )

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        both = promise.known & facts.pinned & (promise.mapping != 0) & (facts.mapping != 0)
        moved = (facts.mapping != promise.mapping) | (facts.index != promise.index)
        result: Bools = (
            both & moved & ~facts.large
        )  # tails and heads of huge pages have no stable index of their own
        return result


class NotPinned(PageRule):
    id, name = "V3", "not-pinned"
    sentence = (
        "the device wrote to a page that nobody has pinned: it can be reclaimed, migrated or freed any time"
    )
    severity, certainty = "corruption", TWICE
    facts = "_refcount below 1024 (order 0), or a pin count of 0 (compound)"
    why = (
        "The kernel itself tells pinned pages by this count (folio_maybe_dma_pinned), and moves or frees "
        "what has no pin. Both looks and no stop of DMA between them: the bytes moved while nobody held "
        "the page for them."
    )
    looks = "anonymous page; refcount 1, pins 0, mapcount 0; lru swapbacked uptodate"
    near = (
        "a page unmapped, in the swap cache, isolated or locked while it is pinned (L1 to L4): refcount is"
        " 1024 or more",
        "coherent memory and vb2's MMAP buffers (L10, L11): no user's page among the program's at first "
        "sight",
        "a release that the driver did right after it stopped DMA: the stop is handled before anything is "
        "said",
        "an imported DMABUF whose exporter holds its pages by references alone (udmabuf before Linux 6.11)",
    )

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        legitimate = unmarked(facts, setting) & (facts.refcount > facts.mapcount + 1)
        if promise.kind == USER:
            legitimate &= setting.bounced(facts)
        result: Bools = facts.present & ~facts.pinned & ~legitimate & ~setting.bounced(facts)
        return result


class IllPlaced(PageRule):
    id, name = "V5", "ill-placed"
    sentence = "a buffer is pinned in memory that must stay movable (ZONE_MOVABLE or CMA)"
    severity, certainty = "hoarding", TWICE
    facts = (
        "the zone in page.flags, the pageblock's migrate type, both checked against the kernel's own totals"
    )
    why = (
        "A pin for as long as a buffer lives is a long-term pin (FOLL_LONGTERM), before which the kernel "
        "moves the page elsewhere or refuses (since 5.14). Zone and migrate type of a pageblock do not "
        "change, so the pin was taken without it. Before 5.14 the kernel only tried, and only for CMA: "
        "there it takes most of the buffer."
    )
    looks = "anonymous page; refcount 1025, pins 1, mapcount 0, in ZONE_MOVABLE"
    near = (
        "coherent memory from CMA (L14): not pinned",
        "a pageblock that is isolated while somebody tries to unplug it: neither CMA nor movable",
        "movablecore= with a right driver: its pages were moved out of the zone before they were pinned",
    )

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        if not setting.placement or promise.kind != USER:
            return np.zeros(len(facts.pfn), dtype=bool)
        found: Bools = setting.placement.forbids(facts.pfn) & facts.pinned & facts.present
        count = int(np.count_nonzero(found))
        if not setting.placement.strict and (count < _FEW or 2 * count <= len(found)):
            found[:] = False
        return found


PAGE_RULES: tuple[PageRule, ...] = (
    OutsideRam(),
    FreePage(),
    SharedPage(),
    KernelPage(),
    BadCount(),
    Recycled(),
    NotPinned(),
    IllPlaced(),
)
OUTSIDE_RAM, BAD_COUNT = PAGE_RULES[0], PAGE_RULES[4]
RECYCLED, NOT_PINNED = PAGE_RULES[5], PAGE_RULES[6]
_ALWAYS = np.array([False, *(rule.certainty == ALWAYS for rule in PAGE_RULES)])


def judge(facts: PageFacts, promise: Promise, setting: Setting) -> Codes:
    """The first rule that each page breaks. Unreadable (torn) pages are not judged."""
    codes = np.zeros(len(facts.pfn), dtype=np.uint8)
    if _plainly_good(facts, promise, setting):
        return codes
    for number, rule in enumerate(PAGE_RULES, 1):
        broken = rule.broken(facts, promise, setting)
        codes[broken & (codes == 0)] = number
    codes[facts.torn] = 0
    return codes


def certain_alone(codes: Codes) -> Bools:
    """Codes of rules that one stable look is enough for."""
    found: Bools = _ALWAYS[codes]
    return found


def _plainly_good(facts: PageFacts, promise: Promise, setting: Setting) -> bool:
    """Whether all pages are single pinned user pages with nothing unusual: nearly always so."""
    if not len(facts.pfn) or facts.pins.min() <= 0 or facts.mapcount.min() < -1:
        return False
    if facts.pins.max() >= MOST_PINS or setting.placement:
        return False
    odd_flags = int(np.bitwise_or.reduce(facts.flags)) & (setting.slab_bit | setting.reserved_bit)
    if odd_flags or facts.large.any() or facts.ksm.any():
        return False
    same = facts.mapping is promise.mapping or bool(
        (facts.mapping == promise.mapping).all() and (facts.index == promise.index).all()
    )
    return same and bool(promise.known.all() and facts.present.all())
