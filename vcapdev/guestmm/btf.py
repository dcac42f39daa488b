# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF, the kernel's compact type information (Documentation/bpf/btf.rst), read lazily.

One pass finds where each type begins; everything else is decoded when asked for. The data come from the
guest, so every index is checked and every chain of types is bounded.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: What a kernel without BTF must be built with, so that its vmlinux can stand in for it.
DWARF_OPTION = "CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y (before 5.18: CONFIG_DEBUG_INFO=y)"

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_MAX_DEPTH = 32  # of nested anonymous members, typedefs, qualifiers
_MAX_TYPES = 500_000  # a kernel has some 130 000
_MAX_NAME = 1024
_MAX_NESTED = 20_000  # members looked at in one struct, those of anonymous members included
_MAX_MATCHES = 1 << 16  # places of the strings where one name is looked for


class BtfError(ValueError):
    """The data are no BTF, or they refer to something that is not there."""


class Kind(IntEnum):
    """Kinds of BTF types."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


MODIFIERS = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
COMPOUND = frozenset({Kind.STRUCT, Kind.UNION})

# Words behind the three common ones: fixed, and for each of vlen.
_EXTRA: list[tuple[int, int]] = [(0, 0)] * 20
for _kind, _words in {
    Kind.INT: (1, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.DECL_TAG: (1, 0),
    Kind.ENUM64: (0, 3),
}.items():
    _EXTRA[_kind] = _words


class BtfType(NamedTuple):
    """The common part of a type. ``ref`` is a size in bytes or a type id, as the kind has it."""

    id: int
    kind: Kind
    name: str
    ref: int
    vlen: int
    kind_flag: bool


class Member(NamedTuple):
    """A member of a struct or union. ``bit_size`` is 0 for what is no bit field."""

    name: str
    type_id: int
    bit_offset: int
    bit_size: int


class Place(NamedTuple):
    """Where a member lies in its outermost type: bytes from its start, and the member's type."""

    offset: int
    type_id: int


class Btf:
    """One BTF blob without a base.

    :param starts: what :meth:`starts` gave for the same data, to save the work.
    :raise BtfError: when header or type section make no sense.
    """

    def __init__(
        self, data: bytes, breathe: Callable[[], None] = lambda: None, starts: bytes | None = None
    ) -> None:
        types, self._strings = _sections(data)
        self._words = array("I", types)
        self._starts = _index(self._words, breathe) if starts is None else array("I", starts)
        self._by_name = _names(self._words, self._starts)

    @property
    def starts(self) -> bytes:
        """Where each type begins, as one may keep it."""
        return self._starts.tobytes()

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def string_size(self) -> int:
        """Bytes of the string section."""
        return len(self._strings)

    def type(self, type_id: int) -> BtfType:
        """The type with this id; 0 is void."""
        if type_id == 0:
            return BtfType(0, Kind.VOID, "void", 0, 0, False)
        start = self._start(type_id)
        name, info, ref = self._words[start : start + 3]
        kind = Kind((info >> 24) & 0x1F)
        return BtfType(type_id, kind, self._string(name), ref, info & 0xFFFF, bool(info >> 31))

    def find(self, name: str, *kinds: Kind) -> BtfType | None:
        """The first type of this name that is of one of ``kinds`` (any kind when none is given)."""
        needle = name.encode() + b"\0"
        at = self._strings.find(needle)
        for _ in range(_MAX_MATCHES):  # most are the ends of longer names
            if at < 0:
                return None
            for type_id in self._by_name.of(at):
                found = self.type(type_id)
                if found.name == name and (not kinds or found.kind in kinds):
                    return found
            at = self._strings.find(needle, at + 1)
        raise BtfError("the strings of the guest's BTF repeat themselves without end")

    def resolve(self, type_id: int) -> BtfType:
        """The type behind typedefs and qualifiers."""
        for _ in range(_MAX_DEPTH):
            found = self.type(type_id)
            if found.kind not in MODIFIERS:
                return found
            type_id = found.ref
        raise BtfError(f"type {type_id} of the guest's BTF is a chain without end")

    def members(self, type_id: int) -> Iterator[Member]:
        """The members of a struct or union, in order."""
        found = self.type(type_id)
        if found.kind not in COMPOUND:
            raise BtfError(f"{found.name or type_id} has no members")
        at = self._start(type_id) + 3
        for _ in range(found.vlen):
            name, member, offset = self._words[at : at + 3]
            at += 3
            size = offset >> 24 if found.kind_flag else 0
            yield Member(self._string(name), member, offset & 0xFFFFFF if found.kind_flag else offset, size)

    def enumerators(self, type_id: int) -> dict[str, int]:
        """Names and values of an enumeration."""
        found = self.type(type_id)
        at, values = self._start(type_id) + 3, {}
        for _ in range(found.vlen):
            if found.kind == Kind.ENUM64:
                name, low, high = self._words[at : at + 3]
                value, bits, at = low | high << 32, 64, at + 3
            elif found.kind == Kind.ENUM:
                name, value = self._words[at : at + 2]
                bits, at = 32, at + 2
            else:
                raise BtfError(f"{found.name or type_id} is no enumeration")
            signed = found.kind_flag and value >> (bits - 1)
            values[self._string(name)] = value - (1 << bits) if signed else value
        return values

    def parameters(self, type_id: int) -> list[tuple[str, int]]:
        """Names and types of the parameters of a function prototype; type 0 at the end means variadic."""
        found, at = self.type(type_id), self._start(type_id) + 3
        pairs = self._words[at : at + 2 * found.vlen]
        return [(self._string(pairs[i]), pairs[i + 1]) for i in range(0, len(pairs), 2)]

    def array(self, type_id: int) -> tuple[int, int]:
        """Element type and number of elements of an array."""
        at = self._start(type_id) + 3
        return self._words[at], self._words[at + 2]

    def integer(self, type_id: int) -> tuple[int, int, int]:
        """``(encoding, bit offset, bits)`` of an integer; encoding bits: 1 signed, 2 char, 4 bool."""
        word = self._words[self._start(type_id) + 3]
        return (word >> 24) & 0xF, (word >> 16) & 0xFF, word & 0xFF

    def sizeof(self, type_id: int) -> int:
        """Size in bytes."""
        count = 1
        for _ in range(_MAX_DEPTH):
            found = self.resolve(type_id)
            if found.kind == Kind.PTR:
                return 8 * count
            if found.kind != Kind.ARRAY:
                return found.ref * count
            type_id, length = self.array(found.id)
            count *= length
        raise BtfError("an array of arrays without end")

    def place(self, type_name: str, path: str) -> Place | None:
        """Where ``path`` (``"a.b"``) lies in a struct or union, looking into anonymous members.

        None when the type or the member does not exist: layouts are probed this way.
        """
        found = self.find(type_name, Kind.STRUCT, Kind.UNION)
        if found is None:
            return None
        place = Place(0, found.id)
        for name in path.split("."):
            inner = self._member(self.resolve(place.type_id).id, name)
            if inner is None:
                return None
            place = Place(place.offset + inner.offset, inner.type_id)
        return place

    def offset(self, type_name: str, path: str) -> int | None:
        """Byte offset of :meth:`place`."""
        place = self.place(type_name, path)
        return None if place is None else place.offset

    def all_members(self, type_id: int) -> Iterator[Member]:
        """Named members of a struct or union as C sees them: those of anonymous members belong to it.

        :raise BtfError: when there is no end to them; a guest may nest a struct in itself.
        """
        waiting = [(type_id, 0, 0)]
        seen = 0
        while waiting:
            inner, base, depth = waiting.pop()
            if self.type(inner).kind not in COMPOUND:
                continue
            nested: list[tuple[int, int, int]] = []
            for member in self.members(inner):
                seen += 1
                if seen > _MAX_NESTED or depth > _MAX_DEPTH:
                    raise BtfError(f"type {type_id} of the guest's BTF is nested without end")
                if member.name:
                    yield member._replace(bit_offset=base + member.bit_offset)
                else:
                    found = self.resolve(member.type_id).id
                    nested.append((found, base + member.bit_offset, depth + 1))
            waiting += reversed(nested)

    def _member(self, type_id: int, name: str) -> Place | None:
        for member in self.all_members(type_id):
            if member.name == name:
                return Place(member.bit_offset // 8, member.type_id)
        return None

    def _start(self, type_id: int) -> int:
        if not 0 < type_id < len(self._starts):
            raise BtfError(f"the guest's BTF has no type {type_id}")
        return self._starts[type_id]

    def _string(self, offset: int) -> str:
        end = self._strings.find(b"\0", offset, offset + _MAX_NAME)
        if end < 0:
            raise BtfError(f"the guest's BTF has no string at {offset}, or one without end")
        return self._strings[offset:end].decode("ascii", "replace")


def _sections(data: bytes) -> tuple[bytes, bytes]:
    """The type and the string section."""
    if len(data) < _HEADER.size:
        raise BtfError("too short for BTF")
    magic, version, _, header, type_at, type_size, text_at, text_size = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != 1:
        raise BtfError(f"no BTF: magic {magic:#x}, version {version}")
    types = data[header + type_at : header + type_at + type_size]
    strings = data[header + text_at : header + text_at + text_size]
    if len(types) != type_size or len(strings) != text_size or type_size % 4:
        raise BtfError("the sections of the BTF are cut short")
    return types, strings


def _index(words: array[int], breathe: Callable[[], None]) -> array[int]:
    """Where each type starts; the first is void, which has no place."""
    starts = array("I", [0])
    at, end = 0, len(words)
    while at < end:
        if at + 3 > end or len(starts) > _MAX_TYPES:
            raise BtfError("the type section of the BTF ends inside a type")
        info = words[at + 1]
        kind = (info >> 24) & 0x1F
        if not 0 < kind <= Kind.ENUM64:
            raise BtfError(f"the BTF has a type of the unknown kind {kind}")
        starts.append(at)
        fixed, each = _EXTRA[kind]
        at += 3 + fixed + each * (info & 0xFFFF)
        if not len(starts) & 0x3FFF:
            breathe()
    if at != end:
        raise BtfError("the last type of the BTF is cut short")
    return starts


class _Names:
    """Which types carry a name, by the name's place in the strings."""

    def __init__(self, places: NDArray[np.uint32]) -> None:
        order = np.argsort(places, kind="stable")
        first = int(np.count_nonzero(places == 0))  # those without a name come first
        self._ids = order[first:] + 1
        self._places = places[order[first:]]

    def of(self, place: int) -> list[int]:
        """Ids of the types whose name is there, ascending."""
        first, last = np.searchsorted(self._places, np.array([place, place + 1], dtype=np.uint32))
        found: list[int] = self._ids[first:last].tolist()
        return found

    def items(self) -> Iterator[tuple[int, list[int]]]:
        """All places with their types."""
        for place in np.unique(self._places).tolist():
            yield place, self.of(place)


def _names(words: array[int], starts: array[int]) -> _Names:
    """The names of all types but void.

    :raise BtfError: when a start lies outside the type section.
    """
    at = np.frombuffer(starts, dtype=np.uint32)[1:]
    if len(at) and int(at.max()) + 3 > len(words):
        raise BtfError("a type of the BTF begins outside of its type section")
    return _Names(np.frombuffer(words, dtype=np.uint32)[at] if len(at) else np.zeros(0, dtype=np.uint32))
