# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of modules: BTF that is split off from the kernel's (kernel/bpf/btf.c, since 5.11).

A module's types are numbered on from the kernel's last one, and so are the places in the strings; either
refers to the kernel's own for what it shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from vcapdev.guestmm.btf import Btf, BtfError, BtfType, Kind, Member
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import GuestReadError
from vcapdev.guestmm.words import Reader

_MAX_MODULES = 1024
_MAX_SIZE = 4 << 20  # bytes of one module's BTF
_NAME = 56  # MODULE_NAME_LEN


class SplitBtf(Btf):
    """A module's BTF on top of the kernel's; a name is looked for in the module first.

    :raise BtfError: when header or type section make no sense.
    """

    def __init__(self, base: Btf, data: bytes) -> None:
        self._base, self._first = base, len(base)
        self._string_first = base.string_size
        super().__init__(data)
        self._named: dict[str, list[int]] = {}
        for offset, numbers in self._by_name.items():
            own = [self._first + number - 1 for number in numbers]
            self._named.setdefault(self._string(offset), []).extend(own)

    def __len__(self) -> int:
        return self._first + len(self._starts) - 1

    def own(self, name: str) -> bool:
        """Whether the module itself brings a type of this name."""
        return name in self._named

    def find(self, name: str, *kinds: Kind) -> BtfType | None:
        """The first type of this name, the module's own before the kernel's."""
        for type_id in self._named.get(name, ()):
            found = self.type(type_id)
            if not kinds or found.kind in kinds:
                return found
        return self._base.find(name, *kinds)

    def type(self, type_id: int) -> BtfType:
        """The type with this id."""
        return self._base.type(type_id) if type_id < self._first else super().type(type_id)

    def members(self, type_id: int) -> Iterator[Member]:
        """The members of a struct or union, in order."""
        return self._base.members(type_id) if type_id < self._first else super().members(type_id)

    def enumerators(self, type_id: int) -> dict[str, int]:
        """Names and values of an enumeration."""
        return self._base.enumerators(type_id) if type_id < self._first else super().enumerators(type_id)

    def parameters(self, type_id: int) -> list[tuple[str, int]]:
        """Names and types of the parameters of a function prototype."""
        return self._base.parameters(type_id) if type_id < self._first else super().parameters(type_id)

    def array(self, type_id: int) -> tuple[int, int]:
        """Element type and number of elements of an array."""
        return self._base.array(type_id) if type_id < self._first else super().array(type_id)

    def integer(self, type_id: int) -> tuple[int, int, int]:
        """``(encoding, bit offset, bits)`` of an integer."""
        return self._base.integer(type_id) if type_id < self._first else super().integer(type_id)

    def _start(self, type_id: int) -> int:
        return super()._start(type_id - self._first + 1)

    def _string(self, offset: int) -> str:
        if offset < self._string_first:
            return self._base._string(offset)
        return super()._string(offset - self._string_first)


class ModuleTypes:
    """The BTF of the modules that are loaded, each read when first asked for."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._reader = kernel, Reader.of(kernel)
        self._head = kernel.symbols.address("btf_modules")
        self._read: dict[int, SplitBtf | None] = {}  # by the address of struct btf
        self._places: dict[str, int] = {}
        self._ends = 0, 0
        offset = kernel.btf.offset
        places = offset("btf_module", "list"), offset("btf_module", "btf"), offset("btf", "name")
        self._at = None if None in places else cast("tuple[int, int, int]", places)
        self._data = offset("btf", "data"), offset("btf", "data_size")

    def of(self, name: str) -> SplitBtf | None:
        """A module's types, None where it is not loaded or was built without BTF."""
        try:
            self._refresh()
            address = self._places.get(name)
            return None if address is None else self._btf(address)
        except GuestReadError:
            return None

    def _refresh(self) -> None:
        """List the modules anew when another one is the last that was loaded."""
        if self._head is None or self._at is None:
            return
        last = self._reader.u64(self._head + 8)  # list_add() and list_del() both change what is at the ends
        first = self._reader.u64(self._head)
        if (first, last) != self._ends:
            self._places = dict(self._list(self._head, *self._at))
            self._ends = first, last

    def _list(self, head: int, link: int, btf: int, name: int) -> Iterator[tuple[str, int]]:
        """Name and ``struct btf`` of each module."""
        at = head
        for _ in range(_MAX_MODULES):
            at = self._reader.u64(at)
            if at == head:
                return
            address = self._reader.u64(at - link + btf)
            yield self._reader.text(address + name, _NAME), address

    def _btf(self, address: int) -> SplitBtf | None:
        if address not in self._read:
            data, size = self._data
            self._read[address] = None
            if data is not None and size is not None:
                length = min(self._reader.u32(address + size), _MAX_SIZE)
                try:
                    raw = self._reader.read(self._reader.u64(address + data), length)
                    self._read[address] = SplitBtf(self._kernel.btf, raw)
                except BtfError:
                    pass
        return self._read[address]


def module_types(kernel: Kernel, name: str) -> SplitBtf | None:
    """A loaded module's types, with the kernel's beneath; None where it has no BTF."""
    found = kernel.cache.get("module types")
    if not isinstance(found, ModuleTypes):
        found = kernel.cache["module types"] = ModuleTypes(kernel)
    return found.of(name)
