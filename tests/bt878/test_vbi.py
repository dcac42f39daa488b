# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects VBI capture, whose lines are longer in the program than on the wire in NTSC."""

from __future__ import annotations

import numpy as np
import pytest
from support.bttv import CAP_CTL, COLOR_CTL, EOL, INT_STAT, SOL, VBI_PACK_DEL, VBI_PACK_SIZE, WRITE, Driver
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
