# SPDX-License-Identifier: GPL-2.0-or-later
"""Register files, declared once and read like the data sheet.

A register is a class, its bit fields are class attributes::

    class IntStat(Register32):
        \"\"\"Interrupt status.\"\"\"

        OFFSET = 0x100
        RISCS = Field(31, 28, live=True)
        RISCI = Field(11, w1c=True)

    registers = RegisterFile([IntStat], chip)

From the fields each register gets a few masks, so that an access is a handful of integer operations. Only
where something happens beyond storing bits does a model add a method, found by the register's name:

``read_INT_STAT() -> int``
    gives the whole register as the bus is to see it, instead of the stored value;
``write_INT_STAT(value) -> None``
    is called after a write with the register's new value (write-only bits as written).

Whoever has such methods is given to :class:`RegisterFile` or to :meth:`RegisterFile.bind`; a method for a
register that does not exist, or a second one for the same register, is refused at once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vcapdev.fields import SOURCES, Field, Register, Register8, Register24, Register32

__all__ = [
    "SOURCES",
    "Access",
    "AccessError",
    "AccessLog",
    "Cell",
    "Field",
    "Register",
    "Register8",
    "Register24",
    "Register32",
    "RegisterFile",
]

_LANES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF}
_HOOK = re.compile(r"(read|write)_([A-Z][A-Z0-9_]*)$")


class AccessError(ValueError):
    """An access that no bus transfer can be: wrong size, unaligned, outside the register file."""


class Access(NamedTuple):
    """One bus access: ``"R"`` or ``"W"``, byte offset, size in bytes, value (of that size)."""

    direction: str
    offset: int
    size: int
    value: int


class Cell:
    """One register of a :class:`RegisterFile`: its value and what an access needs to know.

    A model on a hot path may keep the cell (``registers.cell("INT_STAT")``) and use ``value`` directly.
    """

    __slots__ = (
        "name", "offset", "read_hook", "register", "reserved", "rw", "unmodelled", "value", "w1c", "watch",
        "watch_read", "wc", "wo", "write_hook",
    )  # fmt: skip

    def __init__(self, name: str, offset: int, register: type[Register]) -> None:
        masks = register.MASKS
        self.name, self.offset, self.register = name, offset, register
        self.value = register.RESET
        self.rw = masks["rw"] | masks["inert"] | masks["unmodelled"]
        self.w1c, self.wc, self.wo = masks["w1c"], masks["wc"], masks["wo"]
        self.unmodelled, self.reserved = masks["unmodelled"], register.RESERVED
        self.watch = self.reserved | self.unmodelled  # bits whose touch has not been reported yet
        self.watch_read = bool(register.FIELDS) and all(f.kind == "unmodelled" for f in register.FIELDS)
        self.read_hook: Callable[[], int] | None = None
        self.write_hook: Callable[[int], None] | None = None


class AccessLog:
    """The last accesses, in a bounded ring; decoded only when somebody looks."""

    def __init__(self, describe: Callable[[Access], str], length: int) -> None:
        self._ring: deque[tuple[str, int, int, int]] = deque(maxlen=length)
        self._describe = describe
        self.append = self._ring.append

    def __len__(self) -> int:
        return len(self._ring)

    def __iter__(self) -> Iterator[Access]:
        return (Access(*entry) for entry in tuple(self._ring))

    def lines(self, last: int | None = None) -> list[str]:
        """The ring, or its ``last`` entries, oldest first, one decoded line each."""
        entries = list(self)
        return [
            self._describe(entry) for entry in (entries if last is None else entries[-last or len(entries) :])
        ]

    def clear(self) -> None:
        """Forget everything."""
        self._ring.clear()


class RegisterFile:
    """Registers behind a BAR: bus side (:meth:`read`, :meth:`write`) and model side (the rest).

    :param registers: the declarations; offsets must not collide.
    :param hooks: objects with ``read_NAME`` or ``write_NAME`` methods, see the module.
    :param size: of the BAR in bytes. An offset without a register reads 0, ignores writes and is reported.
    :param log_length: how many accesses :attr:`log` keeps.
    """

    def __init__(
        self, registers: Sequence[type[Register]], *hooks: object, size: int = 0x1000, log_length: int = 4096
    ) -> None:
        self.size = size
        self.registers = tuple(registers)
        self.unmodelled: list[str] = []
        """Touches of what is reserved or not modelled, each once: ``"W CROP bits 31:8 (reserved)"``."""
        self.log = AccessLog(self.describe, log_length)
        self._slots: list[Cell | None] = [None] * (size // 4)
        self._cells: dict[str, Cell] = {}
        self._holes: set[tuple[str, int]] = set()
        for register in registers:
            for name, offset in register.places().items():
                self._place(Cell(name, offset, register))
        for hook in hooks:
            self.bind(hook)

    def _place(self, cell: Cell) -> None:
        first = cell.offset // 4
        taken = self._slots[first : first + cell.register.REPEAT]
        if cell.offset % 4 or len(taken) != cell.register.REPEAT or cell.name in self._cells or any(taken):
            raise TypeError(f"{cell.name} does not fit at {cell.offset:#x}")
        self._cells[cell.name] = cell
        self._slots[first : first + cell.register.REPEAT] = [cell] * cell.register.REPEAT

    def bind(self, hooks: object) -> None:
        """Take the ``read_NAME`` and ``write_NAME`` methods of an object.

        :raise TypeError: when NAME is no register, or has such a method already.
        """
        for attribute in dir(type(hooks)):
            found = _HOOK.match(attribute)
            if found is None:
                continue
            cell = self._cells.get(found[2])
            slot = f"{found[1]}_hook"
            if cell is None or getattr(cell, slot) is not None:
                why = "there is no such register" if cell is None else "it is there already"
                raise TypeError(f"{type(hooks).__name__}.{attribute}: {why}")
            setattr(cell, slot, getattr(hooks, attribute))

    # The bus side.

    def read(self, offset: int, size: int) -> int:
        """A bus read of 1, 2 or 4 aligned bytes.

        :raise AccessError: size, alignment or range.
        """
        lanes = self._lanes(offset, size)
        cell = self._slots[offset >> 2]
        if cell is None:
            value = 0
            self._report_hole("R", offset)
        else:
            if cell.watch_read:
                cell.watch_read = False
                self.unmodelled.append(f"R {cell.name} (unmodelled)")
            value = cell.value if cell.read_hook is None else cell.read_hook()
            value = (value >> ((offset & 3) * 8)) & lanes
        self.log.append(("R", offset, size, value))
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """A bus write of 1, 2 or 4 aligned bytes; ``value`` is cut to ``size``.

        :raise AccessError: size, alignment or range.
        """
        lanes = self._lanes(offset, size)
        value &= lanes
        self.log.append(("W", offset, size, value))
        cell = self._slots[offset >> 2]
        if cell is None:
            self._report_hole("W", offset)
            return
        shift = (offset & 3) * 8
        value <<= shift
        lanes <<= shift
        old = cell.value
        odd = ((value & cell.reserved) | ((value ^ old) & lanes & cell.unmodelled)) & cell.watch
        if odd:
            self._report_bits(cell, odd)
        plain = cell.rw & lanes
        new = ((old & ~plain) | (value & plain)) & ~(value & cell.w1c) & ~(lanes & cell.wc)
        cell.value = new
        if cell.write_hook is not None:
            cell.write_hook(new | (value & cell.wo))

    def _lanes(self, offset: int, size: int) -> int:
        lanes = _LANES.get(size)
        if lanes is None or offset & (size - 1) or not 0 <= offset < self.size:
            raise AccessError(f"no register access has {size} bytes at offset {offset:#x}")
        return lanes

    def _report_hole(self, direction: str, offset: int) -> None:
        place = (direction, offset & ~3)
        if place not in self._holes:
            self._holes.add(place)
            self.unmodelled.append(f"{direction} {place[1]:#05x} (no register)")

    def _report_bits(self, cell: Cell, odd: int) -> None:
        for field in cell.register.FIELDS:
            if odd & field.mask:
                cell.watch &= ~field.mask
                self.unmodelled.append(f"W {cell.name}.{field.name} (unmodelled)")
        for high, low in _runs(odd & cell.reserved):
            which = f"bit {low}" if high == low else f"bits {high}:{low}"
            self.unmodelled.append(f"W {cell.name} {which} (reserved)")
        cell.watch &= ~odd

    # The model side: no hooks, no log.

    def cell(self, name: str) -> Cell:
        """The register itself, for hot paths.

        :raise KeyError: no such register.
        """
        return self._cells[name]

    def get(self, name: str) -> int:
        """The stored value. :raise KeyError: no such register."""
        return self._cells[name].value

    def set(self, name: str, value: int) -> None:
        """Store a value, whatever the bits' access semantics. :raise KeyError: no such register."""
        self._cells[name].value = value & 0xFFFF_FFFF

    def field(self, path: str) -> int:
        """A field's stored value, by ``"REGISTER.FIELD"``. :raise KeyError: no such register or field."""
        cell, field = self._find(path)
        return field.get(cell.value)

    def set_field(self, path: str, value: int) -> None:
        """Store a field's value, by ``"REGISTER.FIELD"``. :raise KeyError: no such register or field."""
        cell, field = self._find(path)
        cell.value = field.put(cell.value, value)

    def _find(self, path: str) -> tuple[Cell, Field]:
        name, _, part = path.partition(".")
        cell = self._cells[name]
        for field in cell.register.FIELDS:
            if field.name == part:
                return cell, field
        raise KeyError(path)

    def peek(self, name: str) -> int:
        """What a bus read would give, without logging it. :raise KeyError: no such register."""
        cell = self._cells[name]
        return cell.value if cell.read_hook is None else cell.read_hook()

    def dump(self) -> dict[str, int]:
        """Every register as a bus read would give it, in the order of offsets."""
        return {
            cell.name: self.peek(cell.name) for cell in sorted(self._cells.values(), key=lambda c: c.offset)
        }

    def reset(self) -> None:
        """Reset values everywhere; log and reports stay, hooks are not called."""
        for cell in self._cells.values():
            cell.value = cell.register.RESET

    def reset_block(self, block: str) -> None:
        """Reset values in one block. :raise KeyError: no register belongs to it."""
        cells = [cell for cell in self._cells.values() if block == cell.register.BLOCK]
        if not cells:
            raise KeyError(block)
        for cell in cells:
            cell.value = cell.register.RESET

    def describe(self, access: Access) -> str:
        """One access in words: ``"R INT_STAT 0x10000800 RISCS=0x1 RISCI"``."""
        cell = self._slots[access.offset >> 2]
        if cell is None:
            return f"{access.direction} {access.offset:#05x} {access.value:#x}"
        shift = (access.offset & 3) * 8
        lane = f"[{shift + access.size * 8 - 1}:{shift}]" if access.size < 4 else ""
        index = (access.offset - cell.offset) >> 2
        which = f"{cell.name}[{index}]" if index else cell.name
        words = cell.register.decode(access.value << shift)
        return f"{access.direction} {which}{lane} {access.value:#0{access.size * 2 + 2}x} {words}".rstrip()


def _runs(mask: int) -> Iterator[tuple[int, int]]:
    """The runs of set bits in a mask, each as (highest, lowest)."""
    low = 0
    while mask >> low:
        if not mask >> low & 1:
            low += 1
            continue
        high = low
        while mask >> (high + 1) & 1:
            high += 1
        yield high, low
        low = high + 1
