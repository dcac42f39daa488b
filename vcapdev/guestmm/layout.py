# SPDX-License-Identifier: GPL-2.0-or-later
"""Where ``struct page`` keeps what the rules need, probed by member from the running kernel's BTF.

::

    struct page, 64 bytes (6.1)          +48 _mapcount, or page_type
    +0  flags                            +52 _refcount
    +8  compound_head (bit 0: a tail)    +56 memcg_data
    +24 mapping   +32 index   +40 private
"""

from __future__ import annotations

from dataclasses import dataclass

from vcapdev.guestmm.btf import Btf
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo

PIN_BIAS = 1024  # GUP_PIN_COUNTING_BIAS, include/linux/mm.h; the same since 5.6
MAPPING_ANON = 1  # PAGE_MAPPING_FLAGS, include/linux/page-flags.h
MAPPING_KSM = 3
MAPPING_BITS = 3


class LayoutError(ValueError):
    """The layout of ``struct page`` is not one that is understood."""


@dataclass(frozen=True, slots=True)
class PinPlace:
    """Where a compound page counts its pins: in ``head[row]``, at byte ``offset``.

    ``first_order`` is the smallest compound order that has it; smaller ones use the bias of order 0.
    """

    row: int
    offset: int
    first_order: int


@dataclass(frozen=True, slots=True)
class PageLayout:
    """Byte offsets in ``struct page``; ``size`` is its size.

    ``head`` is the word that names a tail's head, and the first of the two that link every other page into
    lists (``lru``); with ``head_is_mask`` (7.x, ``compound_info``) a tail carries a mask for its own address
    instead of the head's address.
    """

    size: int
    flags: int
    head: int
    mapping: int
    index: int
    private: int
    mapcount: int
    refcount: int
    head_is_mask: bool
    pins: PinPlace | None
    order: tuple[int, int] | None  # (row, byte offset) of a compound page's order

    @classmethod
    def probe(cls, btf: Btf, note: Vmcoreinfo) -> PageLayout:
        """Find every member.

        :raise LayoutError: naming the member that is missing, or what does not fit.
        """
        size = note.size("page") or 0
        if size < 64 or size & (size - 1):
            raise LayoutError(f"struct page of {size} bytes is not understood (it must be a power of two)")
        head = btf.offset("page", "compound_head")
        mask = btf.offset("page", "compound_info")
        if head is None and mask is None:
            raise LayoutError("struct page has neither compound_head nor compound_info")
        layout = cls(
            size=size,
            flags=_member(btf, "flags"),
            head=mask if head is None else head,  # type: ignore[arg-type]
            mapping=_member(btf, "mapping"),
            index=_member(btf, "index", "__folio_index"),
            private=_member(btf, "private"),
            mapcount=_member(btf, "_mapcount"),
            refcount=_member(btf, "_refcount"),
            head_is_mask=head is None,
            pins=_pins(btf, size),
            order=_order(btf, size),
        )
        layout._compare(note)
        return layout

    def _compare(self, note: Vmcoreinfo) -> None:
        """What vmcoreinfo tells as well must agree with the BTF, or one of them is of another kernel."""
        mine = {"flags": self.flags, "_refcount": self.refcount, "_mapcount": self.mapcount, "lru": self.head}
        for name, offset in mine.items():
            told = note.offset(f"page.{name}")
            if told is not None and told != offset:
                raise LayoutError(f"page.{name} is at {offset} by BTF and at {told} by vmcoreinfo")
        if self.flags % 8 or self.head % 8 or self.mapping % 8 or self.mapcount % 4 or self.refcount % 4:
            raise LayoutError("members of struct page are not aligned")
        if max(self.flags, self.head, self.mapping, self.index, self.private) + 8 > self.size:
            raise LayoutError("members of struct page lie outside it")


def _member(btf: Btf, *names: str) -> int:
    for name in names:
        offset = btf.offset("page", name)
        if offset is not None:
            return offset
    raise LayoutError(f"the guest's BTF has no member page.{names[0]}")


def _pins(btf: Btf, size: int) -> PinPlace | None:
    """The separate pin count of compound pages.

    ``folio._pincount`` since 5.18 (where the folio is laid over several pages), ``compound_pincount`` in the
    first tail (5.18, commit 94202f126f69), ``hpage_pinned_refcount`` in the second tail before (5.7, commit
    47e29d32afba; only where the order is above 1).
    """
    offset = btf.offset("folio", "_pincount")
    if offset is not None:
        return PinPlace(offset // size, offset % size, 1 if offset // size == 1 else 2)
    offset = btf.offset("page", "compound_pincount")
    if offset is not None:
        return PinPlace(1, offset, 1)
    offset = btf.offset("page", "hpage_pinned_refcount")
    return None if offset is None else PinPlace(2, offset, 2)


def _order(btf: Btf, size: int) -> tuple[int, int] | None:
    """The order of a compound page: a byte in the first tail on all kernels."""
    offset = btf.offset("page", "compound_order")
    if offset is not None:
        return 1, offset
    for name in ("_folio_order", "_flags_1"):  # since 6.6 the low byte of the first tail's flags
        offset = btf.offset("folio", name)
        if offset is not None:
            return offset // size, offset % size
    return None
