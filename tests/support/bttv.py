# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bttv driver does with the card, in the shape that was recorded from a stock guest.

Instruction words below are those seen on the bus: SYNC FM1 80000006, WRITE SOL|EOL 1c000600, a line split at
a page 180003f0 and 14000210, a bottom field's JUMP 71e10000, main loop SYNCs 80008004 and 8000800c.
"""

from __future__ import annotations

from collections.abc import Sequence

from support.rootcomplex import PAGE, RootComplex

from vcapdev.bt878.chip import Bt878
from vcapdev.bt878.registers import IntStat

WRITE, SKIP, WRITEC, JUMP, SYNC = 0x1000_0000, 0x2000_0000, 0x5000_0000, 0x7000_0000, 0x8000_0000
WRITE123, SKIP123, WRITE1S23 = 0x9000_0000, 0xA000_0000, 0xB000_0000
SOL, EOL, IRQ, RESYNC = 1 << 27, 1 << 26, 1 << 24, 1 << 15
FM1, FM3, VRE, VRO = 0x6, 0xE, 0x4, 0xC

INT_STAT, INT_MASK, GPIO_DMA_CTL, RISC_STRT_ADD, RISC_COUNT = 0x100, 0x104, 0x10C, 0x114, 0x120
COLOR_FMT, COLOR_CTL, CAP_CTL = 0x0D4, 0x0D8, 0x0DC
VBI_PACK_SIZE, VBI_PACK_DEL = 0x0E0, 0x0E4
MASK = IntStat.RISCI.mask | IntStat.VSYNC.mask | IntStat.OCERR.mask | IntStat.SCERR.mask


def irq_flags(flags: int) -> int:
    """What bttv adds to a JUMP that raises an interrupt: set these status bits, reset the others."""
    return IRQ | flags << 16 | (~flags & 15) << 20 if flags else 0


def packed_writes(pages: Sequence[int], offset: int, line_bytes: int, padding: int, lines: int) -> list[int]:
    """The WRITEs of one field into a buffer of scattered pages."""
    words: list[int] = []
    for _ in range(lines):
        left = line_bytes
        while left:
            size = min(left, PAGE - offset % PAGE)
            flags = (SOL if left == line_bytes else 0) | (EOL if left == size else 0)
            words += [WRITE | flags | size, pages[offset // PAGE] + offset % PAGE]
            offset, left = offset + size, left - size
        offset += padding
    return words


class Planar:
    """Offsets that :func:`planar_writes` advances."""

    def __init__(self, y: int, u: int, v: int) -> None:
        self.y, self.u, self.v = y, u, v


def planar_writes(
    pages: Sequence[int],
    at: Planar,
    width: int,
    lines: int,
    shifts: tuple[int, int],
    padding: bool,
    top: bool,
) -> list[int]:
    """The WRITE123 and WRITE1S23 of one field."""
    across, down = shifts
    words: list[int] = []
    for line in range(lines):
        chroma = line % (1 << down) == (0 if top else (1 << down) // 2)
        left = width
        while left:
            size = min([left, PAGE - at.y % PAGE])
            if chroma:
                size = min([size, *((PAGE - part % PAGE) << across for part in (at.u, at.v))])
            flags = (SOL if left == width else 0) | (EOL if left == size else 0)
            small = size >> across
            words += [(WRITE123 if chroma else WRITE1S23) | flags | size, small << 16 | small]
            words.append(pages[at.y // PAGE] + at.y % PAGE)
            if chroma:
                words += [pages[part // PAGE] + part % PAGE for part in (at.u, at.v)]
                at.u, at.v = at.u + small, at.v + small
            at.y, left = at.y + size, left - size
        at.y += width * padding
        if chroma:
            at.u, at.v = at.u + (width >> across) * padding, at.v + (width >> across) * padding
    return words


class Driver:
    """The main loop of eight slots, and programs hooked into it."""

    O_VBI, O_FIELD, E_VBI, E_FIELD, LOOP = 4, 6, 10, 12, 14

    def __init__(self, rc: RootComplex, chip: Bt878) -> None:
        self.rc, self.chip = rc, chip
        self.main = rc.allocate(PAGE)
        slots = [self.main + 4 * slot for slot in (4, 6, 8, 12, 14, 0)]
        words = [SYNC | RESYNC | VRE, 0, JUMP, slots[0], JUMP, slots[1], JUMP, slots[2]]
        words += [SYNC | RESYNC | VRO, 0, JUMP, slots[3], JUMP, slots[4], JUMP, slots[5]]
        rc.put(self.main, words)

    def geometry(self, width: int, height: int, interlaced: bool = True, sheight: int = 576) -> None:
        """The scaling registers as bttv_apply_geo leaves them."""
        step = (sheight >> (not interlaced)) * 512 // height - 512
        vscale, vdelay = (0x10000 - step) & 0x1FFF, 0x20 if sheight == 576 else 0x1A
        crop = width >> 8 & 3 | sheight >> 4 & 0x30 | vdelay >> 2 & 0xC0
        for base in (0, 0x80):
            for offset, value in (
                (0x4C, vscale >> 8 | 0x20 * interlaced),
                (0x50, vscale & 0xFF),
                (0x1C, width & 0xFF),
                (0x14, sheight & 0xFF),
                (0x10, vdelay),
                (0x0C, crop),
            ):
                self.chip.bar_write(base + offset, 4, value)

    def format(self, code: int, swap: int = 0) -> None:
        """The same format for both fields."""
        self.chip.bar_write(COLOR_FMT, 4, code << 4 | code)
        self.chip.bar_write(COLOR_CTL, 4, 0x10 | swap)

    def hook(self, slot: int, code: Sequence[int], flags: int = 0, mode: int = FM1) -> int:
        """A buffer's program, hooked into a slot; returns its address."""
        back = self.main + 4 * (slot + 2)
        address = self.rc.program(SYNC | mode, 0, *code, JUMP | irq_flags(flags), back)
        self.rc.put(self.main + 4 * slot + 4, [address])
        return address

    def start(self, capture: int = 3, mask: int = MASK) -> None:
        """Capture switches, interrupt mask, program address, DMA."""
        self.chip.bar_write(INT_STAT, 4, 0xFFFFF)
        self.chip.bar_write(INT_MASK, 4, mask)
        self.chip.bar_write(CAP_CTL, 4, capture)
        self.chip.bar_write(RISC_STRT_ADD, 4, self.main)
        self.chip.bar_write(GPIO_DMA_CTL, 4, 0xC0AF)

    def stop(self) -> None:
        """Both DMA switches off."""
        self.chip.bar_write(GPIO_DMA_CTL, 4, 0xC0AC)

    def handle(self) -> int:
        """The interrupt handler's accesses; returns all causes it saw."""
        seen: int = 0
        for _ in range(5):
            status = self.chip.bar_read(INT_STAT, 4)
            if not status & self.chip.bar_read(INT_MASK, 4):
                return seen
            seen |= status
            self.chip.bar_write(INT_STAT, 4, status)
        raise AssertionError("the interrupt does not go quiet")

    def frame(self) -> None:
        """One frame in step mode, both fields handled."""
        for _ in range(2):
            self.chip.clock.step()
            self.handle()
