# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects VBI capture: lines longer in the program than on the wire in NTSC, and its own interrupt."""

from __future__ import annotations

import numpy as np
import pytest
from support.bttv import (
    CAP_CTL,
    COLOR_CTL,
    EOL,
    INT_MASK,
    INT_STAT,
    MASK,
    SOL,
    VBI_PACK_DEL,
    VBI_PACK_SIZE,
    WRITE,
    Driver,
)
from support.rootcomplex import POISON, RootComplex

from vcapdev.bt878.pattern import KIND_VBI, PictureKey, Shot, picture
from vcapdev.bt878.registers import IntStat

BPL, WANTED, COUNT = 2048, 2044, 16


def capture(norm: str, packet: int, video: bool, swap: int = 0) -> tuple[RootComplex, int, Driver]:
    """A frame whose odd field has VBI, and video if wanted; the address of the VBI buffer."""
    rc = RootComplex()
    driver = Driver(rc, rc.chip(norm))
    driver.geometry(320, 240, sheight=480 if norm == "NTSC" else 576)
    driver.format(4)
    bar = driver.chip.bar_write
    bar(VBI_PACK_SIZE, 4, packet & 0xFF)
    bar(VBI_PACK_DEL, 4, packet >> 8)
    bar(COLOR_CTL, 4, 0x10 | swap)
    buffer = rc.allocate(COUNT * BPL)
    code = [word for n in range(COUNT) for word in (WRITE | SOL | EOL | WANTED, buffer + n * BPL)]
    driver.hook(Driver.O_VBI, code, 4)
    if video:
        target = rc.allocate(640 * 120)
        code = [word for n in range(120) for word in (WRITE | SOL | EOL | 640, target + n * 640)]
        driver.hook(Driver.O_FIELD, code, 1)
    driver.start(0xC | (3 if video else 0), mask=0)
    driver.frame()
    bar(INT_STAT, 4, 0xFFFFF)
    driver.frame()
    return rc, buffer, driver


def expected(norm: str, packet: int, lines: int) -> np.ndarray:
    height = 480 if norm == "NTSC" else 576
    return Shot(picture(PictureKey(KIND_VBI, 0, height, lines, packet * 4)), 2).plane(0)


@pytest.mark.parametrize("swap", [0, 0xF])
def test_pal_lines_fill_what_the_driver_asks_for(swap: int) -> None:
    """2044 bytes a line, 16 lines before video; the padding stays; nothing is swapped."""
    rc, buffer, driver = capture("PAL", 511, True, swap)
    rows = rc.memory.at(buffer, COUNT * BPL).reshape(COUNT, BPL)
    assert np.array_equal(rows[:, :WANTED], expected("PAL", 511, 16)[:COUNT])
    assert (rows[:, WANTED:] == POISON).all()
    status = driver.chip.bar_read(INT_STAT, 4)
    assert not status & IntStat.FDSR.mask
    assert IntStat.RISCS.get(status) == 1  # video's interrupt came after that of VBI


def test_ntsc_lines_end_early() -> None:
    """400 dwords: bytes 1600 to 2043 of each line are not written; VBI ends where VDELAY says."""
    rc, buffer, _ = capture("NTSC", 400, True)
    rows = rc.memory.at(buffer, COUNT * BPL).reshape(COUNT, BPL)
    assert np.array_equal(rows[:13, :1600], expected("NTSC", 400, 13))
    assert (rows[:13, 1600:] == POISON).all()
    assert (rows[13:] == POISON).all()


def test_vbi_alone() -> None:
    """Without video the rest of the field's VBI lines is dropped by the main loop."""
    rc, buffer, driver = capture("PAL", 511, False)
    rows = rc.memory.at(buffer, COUNT * BPL).reshape(COUNT, BPL)
    assert np.array_equal(rows[:, :WANTED], expected("PAL", 511, 16)[:COUNT])
    assert driver.chip.stats.lost_fields == 0
    driver.chip.bar_write(CAP_CTL, 4, 0)
    driver.frame()
    frame = driver.chip.last_frame()
    assert frame is not None
    assert [(each.vbi, each.field) for each in frame.fields] == [(True, 0)]


def both(clock: str) -> tuple[RootComplex, Driver, int]:
    """VBI in the even field before video in the same field, as bttv hooks them; each ends in an interrupt."""
    rc = RootComplex()
    driver = Driver(rc, rc.chip(clock=clock))
    driver.geometry(320, 240)
    driver.format(4)
    driver.chip.bar_write(VBI_PACK_SIZE, 4, 0xFF)
    driver.chip.bar_write(VBI_PACK_DEL, 4, 1)
    buffer = rc.allocate(COUNT * BPL)
    code = [word for n in range(COUNT) for word in (WRITE | SOL | EOL | WANTED, buffer + n * BPL)]
    driver.hook(Driver.E_VBI, code, 4)
    target = rc.allocate(640 * 120)
    code = [word for n in range(120) for word in (WRITE | SOL | EOL | 640, target + n * 640)]
    driver.hook(Driver.E_FIELD, code, 1)
    driver.start(0x5)
    return rc, driver, target


@pytest.mark.parametrize("clock", ["paced", "real", "fast"])
def test_both_interrupts_of_a_field_are_seen(clock: str) -> None:
    """RISCS is not latched: the video program's interrupt waits until the handler has seen that of VBI."""
    rc, driver, target = both(clock)
    seen: list[int] = []
    for _ in range(40):
        rc.time.advance(0.004)
        status = driver.chip.bar_read(INT_STAT, 4)
        if status & IntStat.RISCI.mask:
            seen.append(IntStat.RISCS.get(status))
            if seen[-1] == 4:
                assert rc.memory.at(target, 640)[12:16].tobytes() == b"VCAP", "lines do not wait"
        driver.handle()
    assert len(seen) >= 4
    assert seen == ([4, 1] * len(seen))[: len(seen)]
    assert driver.chip.stats.handshake_timeouts == driver.chip.stats.lost_fields == 0


def test_a_guest_that_never_handles_the_first_loses_flags_but_no_field() -> None:
    """The wait ends with the field, which ends when the clock has waited long enough for the handler."""
    rc, driver, _ = both("paced")
    rc.time.advance(1.7)
    assert driver.chip.stats.handshake_timeouts >= 2
    assert driver.chip.stats.fields >= 3
    assert IntStat.RISCS.get(driver.chip.bar_read(INT_STAT, 4)) in (1, 4)
    driver.handle()
    rc.time.advance(0.05)
    assert driver.chip.bar_read(INT_STAT, 4) & IntStat.RISC_EN.mask


def test_a_masked_interrupt_holds_nothing_back() -> None:
    """Nobody will handle it: both programs run through, and the later flags are what is left."""
    rc, driver, _ = both("paced")
    driver.chip.bar_write(INT_MASK, 4, MASK & ~IntStat.RISCI.mask & ~IntStat.VSYNC.mask)
    rc.time.advance(0.2)
    assert driver.chip.stats.handshake_timeouts == 0
    assert IntStat.RISCS.get(driver.chip.bar_read(INT_STAT, 4)) == 1


def test_vbi_that_no_program_takes_spoils_one_frame_only() -> None:
    """bttv switches VBI on before it hooks the programs: video's SYNC FM1 then meets VBI lines.

    The field's program is cut short, but the loop waits for the field's end: odd lines stay in odd buffers.
    """
    rc = RootComplex()
    driver = Driver(rc, rc.chip())
    driver.geometry(320, 240)
    driver.format(4)
    driver.chip.bar_write(VBI_PACK_SIZE, 4, 0xFF)
    driver.chip.bar_write(VBI_PACK_DEL, 4, 1)
    targets = [rc.allocate(640 * 120) for _ in range(2)]
    for slot, target in zip((Driver.O_FIELD, Driver.E_FIELD), targets, strict=True):
        code = [word for n in range(120) for word in (WRITE | SOL | EOL | 640, target + n * 640)]
        driver.hook(slot, code, 1 if slot == Driver.E_FIELD else 0)
    driver.start(0xF)
    for _ in range(2):
        driver.frame()
        for field, target in enumerate(targets):
            rows = rc.memory.at(target, 640 * 120).reshape(120, 640)
            tagged = rows[(rows[:, 12] == ord("V")) & (rows[:, 15] == ord("P"))]
            assert (tagged[:, 6] == field).all(), "lines of the other field"
    assert len(tagged), "even VBI lines were taken for video"
    driver.chip.bar_write(CAP_CTL, 4, 3)
    for _ in range(2):
        driver.frame()
    frame = driver.chip.frame
    for field, target in enumerate(targets):
        tag = rc.memory.at(target + 640 * 119, 16).tobytes()
        assert (tag[4], tag[6], tag[7], tag[12:]) == (119, field, 0, b"VCAP")
        assert int.from_bytes(tag[:4], "little") == frame
    assert driver.chip.stats.lost_fields == 0
