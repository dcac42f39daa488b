# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes BTF (Documentation/bpf/btf.rst) from types that drgn has read elsewhere, as from DWARF.

So everything that reads a kernel's types reads one form of them. What is behind pointers is left out unless
it is asked for: a kernel's structs lead to one another without end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from drgn import Program, Qualifiers, Type, TypeKind

from vcapdev.guestmm.btf import Kind

_MAGIC, _VERSION, _HEADER = 0xEB9F, 1, 24
_SIGNED, _BOOL = 1, 4
_FLAG = 1 << 31
_NO_TYPE = 0  # void
_MOST_BYTES = (1 << 29) - 1  # of a struct: places of members are 32-bit numbers of bits
_DEEPEST = 64
_TAGS = {TypeKind.STRUCT: Kind.STRUCT, TypeKind.CLASS: Kind.STRUCT, TypeKind.UNION: Kind.UNION}


class BtfWriter:
    """Collects types; :meth:`blob` gives them as BTF."""

    def __init__(self, program: Program, wanted: Iterable[str]) -> None:
        """``wanted``: structs that are followed through pointers, too."""
        self._program, self._wanted = program, frozenset(wanted)
        self._types: list[bytes] = []
        self._strings = bytearray(b"\0")
        self._places: dict[str, int] = {"": 0}
        self._known: dict[tuple[str, str], int] = {}

    def add(self, name: str) -> bool:
        """Add a struct, union or enumeration by name; False when the program does not have it."""
        for kind in ("struct", "enum", "union"):
            try:
                found = self._program.type(f"{kind} {name}")
            except LookupError:
                continue
            self._type(found, 0)
            return True
        return False

    def blob(self) -> bytes:
        """All types so far."""
        types = b"".join(self._types)
        lengths = (_HEADER, 0, len(types), len(types), len(self._strings))
        return struct.pack("<HBBIIIII", _MAGIC, _VERSION, 0, *lengths) + types + bytes(self._strings)

    def _string(self, text: str | None) -> int:
        place = self._places.get(text or "")
        if place is None:
            place = self._places[text or ""] = len(self._strings)
            self._strings += (text or "").encode("ascii", "replace") + b"\0"
        return place

    def _reserve(self) -> int:
        self._types.append(b"")
        return len(self._types)

    def _put(
        self,
        number: int,
        name: str | None,
        kind: Kind,
        ref: int,
        vlen: int = 0,
        rest: bytes = b"",
        flag: int = 0,
    ) -> int:
        info = kind << 24 | vlen | flag
        self._types[number - 1] = struct.pack("<III", self._string(name), info, ref) + rest
        return number

    def _type(self, found: Type, depth: int) -> int:
        """Number of a type, without its qualifiers."""
        if depth > _DEEPEST:
            return _NO_TYPE
        if found.qualifiers != Qualifiers.NONE:
            found = found.unqualified()
        match found.kind:
            case TypeKind.INT | TypeKind.BOOL:
                return self._integer(found)
            case TypeKind.FLOAT:
                return self._named(
                    "float", found.name, lambda n: self._put(n, found.name, Kind.FLOAT, found.size)
                )
            case TypeKind.POINTER:
                target = self._behind(found.type, depth + 1)
                return self._put(self._reserve(), None, Kind.PTR, target)
            case TypeKind.ARRAY:
                return self._array(found, depth)
            case TypeKind.TYPEDEF:
                return self._typedef(found, depth)
            case TypeKind.ENUM:
                return self._enumeration(found)
            case TypeKind.STRUCT | TypeKind.UNION | TypeKind.CLASS:
                return self._compound(found, depth)
        return _NO_TYPE

    def _named(self, kind: str, name: str | None, put: object) -> int:
        """The one type of this kind and name; made by ``put(number)`` when it is new."""
        known = self._known.get((kind, name or ""))
        if known is None or not name:
            known = self._reserve()
            if name:
                self._known[kind, name] = known
            put(known)  # type: ignore[operator]
        return known

    def _behind(self, found: Type, depth: int) -> int:
        """What a pointer leads to: void, where nobody asked for it."""
        if found.kind in _TAGS and found.tag in self._wanted:
            return self._type(found, depth)
        if found.kind in (TypeKind.INT, TypeKind.BOOL, TypeKind.POINTER):
            return self._type(found, depth)
        return _NO_TYPE

    def _integer(self, found: Type) -> int:
        signed = found.kind == TypeKind.INT and found.is_signed
        encoding = _BOOL if found.kind == TypeKind.BOOL else _SIGNED if signed else 0
        rest = struct.pack("<I", encoding << 24 | found.size * 8)
        return self._named(
            "int", found.name, lambda n: self._put(n, found.name, Kind.INT, found.size, rest=rest)
        )

    def _array(self, found: Type, depth: int) -> int:
        element = self._type(found.type, depth + 1)
        rest = struct.pack("<III", element, _NO_TYPE, min(found.length or 0, 0xFFFFFFFF))
        return self._put(self._reserve(), None, Kind.ARRAY, 0, rest=rest)

    def _typedef(self, found: Type, depth: int) -> int:
        return self._named(
            "typedef",
            found.name,
            lambda n: self._put(n, found.name, Kind.TYPEDEF, self._type(found.type, depth + 1)),
        )

    def _enumeration(self, found: Type) -> int:
        def put(number: int) -> None:
            values = [(self._string(each.name), each.value) for each in found.enumerators or ()]
            size = found.type.size if found.is_complete() else 4
            flag = _FLAG if any(value < 0 for _, value in values) else 0
            if size > 4:
                rows = [(n, v & 0xFFFFFFFF, v >> 32 & 0xFFFFFFFF) for n, v in values]
                rest = b"".join(struct.pack("<III", *row) for row in rows)
            else:
                rest = b"".join(struct.pack("<II", n, v & 0xFFFFFFFF) for n, v in values)
            kind = Kind.ENUM64 if size > 4 else Kind.ENUM
            self._put(number, found.tag, kind, size, len(values), rest, flag)

        return self._named("enum", found.tag, put)

    def _compound(self, found: Type, depth: int) -> int:
        kind = _TAGS[found.kind]
        if not found.is_complete():  # declared only, in the file that was looked at
            try:
                found = self._program.type(f"{kind.name.lower()} {found.tag}")
            except LookupError:
                return _NO_TYPE
        return self._named(kind.name, found.tag, lambda n: self._members(n, found, kind, depth))

    def _members(self, number: int, found: Type, kind: Kind, depth: int) -> None:
        if not found.is_complete():
            self._put(number, found.tag, Kind.FWD, 0, flag=_FLAG if kind is Kind.UNION else 0)
            return
        rows = []
        fields = any(member.bit_field_size for member in found.members)
        for member in found.members:
            offset = member.bit_offset | (member.bit_field_size or 0) << 24 if fields else member.bit_offset
            if member.bit_offset < (1 << 24 if fields else 1 << 32):
                rows.append((self._string(member.name), self._type(member.type, depth + 1), offset))
        rest = b"".join(struct.pack("<III", *row) for row in rows)
        size = min(found.size, _MOST_BYTES)
        self._put(number, found.tag, kind, size, len(rows), rest, _FLAG if fields else 0)
