# SPDX-License-Identifier: GPL-2.0-or-later
"""A card with a small picture, for programs written by hand: twelve lines of 64 bytes a field."""

from __future__ import annotations

from support.bttv import CAP_CTL, FM1, GPIO_DMA_CTL, INT_MASK, RISC_STRT_ADD, SYNC, Driver
from support.rootcomplex import POISON, RootComplex

from vcapdev.bt878.pattern import KIND_VIDEO, PictureKey, Shot, picture
from vcapdev.bt878.registers import IntStat

LINES, WIDTH = 12, 64
ODD, EVEN = 2, 1  # bits of CAP_CTL
YUY2, PLANAR = 4, 8


class Small:
    """A card in mode ``step`` and memory for it to write to.

    :param code: of COLOR_FMT: YUY2, or 4:2:2 planar with 32 + 16 + 16 bytes a line.
    """

    def __init__(self, code: int = YUY2, norm: str = "PAL", capture: int = ODD) -> None:
        self.rc = RootComplex(1 << 20)
        self.chip = self.rc.chip(norm)
        self.code = code
        driver = Driver(self.rc, self.chip)
        driver.geometry(32, 2 * LINES, sheight=2 * LINES)
        driver.format(code)
        self.target = self.rc.allocate(1 << 17)
        self.chip.bar_write(CAP_CTL, 4, capture)

    def start(self, *words: int, mask: int = 0) -> int:
        """A program behind a SYNC FM1, started; returns its address."""
        return self.start_at(self.rc.program(SYNC | FM1, 0, *words), mask)

    def start_at(self, address: int, mask: int = 0) -> int:
        """DMA on, from an address."""
        self.chip.bar_write(INT_MASK, 4, mask)
        self.chip.bar_write(RISC_STRT_ADD, 4, address)
        self.chip.bar_write(GPIO_DMA_CTL, 4, 3)
        return address

    def field(self, count: int = 1) -> None:
        """Let fields pass; the first one is odd."""
        self.chip.clock.step(count)

    def memory(self, offset: int, length: int) -> bytes:
        """What is in the target now."""
        return self.rc.memory.at(self.target + offset, length).tobytes()

    def line(self, number: int, plane: int = 0, frame: int = 1, field: int = 0) -> bytes:
        """What the card sends in a line."""
        key = PictureKey(KIND_VIDEO, field, self.chip.decoder.norm.height, LINES, 32, self.code)
        sent: bytes = Shot(picture(key), frame).plane(plane)[number].tobytes()
        return sent

    def untouched(self, offset: int, length: int) -> bool:
        """Whether nothing was written there."""
        return self.memory(offset, length) == bytes([POISON]) * length

    def latched(self) -> set[str]:
        """Names of the interrupt bits that are set, those of every field left out."""
        value = self.chip.registers.get("INT_STAT")
        names = (field.name for field in IntStat.FIELDS if field.kind == "w1c" and value & field.mask)
        return set(names) - {"VSYNC", "HSYNC"}
