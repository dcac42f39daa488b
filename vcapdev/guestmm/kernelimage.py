# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's image in guest RAM, and what is found in it by its look where nothing names the place.

Before 6.0 vmcoreinfo does not name the tables of kallsyms. They are found by the table of tokens: every digit
stands for itself in it, and the index behind it must agree with where its tokens begin, 256 times. The other
tables lie before it in the order in which scripts/kallsyms.c wrote them until 6.3 (since 4.6, commit
2213e9a66bb8)::

    offsets ▸ relative_base ▸ num_syms ▸ names ▸ markers ▸ token_table ▸ token_index     each aligned to 8
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from vcapdev.guestmm.memory import GuestReadError
from vcapdev.guestmm.pagetable import PageTable

IMAGE_LIMIT = 64 << 20  # bytes from _stext on; a Debian kernel's text and read-only data end before 40 MiB
_LIKELY = 24 << 20  # bytes from _stext to behind kallsyms; 17 MiB in Debian's 5.10
_LARGE = 2 << 20
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_TOKENS = 256
_DIGIT_TOKEN = ord("0")
_MOST_TOKENS = 1 << 14  # bytes of the table of tokens; a kernel has about 1000
_PER_MARKER = 256  # names between two markers
_MOST_MARKERS = 4096
_NAME_BYTES = 130  # packed; longer names came with two-byte lengths in 6.1, where vmcoreinfo helps
_BTF_START = struct.pack(
    "<HBBII", 0xEB9F, 1, 0, 24, 0
)  # magic, version, flags, size of the header, place of types


@dataclass(frozen=True)
class KernelImage:
    """``data`` lies at virtual address ``start`` (``_stext``)."""

    start: int
    data: bytes

    @classmethod
    def read(cls, table: PageTable, start: int, limit: int = IMAGE_LIMIT) -> KernelImage:
        """Copy the image from ``start`` on, as far as it is mapped in one piece and not absurdly far.

        The kernel lies in one piece of physical memory, whatever the size of the pages that map it.

        :raise GuestReadError: when nothing is mapped there.
        """
        first = table.translate(start)
        size = 0
        while size < limit:
            step = _LARGE - ((start + size) & (_LARGE - 1))
            if table.walk(start + size).physical != first + size:
                break
            size = min(size + step, limit)
        segment = table.memory.segment(first)
        if segment is None or not size:
            raise GuestReadError(f"the kernel image at {start:#x} is not in guest RAM")
        return cls(start, table.memory.read(first, min(size, segment.start + segment.size - first)))

    @classmethod
    def find_kallsyms(cls, table: PageTable, start: int) -> dict[str, int] | None:
        """The same as :meth:`kallsyms` of the image there; read no further than is likely to be needed.

        :raise GuestReadError: when nothing is mapped there.
        """
        near = cls.read(table, start, _LIKELY).kallsyms()
        return near if near is not None else cls.read(table, start).kallsyms()

    def btf(self) -> bytes | None:
        """The kernel's BTF, the largest blob that begins and ends as one; None when there is none."""
        best = None
        at = self.data.find(_BTF_START)
        while at >= 0:
            size = self._btf_size(at)
            if size and (best is None or size > len(best)):
                best = self.data[at : at + size]
            at = self.data.find(_BTF_START, at + 1)
        return best

    def _btf_size(self, at: int) -> int:
        """Size of the BTF blob here, 0 when it is none: strings follow the types, the first is empty."""
        if at + 24 > len(self.data):
            return 0
        types, strings_at, strings = struct.unpack_from("<III", self.data, at + 12)
        end = at + 24 + strings_at + strings
        if strings_at != types or not types or not strings or end > len(self.data):
            return 0
        return end - at if self.data[end - strings] == 0 and self.data[end - 1] == 0 else 0

    def kallsyms(self) -> dict[str, int] | None:
        """Addresses of the tables of kallsyms by name; None when they are not found."""
        at = self.data.find(_DIGITS)
        while at >= 0:
            found = self._tables(at)
            if found is not None:
                return {name: self.start + place for name, place in found.items()}
            at = self.data.find(_DIGITS, at + 1)
        return None

    def _tables(self, digits: int) -> dict[str, int] | None:
        """All tables, when these are the digits in the table of tokens."""
        start = digits
        for _ in range(_DIGIT_TOKEN):
            start = self.data.rfind(b"\0", max(0, digits - _MOST_TOKENS), start - 1) + 1
            if not start:
                return None
        index = self._index_behind(start)
        names = None if index is None or start % 8 else self._names_before(start)
        if index is None or names is None:
            return None
        return {**names, "token_table": start, "token_index": index}

    def _index_behind(self, table: int) -> int | None:
        """The index behind a table of tokens, when it says where each of them begins."""
        begins, at = [], table
        for _ in range(_TOKENS):
            begins.append(at - table)
            at = self.data.find(b"\0", at, table + _MOST_TOKENS) + 1
            if not at:
                return None
        index = -(-at // 8) * 8
        told = self.data[index : index + 2 * _TOKENS]
        return index if told == struct.pack(f"<{_TOKENS}H", *begins) else None

    def _names_before(self, tokens: int) -> dict[str, int] | None:
        """The tables before the table of tokens: markers first, for they tell how many names there are."""
        first = max(0, tokens - 4 * _MOST_MARKERS) & ~7
        words = np.frombuffer(self.data, dtype="<u4", count=(tokens - first) // 4, offset=first).tolist()
        end = len(words)
        while end and not words[end - 1]:  # padding
            end -= 1
        begin = end - 1
        while begin > 0 and words[begin - 1] < words[begin]:
            begin -= 1
        if begin < 0 or words[begin] != 0 or end - begin < 2:
            return None
        return self._names_of(first + 4 * begin, words[begin:end])

    def _names_of(self, markers: int, marks: list[int]) -> dict[str, int] | None:
        """Where the names begin: before their markers, behind a number of names that fits them."""
        most, least = len(marks) * _PER_MARKER, (len(marks) - 1) * _PER_MARKER
        nearest = markers - marks[-1]
        for names in range(nearest & ~7, max(nearest - _PER_MARKER * _NAME_BYTES, 24), -8):
            (count,) = struct.unpack_from("<I", self.data, names - 8)
            if least < count <= most and self._fits(names, marks):
                offsets = names - 16 - -(-4 * count // 8) * 8
                if offsets < 0:
                    return None
                return {
                    "names": names,
                    "num_syms": names - 8,
                    "relative_base": names - 16,
                    "offsets": offsets,
                }
        return None

    def _fits(self, names: int, marks: list[int]) -> bool:
        """Whether the second marker is where the 257th name begins, counted from here."""
        at = names
        for _ in range(_PER_MARKER):
            if at >= len(self.data):
                return False
            at += 1 + self.data[at]
        return at - names == marks[1]
