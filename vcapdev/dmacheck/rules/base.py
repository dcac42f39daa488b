# SPDX-License-Identifier: GPL-2.0-or-later
"""What every rule has, and what rules know of a program and of the kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.pages import Bools, PageFacts
from vcapdev.guestmm.placement import Placement, read_placement

Codes = NDArray[np.uint8]  # 0: no rule broken, else 1 + the rule's place in PAGE_RULES

# How sure a rule can be while the vCPUs run.
ALWAYS = "certain at any single stable look"
TWICE = "certain when seen both before and after the bytes moved"
AT_RELEASE = "certain when seen at the first look after the release"
AT_REST = "certain once capture has ended"
LASTING = "certain when seen at each look for half a minute"
BY_ORDER = "certain by the order of what the device itself did"
CONFIRMED = "certain once confirmed with the vCPUs stopped"

# What a program was found to write to when it was first seen; it is held to that.
USER = "user pages"
KERNEL = "kernel buffer"
DEVICE = "device memory"


class Rule:
    """A rule's name, what it says, how bad and how sure it is, the facts it needs, and its page in the book.

    The rest is for docs/rules.md: ``why`` it is certain, what it ``looks`` like (a state of a page, or a line
    of a splat), and which harmless states come ``near`` it, each with what tells it apart. ``proof`` is what
    proves it where no altered driver does; ``unjudged``, where it is silent although it might apply, and why.
    """

    id: ClassVar[str]
    name: ClassVar[str]
    sentence: ClassVar[str]
    severity: ClassVar[str]
    certainty: ClassVar[str]
    facts: ClassVar[str]
    why: ClassVar[str] = ""
    looks: ClassVar[str] = ""
    near: ClassVar[tuple[str, ...]] = ()
    proof: ClassVar[str] = ""
    unjudged: ClassVar[str] = ""


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
    placement: Placement

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
            placement=read_placement(kernel),
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


class PageRule(Rule):
    """A rule on the state of a page at the moment of a write."""

    def broken(self, facts: PageFacts, promise: Promise, setting: Setting) -> Bools:
        """The pages that break the rule."""
        raise NotImplementedError


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
