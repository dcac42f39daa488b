# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what each RISC instruction does, and each status and error that it can end in."""

from __future__ import annotations

import pytest
from support.bttv import (
    EOL,
    FM3,
    GPIO_DMA_CTL,
    INT_STAT,
    IRQ,
    JUMP,
    RESYNC,
    RISC_COUNT,
    SKIP,
    SKIP123,
    SOL,
    SYNC,
    VRE,
    VRO,
    WRITE,
    WRITE1S23,
    WRITE123,
    WRITEC,
)
from support.small import LINES, PLANAR, WIDTH, Small

from vcapdev.bt878.registers import IntStat
from vcapdev.bt878.risc import disassemble

LINE = SOL | EOL | WIDTH
STOP = SYNC | RESYNC | VRO  # where the programs below end up: waiting for the end of the odd field


def lines(card: Small, first: int = 0, count: int = LINES) -> list[int]:
    """A WRITE for each line, to consecutive places."""
    return [word for n in range(first, first + count) for word in (WRITE | LINE, card.target + n * WIDTH)]


@pytest.fixture(params=["fast", "interpreted"])
def card(request: pytest.FixtureRequest) -> Small:
    """Every rule holds on both paths."""
    small = Small()
    small.chip.engine.fast = request.param == "fast"
    return small


def test_write(card: Small) -> None:
    """Bytes of a line go to the address, whole or in unaligned pieces."""
    card.start(
        *lines(card, 0, 11),
        WRITE | SOL | 7,
        card.target + 0x1001,
        WRITE | EOL | 57,
        card.target + 0x2003,
        STOP,
    )
    card.field()
    assert card.memory(0, 11 * WIDTH) == b"".join(card.line(n) for n in range(11))
    assert card.memory(0x1001, 7) + card.memory(0x2003, 57) == card.line(11)
    assert card.untouched(0x1000, 1)
    assert card.untouched(0x1008, 8)
    assert card.latched() == set()


def test_writec_continues_and_skip_moves_the_address(card: Small) -> None:
    """WRITEC has no address of its own: it goes on where the last one ended, skipped bytes counted."""
    card.start(
        WRITE | SOL | 16, card.target, SKIP | 8, WRITEC | EOL | 40, SKIP | LINE, *lines(card, 2, 10), STOP
    )
    card.field()
    line = card.line(0)
    assert card.memory(0, 16) == line[:16]
    assert card.untouched(16, 8)
    assert card.memory(24, 40) == line[24:]
    assert card.untouched(WIDTH, WIDTH)  # the second line was skipped
    assert card.memory(2 * WIDTH, WIDTH) == card.line(2)
    assert card.latched() == set()


def test_byte_enables(card: Small) -> None:
    """A disabled lane is that of the bus: the low two bits of each byte's address; 1 disables."""
    card.start(WRITE | LINE | 0b0110 << 12, card.target + 1, *lines(card, 2, 11), STOP)
    card.field()
    for at, byte in enumerate(card.line(0)):
        assert card.memory(at + 1, 1)[0] == (0xA5 if (at + 1) % 4 in (1, 2) else byte)


def test_planar_instructions() -> None:
    """WRITE123 writes three planes, WRITE1S23 the first, SKIP123 none; each takes its bytes from all."""
    card = Small(PLANAR)
    chroma = 16 << 16 | 16
    planes = (card.target, card.target + 0x1000, card.target + 0x2000)
    code = [WRITE123 | SOL | EOL | 32, chroma, *planes, WRITE1S23 | SOL | EOL | 32, chroma, card.target + 32]
    code += [SKIP123 | SOL | EOL | 32, chroma, WRITE123 | SOL | EOL | 32, chroma]
    code += [card.target + 64, card.target + 0x1010, card.target + 0x2010]
    address = card.rc.program(SYNC | FM3, 0, *code, STOP)
    card.start_at(address)
    card.field()
    assert card.memory(0, 96) == card.line(0) + card.line(1) + card.line(3)
    assert card.memory(0x1000, 32) == card.line(0, 1) + card.line(3, 1)
    assert card.memory(0x2000, 32) == card.line(0, 2) + card.line(3, 2)
    assert card.latched() == set()


def test_jump_raises_and_sets_status(card: Small) -> None:
    """The end of bttv's bottom field: interrupt, set bit 1, reset the others, at the very end."""
    end = card.rc.program(STOP, 0)
    card.start(*lines(card), JUMP | 0x01E10000, end)
    card.chip.engine.riscs = 0xF
    card.field()
    status = card.chip.bar_read(INT_STAT, 4)
    assert IntStat.RISCS.get(status) == 1
    assert status & IntStat.RISCI.mask
    assert status & IntStat.RISC_EN.mask
    assert card.chip.bar_read(RISC_COUNT, 4) == end


def test_status_is_live_and_not_latched(card: Small) -> None:
    """Bits 31:28 follow the program; writing ones to them changes nothing."""
    card.start(*lines(card), JUMP | 0x20000, card.rc.program(STOP, 0))
    card.field()
    card.chip.bar_write(INT_STAT, 4, 0xFFFF_FFFF)
    assert IntStat.RISCS.get(card.chip.bar_read(INT_STAT, 4)) == 2
    assert not card.latched()


@pytest.mark.parametrize(("resync", "said"), [(RESYNC, set()), (0, {"FDSR"})])
def test_sync_discards(card: Small, resync: int, said: set[str]) -> None:
    """What SYNC throws away on its way raises FDSR unless RESYNC is set; the program then waits there."""
    address = card.start(*lines(card, 0, 4), SYNC | VRO | resync, 0, SYNC | RESYNC | VRE, 0)
    card.field()
    assert card.latched() == said
    assert card.chip.bar_read(RISC_COUNT, 4) == address + 8 + 4 * 8
    card.field()
    assert card.chip.bar_read(RISC_COUNT, 4) == address + 8 + 4 * 8 + 8


@pytest.mark.parametrize("bad", [0x0, 0x3000_0000, 0xF000_0000, SYNC | 0x3, SYNC | 0xF])
def test_illegal_instructions(card: Small, bad: int) -> None:
    """A reserved opcode, or a SYNC for no status that there is: OCERR; nothing runs until DMA restarts."""
    address = card.start(*lines(card, 0, 4), bad, 0, *lines(card, 4, 8))
    card.field()
    assert card.latched() == {"OCERR"}
    assert card.chip.bar_read(RISC_COUNT, 4) == address + 8 + 4 * 8
    assert not card.chip.bar_read(INT_STAT, 4) & IntStat.RISC_EN.mask
    assert not card.chip.dma_running
    assert card.memory(0, 4 * WIDTH) == b"".join(card.line(n) for n in range(4))
    assert card.untouched(4 * WIDTH, WIDTH)
    card.chip.bar_write(GPIO_DMA_CTL, 4, 0)
    card.start(*lines(card), STOP)
    assert card.chip.dma_running


def test_line_shorter_than_the_program(card: Small) -> None:
    """Memory behind the line's end keeps its bytes, its other instructions are aborted, the next fits."""
    long = [
        WRITE | SOL | 80,
        card.target,
        WRITE | 8,
        card.target + 0x1000,
        WRITE | EOL | IRQ | 8,
        card.target + 0x1100,
    ]
    card.start(*long, *lines(card, 2, 11), STOP)
    card.field()
    assert card.memory(0, WIDTH) == card.line(0)
    assert card.untouched(WIDTH, 16)
    assert card.untouched(0x1000, 8)
    assert card.untouched(0x1100, 8)
    assert card.memory(2 * WIDTH, WIDTH) == card.line(1)
    assert card.latched() == {"FDSR"}


def test_line_longer_than_the_program(card: Small) -> None:
    """The rest of the line is dropped; the next instruction gets the next line."""
    card.start(WRITE | SOL | EOL | 40, card.target, *lines(card, 1, 11), STOP)
    card.field()
    assert card.memory(0, 40) == card.line(0)[:40]
    assert card.untouched(40, 24)
    assert card.memory(WIDTH, WIDTH) == card.line(1)
    assert card.latched() == {"FDSR"}


def test_fewer_lines_than_the_program(card: Small) -> None:
    """At an early VRO instructions are aborted, JUMPs executed, up to its SYNC: bttv's frame completes."""
    after = card.rc.program(SYNC | VRE, 0, SYNC | VRO | RESYNC, 0, SYNC | VRE | RESYNC, 0)
    card.start(*lines(card, 0, LINES + 3), JUMP | IRQ | 0x10000, after)
    card.field()
    assert "RISCI" not in card.latched()
    card.field()  # the odd field ends
    assert card.latched() == {"FDSR", "RISCI"}
    assert card.chip.bar_read(RISC_COUNT, 4) == after + 16
    assert card.untouched(LINES * WIDTH, 3 * WIDTH)


def test_more_lines_than_the_program(card: Small) -> None:
    """The program's JUMP comes next, the main loop's SYNC drops the rest: no error."""
    card.start(*lines(card, 0, 3), JUMP, card.rc.program(STOP, 0))
    card.field()
    assert card.latched() == set()
    assert card.memory(2 * WIDTH, WIDTH) == card.line(2)
    assert card.untouched(3 * WIDTH, WIDTH)


def test_sync_for_a_mode_that_does_not_come(card: Small) -> None:
    """Waiting for planar data while packed fields pass is SCERR, and still waiting."""
    address = card.start_at(card.rc.program(SYNC | FM3 | RESYNC, 0, *lines(card)))
    card.field(2)
    assert card.latched() == {"SCERR"}
    assert card.chip.bar_read(RISC_COUNT, 4) == address
    assert card.chip.dma_running


@pytest.mark.parametrize(("operand", "line", "used"), [(0x2, 0, 4), (0x0, 0, 8), (0x1, 0, 64)])
def test_sync_inside_a_line(card: Small, operand: int, line: int, used: int) -> None:
    """SOL, pixels and EOL are dwords of the FIFO too: SYNC takes the first that has the status."""
    rest = [WRITE | EOL | (64 - used), card.target] if used < 64 else lines(card, 0, 1)
    card.start(SYNC | RESYNC | operand, 0, *rest, STOP)
    card.field()
    want = card.line(line)[used:] if used < 64 else card.line(line + 1)
    assert card.memory(0, len(want)) == want


def test_parity_error_in_a_fetch(card: Small) -> None:
    """RIPERR resets RISC_ENABLE by itself; every parity error is a PPERR too."""
    address = card.start(*lines(card), STOP)
    card.chip.inject_parity_error()
    card.field()
    assert card.latched() == {"RIPERR", "PPERR"}
    assert card.chip.bar_read(GPIO_DMA_CTL, 4) == 1
    assert card.chip.bar_read(RISC_COUNT, 4) == address
    assert card.untouched(0, LINES * WIDTH)


def test_program_in_unmapped_memory(card: Small) -> None:
    """Nobody answers the fetch: PABORT, the engine stops, and observers hear of it."""
    card.start_at(0x4000_0000)
    assert card.latched() == {"PABORT"}
    assert not card.chip.dma_running
    assert card.chip.bar_read(RISC_COUNT, 4) == 0x4000_0000
    assert [(addr, write) for addr, _, write, _ in card.rc.recorder.aborts] == [(0x4000_0000, False)]


def test_write_to_unmapped_memory(card: Small) -> None:
    """Lines before it are in memory, those behind it are not executed."""
    address = card.start(*lines(card, 0, 3), WRITE | LINE, 0x4000_0000, *lines(card, 4, 8), STOP)
    card.field()
    assert card.latched() == {"PABORT"}
    assert card.memory(2 * WIDTH, WIDTH) == card.line(2)
    assert card.untouched(3 * WIDTH, 9 * WIDTH)
    assert card.chip.bar_read(RISC_COUNT, 4) == address + 8 + 3 * 8
    assert card.chip.stats.aborted_fields == 1


@pytest.mark.parametrize("flags", [0, IRQ])
def test_endless_jumps(card: Small, flags: int) -> None:
    """A JUMP to itself hangs the program, never the process; DMA can be stopped and started again."""
    address = card.rc.program(JUMP, 0)
    card.rc.put(address, [JUMP | flags, address])
    card.start_at(address)
    card.field(3)
    assert card.chip.stats.runaways >= 3
    assert card.chip.bar_read(RISC_COUNT, 4) == address
    assert card.chip.bar_read(INT_STAT, 4) & IntStat.RISC_EN.mask
    card.chip.bar_write(GPIO_DMA_CTL, 4, 0)
    card.start(*lines(card), STOP)
    card.field(2)  # even, odd
    assert card.memory(0, WIDTH) == card.line(0, frame=3)


def test_crumbs(card: Small) -> None:
    """A program that takes nothing is given up for this field, like an overrun, and counted."""
    loop = card.rc.allocate(4096)
    card.rc.put(loop, [WRITE, card.target, JUMP, loop])
    card.start_at(card.rc.program(SYNC | 0x6, 0, WRITE | SOL | 1, card.target, JUMP, loop))
    card.field(2)
    assert card.chip.stats.runaways
    assert "FBUS" in card.latched()
    assert card.chip.stats.lost_fields == 1


def test_program_that_overwrites_itself(card: Small) -> None:
    """Every instruction is what is in memory when its turn comes: the picture is no program."""
    address = card.rc.allocate(4096)
    target = address + 8 + 4 * 8
    card.rc.put(
        address, [SYNC | 0x6, 0, *lines(card, 0, 3), WRITE | LINE, target & ~63, *lines(card, 4, 8), STOP]
    )
    card.start_at(address)
    card.field()
    assert card.untouched(11 * WIDTH, WIDTH)
    assert card.rc.memory.at(target & ~63, WIDTH).tobytes() == card.line(3)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([0x1800_03F0, 0x0A3C_1010], "WRITE SOL 1008 bytes to 0x0a3c1010"),
        ([0x71E1_0000, 0x1000], "JUMP IRQ reset=0xe set=0x1 to 0x00001000"),
        ([0x8000_8004, 0], "SYNC RESYNC VRE"),
        ([0x2C00_0600], "SKIP SOL EOL 1536 bytes"),
        (
            [0x9C00_0020, 0x0010_0010, 1, 2, 3],
            "WRITE123 SOL EOL 32 bytes to 0x00000001, 16 to 0x00000002, 16 to 0x00000003",
        ),
        ([0x3000_0000], "illegal instruction 0x30000000"),
    ],
)
def test_disassembly(words: list[int], text: str) -> None:
    """Evidence that a driver's author reads."""
    assert disassemble(words) == text
