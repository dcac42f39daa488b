# SPDX-License-Identifier: GPL-2.0-or-later
"""Which module an address belongs to (kernel/module/main.c)."""

from __future__ import annotations

from collections.abc import Iterator

from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import GuestReadError
from vcapdev.guestmm.structs import StructError, Structs
from vcapdev.guestmm.words import Reader

_MAX_MODULES = 1024
_MAX_PARTS = 16
_NAME = 56  # MODULE_NAME_LEN


class ModuleList:
    """Looks modules up in the kernel's list of them.

    A module's memory is one stretch, or since 6.4 (commit ac3b43283923) one for each kind of section.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._reader = kernel, Reader.of(kernel)
        self._head = kernel.symbols.address("modules")
        structs = Structs.of(kernel)
        self._module = structs.offsets("module", "list", "name")
        try:
            core = structs.offsets("module", "core_layout.base", "core_layout.size")
            self._first, self._step, self._parts = 0, 0, 1
            self._base, self._size = core["core_layout.base"], core["core_layout.size"]
        except StructError:
            self._first, part = (
                structs.offsets("module", "mem")["mem"],
                structs.offsets("module_memory", "base", "size"),
            )
            self._step = structs.size("module_memory")
            self._base, self._size = part["base"], part["size"]
            self._parts = min(structs.enumerators("mod_mem_type").get("MOD_MEM_NUM_TYPES", 1), _MAX_PARTS)

    def name_at(self, address: int) -> str:
        """The module that holds an address; empty when none does."""
        try:
            for module in self._modules():
                if self._holds(module + self._first, address):
                    return self._reader.text(module + self._module["name"], _NAME)
        except GuestReadError:
            pass
        return ""

    def _modules(self) -> Iterator[int]:
        at = self._head
        for _ in range(_MAX_MODULES if at is not None else 0):
            at = self._reader.u64(at or 0)
            if at == self._head:
                return
            yield at - self._module["list"]

    def _holds(self, first: int, address: int) -> bool:
        for part in range(self._parts):
            at = first + part * self._step
            start, size = self._reader.u64(at + self._base), self._reader.u32(at + self._size)
            if start <= address < start + size:
                return True
        return False
