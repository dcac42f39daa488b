# SPDX-License-Identifier: GPL-2.0-or-later
"""How registers are declared: fields, registers, and how sure their source is (see :mod:`vcapdev.regs`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

SOURCES: Mapping[str, str] = {
    "K": "read in kernel source",
    "H": "dump of real hardware",
    "D": "read in a data sheet",
    "B": "read in FreeBSD's driver",
    "I": "inferred from how a driver must work",
    "M": "from memory of a data sheet; probable",
}
"""How sure a fact is, best first by and large; a declaration's ``sure`` is a string of these letters."""


class Field:
    """Bits ``high`` to ``low`` of a register, and what they do.

    Without a keyword the bits are plain read-write storage that the model acts on.

    :param ro: writes are ignored; the model alone sets the bits.
    :param live: as ``ro``, and the bits follow something that moves by itself.
    :param w1c: latched by the model; a 1 written clears.
    :param wc: latched by the model; any write clears.
    :param wo: reads as 0; a write acts through the register's hook.
    :param inert: stored; steers electronics that a digital model does not have (gain, filters, clamping).
    :param unmodelled: stored, but the model does not do what the chip would: changing it is reported.
    :param values: names of values, for decoding.
    :param sure: letters of :data:`SOURCES`; by default the register's.
    """

    KINDS = ("ro", "live", "w1c", "wc", "wo", "inert", "unmodelled")
    name = "?"

    def __init__(
        self,
        high: int,
        low: int | None = None,
        *,
        ro: bool = False,
        live: bool = False,
        w1c: bool = False,
        wc: bool = False,
        wo: bool = False,
        inert: bool = False,
        unmodelled: bool = False,
        values: Mapping[int, str] | None = None,
        sure: str = "",
        doc: str = "",
    ) -> None:
        flags = (ro, live, w1c, wc, wo, inert, unmodelled)
        kinds = [kind for kind, flag in zip(self.KINDS, flags, strict=True) if flag]
        if len(kinds) > 1:
            raise TypeError(f"a field is one of {', '.join(kinds)}, not all")
        self.high = high
        self.low = high if low is None else low
        if not 31 >= self.high >= self.low >= 0:
            raise TypeError(f"bits {high}:{low} do not fit a register")
        self.kind = kinds[0] if kinds else "rw"
        self.values = dict(values or {})
        self.sure = sure
        self.doc = doc
        self.mask = ((2 << (self.high - self.low)) - 1) << self.low

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def get(self, value: int) -> int:
        """The field's part of a register value."""
        return (value & self.mask) >> self.low

    def put(self, value: int, part: int) -> int:
        """A register value with the field's bits replaced by ``part`` (cut to the field's width)."""
        return (value & ~self.mask) | ((part << self.low) & self.mask)

    @property
    def bits(self) -> str:
        """``"7"`` or ``"7:4"``."""
        return f"{self.high}" if self.high == self.low else f"{self.high}:{self.low}"

    def decode(self, value: int) -> str:
        """``"NAME"`` for a bit that is set, ``"NAME=5"`` for a value, ``""`` for zero without a name."""
        part = self.get(value)
        if part in self.values:
            return f"{self.name}={self.values[part]}"
        if part == 0:
            return ""
        return self.name if self.high == self.low else f"{self.name}={part:#x}"


class Register:
    """Base of all declarations; a subclass that has ``OFFSET`` or ``COPIES`` is a register.

    The register's name is the class's in upper case with underscores (``GpioDmaCtl`` is GPIO_DMA_CTL). Bits
    without a field are reserved: they read 0, and writing a 1 to one is reported.
    """

    WIDTH: ClassVar[int] = 32
    OFFSET: ClassVar[int] = -1
    COPIES: ClassVar[Mapping[str, int]] = {}
    """Name prefix and offset of each copy, instead of one ``OFFSET``."""
    REPEAT: ClassVar[int] = 1
    """Consecutive dwords at which the register answers."""
    RESET: ClassVar[int] = 0
    BLOCK: ClassVar[str] = ""
    """What :meth:`RegisterFile.reset_block` resets together."""
    SURE: ClassVar[str] = "M"
    RESET_SURE: ClassVar[str] = "M"

    NAME: ClassVar[str] = ""
    FIELDS: ClassVar[tuple[Field, ...]] = ()
    MASKS: ClassVar[Mapping[str, int]] = {}
    RESERVED: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.NAME = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).upper()
        cls.FIELDS = tuple(sorted((v for v in vars(cls).values() if isinstance(v, Field)), key=_from_the_top))
        cls.MASKS = _masks(cls.NAME, cls.FIELDS)
        known = sum(cls.MASKS.values())
        if (known | cls.RESET) >> cls.WIDTH or cls.RESET & ~known:
            raise TypeError(f"{cls.NAME}: a field or the reset value {cls.RESET:#x} is outside the register")
        cls.RESERVED = 0xFFFF_FFFF & ~known
        bad = set("".join((cls.SURE, cls.RESET_SURE, *(field.sure for field in cls.FIELDS)))) - set(SOURCES)
        if bad:
            raise TypeError(f"{cls.NAME}: no such source: {', '.join(sorted(bad))}")

    @classmethod
    def places(cls) -> dict[str, int]:
        """Name and first offset of the register or of each of its copies."""
        if cls.COPIES:
            return {prefix + cls.NAME: offset for prefix, offset in cls.COPIES.items()}
        return {cls.NAME: cls.OFFSET}

    @classmethod
    def decode(cls, value: int) -> str:
        """A value in words: ``"RISCS=0x1 RISCI VSYNC"``; reserved bits that are set come last, in hex."""
        words = [text for field in cls.FIELDS if (text := field.decode(value))]
        rest = value & cls.RESERVED
        return " ".join([*words, f"reserved={rest:#x}"] if rest else words)


def _from_the_top(field: Field) -> int:
    return -field.high


def _masks(name: str, fields: Sequence[Field]) -> dict[str, int]:
    masks = dict.fromkeys(("rw", *Field.KINDS), 0)
    for field in fields:
        if sum(masks.values()) & field.mask:
            raise TypeError(f"{name}.{field.name} overlaps another field")
        masks[field.kind] |= field.mask
    return masks


class Register8(Register):
    """Eight bits in the lowest byte of a dword; the other bytes read 0."""

    WIDTH = 8


class Register24(Register):
    """Twenty-four bits in a dword."""

    WIDTH = 24


class Register32(Register):
    """A whole dword."""

    WIDTH = 32
