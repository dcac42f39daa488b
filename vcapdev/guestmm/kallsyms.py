# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own symbol table (kernel/kallsyms.c, scripts/kallsyms.c), read through its page tables.

Names are compressed: each byte of a name stands for a token of a table of 256; the first character of the
expanded name is the symbol's type. Since 6.1 (commit 73bbb94466fd) a name longer than 127 tokens has a
two-byte length. Addresses are 32-bit offsets against ``kallsyms_relative_base``; where
``CONFIG_KALLSYMS_ABSOLUTE_PERCPU`` was set a positive offset is an absolute address, else (since 6.15) every
offset counts from the base. In 7.x there is no such base: an offset counts from its own place in the table.
vmcoreinfo names the tables since 6.0 (commit 5fd8fea935a1); before, they are found by their look. Which way
addresses are told is tried: a symbol that vmcoreinfo lists must come out where vmcoreinfo has it.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vcapdev.guestmm.kernelimage import KernelImage
from vcapdev.guestmm.learnt import remembered
from vcapdev.guestmm.memory import GuestReadError
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo

_MAX_SYMBOLS = 500_000
_MAX_NAME = 1024  # characters; KSYM_NAME_LEN is 512
_MAX_TOKEN = 256
_MAX_TEXT = 64 << 20  # characters of all names; a kernel has some 5 million
_TABLES = ("names", "num_syms", "token_table", "token_index", "offsets")
_LISTED = ("_stext", "init_uts_ns", "swapper_pg_dir", "node_data")  # symbols that vmcoreinfo tells, too


class KallsymsError(ValueError):
    """The symbol table could not be read, or it makes no sense."""


class Kallsyms:
    """Names and addresses, both ways. An address has one name here: the first in the table."""

    def __init__(self, names: list[str], addresses: NDArray[np.uint64]) -> None:
        if len(addresses) and (addresses[1:] < addresses[:-1]).any():  # the kernel's own table is in order
            order = np.argsort(addresses, kind="stable")
            names, addresses = [names[i] for i in order.tolist()], addresses[order]
        self._names, self._sorted = names, addresses
        # Of several symbols of one name the first counts: it is entered last.
        self._address = dict(zip(reversed(self._names), self._sorted[::-1].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._address

    def address(self, name: str) -> int | None:
        """Virtual address of ``name``, None when the kernel has no such symbol."""
        return self._address.get(name)

    def at(self, address: int) -> tuple[str, int, int] | None:
        """``(name, start, size)`` of the symbol that covers ``address``; the last symbol has size 0."""
        i = bisect.bisect_right(self._sorted, address) - 1
        if i < 0:
            return None
        start = int(self._sorted[i])
        after = bisect.bisect_right(self._sorted, start)
        size = int(self._sorted[after]) - start if after < len(self._sorted) else 0
        while i and int(self._sorted[i - 1]) == start:
            i -= 1
        return self._names[i], start, size


def read_kallsyms(note: Vmcoreinfo, table: PageTable, breathe: Callable[[], None]) -> Kallsyms:
    """Read all symbols; ``breathe`` is called now and then, so that a device can answer meanwhile.

    :raise KallsymsError: when the tables are not found, or they are absurd.
    """
    try:
        return _read(note, _places(note, table, breathe), table, breathe)
    except GuestReadError as error:
        raise KallsymsError(f"kallsyms cannot be read: {error}") from error


def _places(note: Vmcoreinfo, table: PageTable, breathe: Callable[[], None]) -> dict[str, int]:
    """Addresses of the tables, told by vmcoreinfo or found in the kernel's image."""
    told = {name: note.symbol(f"kallsyms_{name}") for name in (*_TABLES, "relative_base")}
    missing = [name for name in _TABLES if told[name] is None]
    if not missing:
        return {name: place for name, place in told.items() if place is not None}
    start = note.symbol("_stext")
    breathe()
    found = None if start is None else KernelImage.find_kallsyms(table, start)
    if found is None:
        raise KallsymsError(
            f"vmcoreinfo does not name kallsyms_{missing[0]}, and the kernel's image has no such table "
            "(it needs CONFIG_KALLSYMS=y and CONFIG_KALLSYMS_ALL=y)"
        )
    return found


def _read(
    note: Vmcoreinfo, places: dict[str, int], table: PageTable, breathe: Callable[[], None]
) -> Kallsyms:
    count = table.u32(places["num_syms"])
    if not 0 < count <= _MAX_SYMBOLS:
        raise KallsymsError(f"kallsyms claims {count} symbols")
    tokens = _tokens(table, places)
    # The names end before the tables that the linker script of kallsyms puts behind them.
    behind = [p for p in places.values() if p > places["names"]]
    limit = min([*behind, places["names"] + count * 128]) - places["names"]
    packed = table.read(places["names"], limit)
    parts = [packed, count.to_bytes(4, "little"), b"\0".join(tokens)]
    text = remembered("symbols", parts, lambda: "\n".join(_expand(packed, count, tokens, breathe)).encode())
    names = text.decode("utf-8", "replace").split("\n")
    breathe()
    if len(names) != count:
        raise KallsymsError("a name of kallsyms holds the end of a line")
    offsets = np.frombuffer(table.read(places["offsets"], 4 * count), dtype="<i4")
    base = table.u64(places["relative_base"]) if "relative_base" in places else None
    return Kallsyms(names, _addresses_of(note, names, offsets, base, places["offsets"]))


def _addresses_of(
    note: Vmcoreinfo, names: list[str], offsets: NDArray[np.int32], base: int | None, offsets_at: int
) -> NDArray[np.uint64]:
    """Addresses, told so that symbols which vmcoreinfo lists as well come out where it has them.

    :raise KallsymsError: when none of the known ways does that.
    """
    ways = [_from_places(offsets, offsets_at)] if base is None else [_addresses(offsets, base)]
    if base is not None and int(offsets.min()) < 0:
        ways.append(np.uint64(base) + offsets.astype(np.int64).view(np.uint64))
    known = {names.index(name): note.symbol(name) for name in _LISTED if name in names}
    for addresses in ways:
        if all(told is None or int(addresses[row]) == told for row, told in known.items()):
            return addresses
    raise KallsymsError("offsets of kallsyms are not understood: vmcoreinfo has symbols elsewhere")


def _from_places(offsets: NDArray[np.int32], at: int) -> NDArray[np.uint64]:
    """Offsets against the place in the table where each of them is."""
    return (
        np.uint64(at)
        + np.arange(len(offsets), dtype=np.uint64) * np.uint64(4)
        + offsets.astype(np.int64).view(np.uint64)
    )


def _addresses(offsets: NDArray[np.int32], base: int) -> NDArray[np.uint64]:
    """Offsets to addresses: with absolute per-CPU symbols the kernel's own offsets are negative."""
    wide = offsets.astype(np.int64)
    if np.count_nonzero(wide < 0) > len(wide) // 2:
        low = wide.view(np.uint64)
        relative = (np.uint64(base) - np.uint64(1)) - low
        return np.where(wide >= 0, low, relative)
    return np.uint64(base) + offsets.view(np.uint32).astype(np.uint64)


def _tokens(table: PageTable, places: dict[str, int]) -> list[bytes]:
    index = np.frombuffer(table.read(places["token_index"], 512), dtype="<u2").tolist()
    text = table.read(places["token_table"], max(index) + 64)
    tokens = []
    for start in index:
        end = text.find(b"\0", start)
        if end < 0 or end - start > _MAX_TOKEN:
            raise KallsymsError("a token of kallsyms has no end")
        tokens.append(text[start:end])
    return tokens


def _expand(data: bytes, count: int, tokens: list[bytes], breathe: Callable[[], None]) -> list[str]:
    names = []
    position = total = 0
    token = tokens.__getitem__
    for i in range(count):
        if i % 8192 == 0:
            breathe()
        if position >= len(data):
            raise KallsymsError(f"the names of kallsyms end after {i} of {count}")
        length = data[position]
        position += 1
        if length & 0x80 and position < len(data):
            length = (length & 0x7F) | data[position] << 7
            position += 1
        if length > _MAX_NAME:
            raise KallsymsError(f"a name of kallsyms has {length} tokens")
        name = b"".join(map(token, data[position : position + length]))
        total += len(name)
        if len(name) > _MAX_NAME or total > _MAX_TEXT:
            raise KallsymsError(f"a name of kallsyms has {len(name)} characters, all so far {total}")
        names.append(name[1:].decode("ascii", "replace"))
        position += length
    return names
