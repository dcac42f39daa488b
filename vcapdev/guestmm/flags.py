# SPDX-License-Identifier: GPL-2.0-or-later
"""Page flags and page types by name, as the running kernel numbers them (include/linux/page-flags.h)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vcapdev.guestmm.btf import Btf, Kind
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo

# Aliases of one bit mean different things on different pages; they are told by whoever knows the page.
_ALIASES = frozenset(
    {"readahead", "checked", "fscache", "pinned", "savepinned", "foreign", "xen_remapped", "slob_free"}
    | {"double_map", "isolated", "reported", "vmemmap_self_hosted", "has_hwpoisoned", "owner_2"}
    | {"movable_ops", "movable_ops_isolated"}
    | {"partially_mapped", "large_rmappable", "hugetlb", "anon_exclusive", "swapcache"}
)
_NEEDED = ("locked", "dirty", "lru", "writeback", "reserved", "head", "swapbacked")


class FlagsError(ValueError):
    """The kernel does not tell a page flag that the rules need."""


@dataclass(frozen=True)
class PageFlags:
    """Flag numbers by lower-case name without ``PG_``; ``mask`` covers all flags of this kernel."""

    numbers: Mapping[str, int]
    mask: int

    @classmethod
    def from_btf(cls, btf: Btf) -> PageFlags:
        """Read ``enum pageflags``.

        :raise FlagsError: when it is missing, or lacks a flag that every supported kernel has.
        """
        found = btf.find("pageflags", Kind.ENUM, Kind.ENUM64)
        if found is None:
            raise FlagsError("the guest's BTF has no enum pageflags")
        values = btf.enumerators(found.id)
        count = values.get("__NR_PAGEFLAGS", 0)
        if not 0 < count <= 64:
            raise FlagsError("the guest's enum pageflags has no __NR_PAGEFLAGS")
        numbers = {k[3:].lower(): v for k, v in values.items() if k.startswith("PG_") and 0 <= v < count}
        numbers.setdefault("swapcache", numbers.get("owner_priv_1", -1))
        missing = [name for name in _NEEDED if name not in numbers]
        if missing:
            raise FlagsError(f"the guest's enum pageflags has no PG_{missing[0]}")
        return cls(numbers, (1 << count) - 1)

    def bit(self, name: str) -> int:
        """The flag as a mask; 0 when this kernel does not have it."""
        number = self.numbers.get(name, -1)
        return 1 << number if number >= 0 else 0

    def decode(self, flags: int, *, anon: bool = False, swap_backed: bool = False) -> list[str]:
        """Names of the set flags. ``anon`` and ``swap_backed`` tell shared bits apart."""
        names = [n for n, bit in self.numbers.items() if n not in _ALIASES and flags >> bit & 1]
        for alias, applies in (("anon_exclusive", anon), ("swapcache", swap_backed)):
            number = self.numbers.get(alias, -1)
            if applies and number >= 0 and flags >> number & 1:
                names = [n for n in names if self.numbers[n] != number] + [alias]
        return names


@dataclass(frozen=True)
class PageTypes:
    """How ``page_type`` tells what a page is when it is no user page.

    Until 6.10 a type is a cleared bit of an all-ones word; since 6.12 (commit 4ffca5a96678) it is the top
    byte. In both the word, taken as signed, is below -1, which no map count is.
    """

    values: Mapping[str, int]  # name -> raw page_type word of such a page, low 24 bits of a top byte zero
    top_byte: bool
    names: Mapping[int, str] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {value: name for name, value in self.values.items()})

    @classmethod
    def probe(cls, btf: Btf, note: Vmcoreinfo) -> PageTypes:
        """Take the types from ``enum pagetype`` where it exists, else from vmcoreinfo.

        The table bit is a macro that nobody exports: it lies behind PG_offline, and behind PG_kmemcg where
        ``struct page`` still has ``mem_cgroup`` (until 5.11, commit bcfe06bf2622).
        """
        found = btf.find("pagetype", Kind.ENUM, Kind.ENUM64)
        values = btf.enumerators(found.id) if found is not None else {}
        top = {
            k[5:]: v << 24
            for k, v in values.items()
            if k.startswith("PGTY_") and k != "PGTY_mapcount_underflow"
        }
        if top:
            return cls(top, True)
        bits = {k[3:]: ~v & 0xFFFFFFFF for k, v in values.items() if k.startswith("PG_")}
        if bits:
            return cls(bits, False)
        buddy, offline = note.number("PAGE_BUDDY_MAPCOUNT_VALUE"), note.number("PAGE_OFFLINE_MAPCOUNT_VALUE")
        if buddy is None:
            raise FlagsError("vmcoreinfo has no PAGE_BUDDY_MAPCOUNT_VALUE and the BTF no enum pagetype")
        known = {"buddy": buddy & 0xFFFFFFFF}
        if offline is not None:
            first = ~offline << (2 if btf.place("page", "mem_cgroup") else 1)
            known |= {
                "offline": offline & 0xFFFFFFFF,
                "table": ~first & 0xFFFFFFFF,
                "guard": ~(first << 1) & 0xFFFFFFFF,
            }
        return cls(known, False)

    def name(self, word: int) -> str:
        """Name of a raw page_type word; empty when it is a map count."""
        if not self.is_typed(word):
            return ""
        key = word & 0xFF000000 if self.top_byte else word
        return self.names.get(key, f"type {word:#010x}")

    @staticmethod
    def is_typed(word: int) -> bool:
        """Whether the raw word is a type rather than a map count."""
        return 0x80000000 <= (word & 0xFFFFFFFF) < 0xFFFFFFFF
