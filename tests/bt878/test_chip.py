# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the interrupt line's rules, the announcements to observers, and what evidence says of a write."""

from __future__ import annotations

from support.bttv import (
    EOL,
    GPIO_DMA_CTL,
    INT_MASK,
    INT_STAT,
    IRQ,
    JUMP,
    RESYNC,
    SOL,
    SYNC,
    VRO,
    WRITE,
    Driver,
)
from support.rootcomplex import RootComplex
from support.small import LINES, WIDTH, Small

from vcapdev.bt878 import programs
from vcapdev.bt878.registers import IntStat
from vcapdev.dma import Batch, Origin

LINE = SOL | EOL | WIDTH
STOP = SYNC | RESYNC | VRO
VSYNC, RISCI = IntStat.VSYNC.mask, IntStat.RISCI.mask


def lines(card: Small, count: int = LINES, base: int = 0) -> list[int]:
    return [word for n in range(count) for word in (WRITE | LINE, card.target + base + n * WIDTH)]


def test_status_is_set_whatever_the_mask() -> None:
    """Bits latch while masked; unmasking a set one raises the line at once, masking lowers it."""
    card = Small()
    card.field()
    assert card.chip.bar_read(INT_STAT, 4) & VSYNC
    assert card.rc.levels == []
    card.chip.bar_write(INT_MASK, 4, VSYNC)
    card.chip.bar_write(INT_MASK, 4, 0)
    assert card.rc.levels == [True, False]


def test_the_line_follows_status_and_mask() -> None:
    """Writing ones clears; the line falls with the last unmasked bit and rises again with the next event."""
    card = Small()
    card.chip.bar_write(INT_MASK, 4, VSYNC)
    card.field()
    assert card.rc.levels == [True]
    card.chip.bar_write(INT_STAT, 4, RISCI)
    assert card.rc.levels == [True]
    card.chip.bar_write(INT_STAT, 4, VSYNC)
    assert card.rc.levels == [True, False]
    card.chip.bar_read(INT_STAT, 4)
    card.field()
    assert card.rc.levels == [True, False, True]
    assert card.chip.stats.interrupts == 2


def test_a_field_s_causes_come_together() -> None:
    """VSYNC and the interrupt of lines that are moved at once need one run of the handler, not two."""
    card = Small()
    after = card.rc.program(STOP, 0)
    card.start(*lines(card), JUMP | IRQ | 0x10000, after, mask=VSYNC | RISCI)
    seen: list[bool] = []
    card.rc.on_drain.append(lambda: seen.append(bool(card.rc.levels)))
    card.field()
    assert seen == [False]
    assert card.rc.levels == [True]
    assert card.chip.bar_read(INT_STAT, 4) & (VSYNC | RISCI) == VSYNC | RISCI


def test_bytes_are_in_memory_before_the_interrupt() -> None:
    """The driver gives the buffer away in its handler."""
    card = Small()
    found: list[bytes] = []
    card.chip.clock.expect_handler = lambda: found.append(card.memory(11 * WIDTH, WIDTH))  # type: ignore[method-assign]
    card.start(*lines(card), JUMP | IRQ | 0x10000, card.rc.program(STOP, 0), mask=RISCI)
    card.field()
    assert found == [card.line(11)]


def test_programs_are_announced_once() -> None:
    """And again when their bytes change, after the old id is gone; ranges cover all writes."""
    card = Small()
    loop = card.rc.allocate(4096)
    card.rc.put(loop, [SYNC | RESYNC | 0x6, 0, *lines(card), STOP, 0, JUMP, loop])
    card.start_at(loop)
    card.field(5)
    recorder = card.rc.recorder
    assert recorder.calls.count("program") == 1
    (first,) = recorder.programs.values()
    assert first.address == loop + 8
    assert first.ranges.tolist() == [[card.target + n * WIDTH, WIDTH] for n in range(LINES)]
    assert {batch.program for batch in recorder.batches} == {first.id}
    assert recorder.batches[0] is recorder.batches[-1]  # decoded and translated once
    card.rc.put(loop + 8 + 4, [card.target + 0x5000])
    card.field(2)
    assert recorder.gone_ids == [first.id]
    assert recorder.calls.index("gone") < len(recorder.calls) - recorder.calls[::-1].index("program")
    assert len(recorder.programs) == 2


def test_the_cache_of_programs_is_bounded() -> None:
    """A driver that builds a new program for every buffer costs no more memory than the cache."""
    forgotten: list[int] = []
    cache = programs.TextCache(lambda text: forgotten.append(text.id))
    code = WRITE.to_bytes(4, "little") + bytes(4)
    for address in range(0, 8 * 1000, 8):
        cache.add(address, *_scanned(code))
    assert len(forgotten) == 1000 - programs.MAX_CACHED_TEXTS
    huge = code * 8192
    for address in range(1 << 20, 1 << 21, 1 << 16):
        cache.add(address, *_scanned(huge))
    kept = [cache.get(address) for address in range(1 << 20, 1 << 21, 1 << 16)]
    assert sum(text.shape.pieces for text in kept if text is not None) <= programs.MAX_CACHED_PIECES


def test_a_program_that_comes_again_is_the_same() -> None:
    """Buffers go round: what was found out for a program is kept once it has proved to come back."""
    forgotten: list[int] = []
    cache = programs.TextCache(lambda text: forgotten.append(text.id))
    codes = [WRITE.to_bytes(4, "little") + target.to_bytes(4, "little") for target in (64, 128)]
    one, other = (cache.add(0, *_scanned(code)) for code in codes)
    one.cache["found"] = other.cache["found"] = 1
    assert cache.add(0, *_scanned(codes[0])) is one
    assert (one.again, other.again) == (True, False)
    assert not other.cache, "it may never come back"
    one.cache["found"] = 1
    assert cache.add(0, *_scanned(codes[1])) is other
    assert cache.add(0, *_scanned(codes[0])) is one
    assert one.cache == {"found": 1}
    assert forgotten == [one.id, other.id, one.id, other.id]
    for number in range(programs.MAX_FORMER_TEXTS + 1):
        cache.add(0, *_scanned(WRITE.to_bytes(4, "little") + (256 + number).to_bytes(4, "little")))
    assert cache.add(0, *_scanned(codes[0])) is not one, "so many are remembered, not more"


def _scanned(code: bytes) -> tuple[bytes, programs.Ints]:
    length, table = programs.scan(code)
    return code[:length], table


def test_an_origin_is_explained() -> None:
    """Instruction, its address, frame, field, line and byte: what a verdict shows a kernel developer."""
    card = Small()
    said: list[Origin] = []

    def look(batch: Batch) -> None:
        said.extend(card.chip.describe(int(origin)) for origin in batch.origin)

    card.rc.recorder.during = look
    code = [WRITE | SOL | 24, card.target + 8, WRITE | EOL | 40, card.target + 0x1000]
    address = card.start(*lines(card, 2), *code, STOP)
    card.field()
    assert said[3] == Origin(
        f"WRITE EOL 40 bytes to {card.target + 0x1000:#010x}", address + 8 + 24, 1, "odd", line=2, offset=24
    )


def test_fetches_are_told_exactly() -> None:
    """Observers see each byte of the program read, and no byte that is not part of it."""
    card = Small()
    address = card.start(*lines(card), STOP, 0)
    card.field()
    end = address + 8 + LINES * 8 + 8
    touched = {at for addr, length in card.rc.recorder.reads for at in range(addr, addr + length)}
    assert touched == set(range(address, end))


def test_many_frames_leave_nothing_behind() -> None:
    """Nothing in the card grows with the number of frames."""
    rc = RootComplex()
    driver = Driver(rc, rc.chip())
    driver.geometry(32, 48, sheight=48)
    driver.format(4)
    target = rc.allocate(4096)
    driver.hook(Driver.O_FIELD, [WRITE | LINE, target] * 24)
    driver.hook(Driver.E_FIELD, [WRITE | LINE, target + 64] * 24, 1)
    driver.start()
    driver.frame()
    chip = driver.chip
    for _ in range(50):
        driver.frame()
        assert len(chip.engine.moved) == 2
    assert chip.stats.frames == 49  # the last one's second field has not ended
    assert rc.recorder.calls.count("program") == 2
    chip.bar_write(GPIO_DMA_CTL, 4, 0)
    chip.reset()
    assert len(rc.recorder.gone_ids) == 2
