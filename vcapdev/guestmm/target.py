# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest as a drgn program: types from BTF, symbols from kallsyms, memory from the device's mapping.

drgn has no BTF reader; the finders here give it one. Only explanations need it, so it is imported and built
when the first one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import drgn
from drgn import (
    FindObjectFlags,
    Object,
    Platform,
    Program,
    Symbol,
    SymbolBinding,
    SymbolKind,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeMember,
    TypeParameter,
)

from vcapdev.guestmm.btf import Btf, BtfError, BtfType, Kind
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import GuestMemory, GuestReadError

# BTF tells the types of per-CPU variables only; these are of help at a drgn prompt.
_VARIABLES = {
    "init_task": "struct task_struct",
    "init_mm": "struct mm_struct",
    "init_pid_ns": "struct pid_namespace",
    "init_uts_ns": "struct uts_namespace",
    "jiffies": "unsigned long",
    "vmemmap_base": "unsigned long",
    "page_offset_base": "unsigned long",
    "vmalloc_base": "unsigned long",
    "max_pfn": "unsigned long",
    "zero_pfn": "unsigned long",
    "huge_zero_pfn": "unsigned long",
    "__per_cpu_offset": "unsigned long [512]",
    "nr_cpu_ids": "unsigned int",
    "slab_caches": "struct list_head",
    "init_on_free": "struct static_key_false",
    "node_data": "struct pglist_data *[64]",
    "mem_section": "struct mem_section **",
    "modules": "struct list_head",
    "saved_command_line": "char *",
}

_KINDS = {
    TypeKind.STRUCT: (Kind.STRUCT,),
    TypeKind.UNION: (Kind.UNION,),
    TypeKind.ENUM: (Kind.ENUM, Kind.ENUM64),
    TypeKind.TYPEDEF: (Kind.TYPEDEF,),
    TypeKind.INT: (Kind.INT,),
    TypeKind.BOOL: (Kind.INT,),
    TypeKind.FLOAT: (Kind.FLOAT,),
}
_BOOL, _SIGNED = 4, 1


def program_of(kernel: Kernel) -> Program:
    """The drgn program for a kernel; built once, then kept with it."""
    program = kernel.cache.get("drgn")
    if program is None:
        program = kernel.cache["drgn"] = build_program(kernel)
    return program


def build_program(kernel: Kernel) -> Program:
    """Make a drgn program that reads the guest live."""
    program = Program(Platform(drgn.Architecture.X86_64))
    for segment in kernel.memory.segments:
        read = _reader(kernel.memory)
        program.add_memory_segment(segment.start, segment.size, read, physical=True)
    program.set_linux_kernel_custom(kernel.note.text, True)
    types = BtfTypes(program, kernel.btf)
    program.register_type_finder("btf", types.find, enable_index=0)
    program.register_symbol_finder("kallsyms", _symbol_finder(kernel), enable_index=0)
    program.register_object_finder("kallsyms", _object_finder(kernel, types), enable_index=-1)
    return program


def _reader(memory: GuestMemory) -> Callable[[int, int, int, bool], bytes]:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            return memory.read(address, count)
        except GuestReadError as error:
            raise drgn.FaultError(str(error), address) from error

    return read


def _symbol_finder(kernel: Kernel) -> Callable[..., list[Symbol]]:
    def symbol(name: str, address: int, size: int) -> Symbol:
        return Symbol(name, address, size, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN)

    def find(_: Program, name: str | None, address: int | None, one: bool) -> list[Symbol]:
        if name is not None:
            start = kernel.symbols.address(name)
            found = None if start is None else kernel.symbols.at(start)
            if start is None or (address is not None and found is not None and found[1] != start):
                return []
            return [symbol(name, start, found[2] if found else 0)]
        covering = None if address is None else kernel.symbols.at(address)
        return [] if covering is None else [symbol(*covering)]

    return find


def _object_finder(kernel: Kernel, types: BtfTypes) -> Callable[..., Object | None]:
    def find(program: Program, name: str, flags: FindObjectFlags, _: str | None) -> Object | None:
        address = kernel.symbols.address(name)
        if address is not None and flags & FindObjectFlags.VARIABLE and name in _VARIABLES:
            try:
                return Object(program, program.type(_VARIABLES[name]), address=address)
            except LookupError:
                return None
        if address is not None and flags & FindObjectFlags.FUNCTION:
            found = kernel.btf.find(name, Kind.FUNC)
            if found is not None:
                return Object(program, types.type(found.ref), address=address)
        return types.constant(name) if flags & FindObjectFlags.CONSTANT else None

    return find


class BtfTypes:
    """Turns BTF types into drgn types, each once; members of structs are turned when looked at."""

    def __init__(self, program: Program, btf: Btf) -> None:
        self._program = program
        self._btf = btf
        self._known: dict[int, Type] = {}
        self._constants: dict[str, int] | None = None  # name to the enumeration that has it

    def constant(self, name: str) -> Object | None:
        """An enumerator. All enumerations are read for the first one: drgn's helpers ask for many."""
        if self._constants is None:
            self._constants = {}
            for type_id in range(1, len(self._btf)):
                if self._btf.type(type_id).kind in (Kind.ENUM, Kind.ENUM64):
                    for each in self._btf.enumerators(type_id):
                        self._constants.setdefault(each, type_id)
        type_id = self._constants.get(name, 0)
        if not type_id:
            return None
        return Object(self._program, self.type(type_id), self._btf.enumerators(type_id)[name])

    def find(self, program: Program, kinds: Any, name: str, filename: str | None) -> Type | None:
        """A drgn type finder."""
        wanted = [kind for drgn_kind, ours in _KINDS.items() if drgn_kind in kinds for kind in ours]
        if filename or not wanted:
            return None
        try:
            found = self._btf.find(name, *wanted)
            return None if found is None else self.type(found.id)
        except BtfError as error:
            raise LookupError(str(error)) from error

    def type(self, type_id: int) -> Type:
        """The drgn type for a BTF type id.

        :raise BtfError: when the BTF contradicts itself.
        """
        known = self._known.get(type_id)
        if known is None:
            known = self._known[type_id] = self._make(self._btf.type(type_id), 0)
        return known

    def _make(self, found: BtfType, depth: int) -> Type:
        if depth > 64:
            raise BtfError(f"type {found.id} of the guest's BTF is a chain without end")
        program, name = self._program, found.name or None
        match found.kind:
            case Kind.INT:
                return self._integer(found)
            case Kind.FLOAT:
                return program.float_type(found.name, found.ref)
            case Kind.PTR:
                return program.pointer_type(self._inner(found.ref, depth))
            case Kind.ARRAY:
                element, count = self._btf.array(found.id)
                return program.array_type(self._inner(element, depth), count)
            case Kind.STRUCT:
                return program.struct_type(name, found.ref, self._members(found))
            case Kind.UNION:
                return program.union_type(name, found.ref, self._members(found))
            case Kind.ENUM | Kind.ENUM64:
                return self._enumeration(found)
            case Kind.FWD:
                return program.union_type(name) if found.kind_flag else program.struct_type(name)
            case Kind.TYPEDEF:
                return program.typedef_type(found.name, self._inner(found.ref, depth))
            case Kind.CONST | Kind.VOLATILE | Kind.RESTRICT:
                return self._qualified(found, depth)
            case Kind.FUNC_PROTO:
                return self._function(found, depth)
            case Kind.TYPE_TAG | Kind.FUNC | Kind.VAR:
                return self._inner(found.ref, depth)
        return program.void_type()

    def _inner(self, type_id: int, depth: int) -> Type:
        """A type that another one refers to. Structs are made at once (their members are not)."""
        known = self._known.get(type_id)
        if known is None:
            known = self._known[type_id] = self._make(self._btf.type(type_id), depth + 1)
        return known

    def _qualified(self, found: BtfType, depth: int) -> Type:
        qualifier = {
            Kind.CONST: drgn.Qualifiers.CONST,
            Kind.VOLATILE: drgn.Qualifiers.VOLATILE,
            Kind.RESTRICT: drgn.Qualifiers.RESTRICT,
        }[found.kind]
        inner = self._inner(found.ref, depth)
        return inner.qualified(inner.qualifiers | qualifier)

    def _integer(self, found: BtfType) -> Type:
        encoding, _, _ = self._btf.integer(found.id)
        if encoding & _BOOL:
            return self._program.bool_type(found.name, found.ref)
        return self._program.int_type(found.name, found.ref, bool(encoding & _SIGNED))

    def _enumeration(self, found: BtfType) -> Type:
        values = self._btf.enumerators(found.id)
        if not values:
            return self._program.enum_type(found.name or None)
        name = {1: "unsigned char", 2: "unsigned short", 8: "unsigned long"}.get(found.ref, "unsigned int")
        signed = any(value < 0 for value in values.values())
        base = self._program.int_type("int" if signed else name, found.ref, signed)
        return self._program.enum_type(found.name or None, base, [TypeEnumerator(*v) for v in values.items()])

    def _members(self, found: BtfType) -> list[TypeMember]:
        for _ in self._btf.all_members(found.id):  # drgn looks into anonymous members, however deep
            pass
        members = []
        for member in self._btf.members(found.id):
            if member.bit_size:
                make: Callable[[], Any] = self._bit_field(member.type_id, member.bit_size)
            else:
                make = self._later(member.type_id)
            members.append(TypeMember(make, member.name or None, member.bit_offset))
        return members

    def _later(self, type_id: int) -> Callable[[], Type]:
        return lambda: self.type(type_id)

    def _bit_field(self, type_id: int, bits: int) -> Callable[[], Object]:
        return lambda: Object(self._program, self.type(type_id), bit_field_size=bits)

    def _function(self, found: BtfType, depth: int) -> Type:
        pairs = self._btf.parameters(found.id)
        variadic = bool(pairs) and pairs[-1][1] == 0
        named = [TypeParameter(self._later(ref), name or None) for name, ref in pairs if ref]
        return self._program.function_type(self._inner(found.ref, depth), named, variadic)
