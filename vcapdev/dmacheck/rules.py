# SPDX-License-Identifier: GPL-2.0-or-later
"""What a device must never do to a page: one small class for each rule.

A page rule looks at all pages of a batch at once and says which ones break it. The order of
:data:`PAGE_RULES` is their precedence: a page is blamed under the first rule that it breaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import Bools, PageFacts

Codes = NDArray[np.uint8]  # 0: no rule broken, else 1 + the rule's place in PAGE_RULES

# How sure a rule can be while the vCPUs run.
ALWAYS = "certain at any single stable look"
TWICE = "certain when seen both before and after the bytes moved"
AT_RELEASE = "certain when seen at the first look after the release"
AT_REST = "certain once capture has ended"

# What a program was found to write to when it was first seen; it is held to that.
USER = "user pages"
KERNEL = "kernel buffer"
DEVICE = "device memory"


@dataclass(frozen=True)
class Promise:
    """What the program was promised, one row for each page of the facts it is judged with.

    ``mapping`` and ``index`` are the identities at first sight, ``known`` where those were taken from a
    pinned page.
    """

    kind: str
    mapping: NDArray[np.uint64]
    index: NDArray[np.uint64]
    known: Bools


@dataclass(frozen=True)
class Setting:
    """What rules need of the kernel: masks and special pages, taken once a boot."""

    slab_bit: int
    reserved_bit: int
    lru_bits: int
    slab_type: int | None
    buddy_type: int | None
    type_mask: int
    zero_pfn: int
    huge_zero: Callable[[], int | None]  # its first page; it comes and goes
    bounce: range

    @classmethod
    def of(cls, kernel: Kernel, bounce: range) -> Setting:
        """Take them from the kernel."""
        bit, types = kernel.flags.bit, kernel.types
        return cls(
            slab_bit=bit("slab"),
            reserved_bit=bit("reserved"),
            lru_bits=bit("lru") | bit("swapbacked"),
            slab_type=types.values.get("slab"),
            buddy_type=types.values.get("buddy"),
            type_mask=0xFF000000 if types.top_byte else 0xFFFFFFFF,
            zero_pfn=kernel.zero_pfn,
            huge_zero=kernel.huge_zero_pfn,
            bounce=bounce,
        )

    def is_type(self, facts: PageFacts, value: int | None) -> Bools:
        """Pages whose page_type is ``value``."""
        if value is None:
            return np.zeros(len(facts.pfn), dtype=bool)
        result: Bools = np.equal(facts.mapcount.view(np.uint32) & np.uint32(self.type_mask), np.uint32(value))
        return result

    def bounced(self, facts: PageFacts) -> Bools:
        """Pages of the swiotlb pool."""
        result: Bools = np.logical_and(facts.pfn >= self.bounce.start, facts.pfn < self.bounce.stop)
        return result


class Rule:
    """A rule's name, what it says, how bad and how sure it is, and the facts it needs."""

    id: ClassVar[str]
    name: ClassVar[str]
    sentence: ClassVar[str]
    severity: ClassVar[str]
    certainty: ClassVar[str]
    facts: ClassVar[str]


class PageRule(Rule):
    """A rule on the state of a page at the moment of a write."""

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        """The pages that break the rule."""
        raise NotImplementedError


class OutsideRam(PageRule):
    id, name = "V7", "outside-ram"
    sentence = "the device wrote to an address behind which there is no guest RAM"
    severity, certainty = "corruption", ALWAYS
    facts = "the DMA map and the size of the kernel's page array"

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


class Recycled(PageRule):
    id, name = "V6", "recycled"
    sentence = "the page was given to somebody else since the program was first seen, without a new program"
    severity, certainty = "corruption", TWICE
    facts = "page.mapping and page.index now and at first sight, and that no release was seen between"

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

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        legitimate = unmarked(facts, setting) & (facts.refcount > facts.mapcount + 1)
        if promise.kind == USER:
            legitimate &= setting.bounced(facts)
        result: Bools = facts.present & ~facts.pinned & ~legitimate & ~setting.bounced(facts)
        return result


class NotDirtied(Rule):
    id, name = "V10", "not-dirtied"
    sentence = "a page was released without being marked dirty although the device had written to it"
    severity, certainty = "data loss", AT_RELEASE
    facts = (
        "PG_dirty clear at the last look while pinned and at the first look after; nothing cleaned it between"
    )


class PinLeak(Rule):
    id, name = "V11", "pin-leak"
    sentence = "pages are still pinned although capture has ended"
    severity, certainty = "leak", AT_REST
    facts = "the pins of all pages that were DMA targets; nr_foll_pin_acquired and nr_foll_pin_released"


PAGE_RULES: tuple[PageRule, ...] = (
    OutsideRam(),
    FreePage(),
    SharedPage(),
    KernelPage(),
    Recycled(),
    NotPinned(),
)
NOT_DIRTIED, PIN_LEAK = NotDirtied(), PinLeak()
ALL_RULES: tuple[Rule, ...] = (*PAGE_RULES, NOT_DIRTIED, PIN_LEAK)
OUTSIDE_RAM, RECYCLED = PAGE_RULES[0], PAGE_RULES[4]
_ALWAYS = np.array([False, *(rule.certainty == ALWAYS for rule in PAGE_RULES)])


def unmarked(facts: PageFacts, setting: Setting) -> Bools:
    """Pages without a sign of user memory: what coherent memory and drivers' own pages look like."""
    plain = ~facts.typed & ~facts.has(setting.slab_bit | setting.lru_bits) & (facts.mapping == 0)
    result: Bools = plain & (facts.refcount > 0) & facts.present
    return result


def has_owner(facts: PageFacts, setting: Setting) -> Bools:
    """Pages whose ``mapping`` leads to the areas that map them."""
    plain = ~facts.typed & ~facts.has(setting.slab_bit | setting.reserved_bit) & (facts.refcount > 0)
    result: Bools = plain & (facts.mapping != 0) & ((facts.mapping & np.uint64(3)) < 2) & ~facts.torn
    return result


def classify(facts: PageFacts, setting: Setting) -> str:
    """What a program writes to, judged by all of its pages at first sight."""
    if not facts.present.any():
        return DEVICE
    if facts.present[0] and facts.pins[0] > 0 and int(facts.pfn[0]) not in setting.bounce:
        return USER  # one page of a user is enough, and nearly always the first is one
    buffer = (unmarked(facts, setting) & ~facts.pinned & ~facts.has(setting.reserved_bit)) | setting.bounced(
        facts
    )
    return KERNEL if (buffer | ~facts.present).all() else USER


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
    odd_flags = int(np.bitwise_or.reduce(facts.flags)) & (setting.slab_bit | setting.reserved_bit)
    if odd_flags or facts.large.any() or facts.ksm.any():
        return False
    same = facts.mapping is promise.mapping or bool(
        (facts.mapping == promise.mapping).all() and (facts.index == promise.index).all()
    )
    return same and bool(promise.known.all() and facts.present.all())
