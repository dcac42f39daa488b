# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the product's base case: programs as bttv builds them fill buffers with exactly what was sent.

Each capture is compared byte by byte with :func:`expected_frame`, stamped and tagged, and nothing around the
buffer may change.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.bttv import CAP_CTL, Driver, Planar, packed_writes, planar_writes
from support.rootcomplex import PAGE, POISON, RootComplex
from support.sent import sent

from vcapdev.bt878.chip import Bt878
from vcapdev.bt878.expected import FOURCCS, expected_frame
from vcapdev.bt878.registers import IntStat

FM3 = 0xE
OFFSET = 0x10  # malloc's, as recorded
PLANAR = {"422P": (1, 0), "YU12": (1, 1), "YV12": (1, 1), "411P": (2, 0), "YUV9": (2, 2), "YVU9": (2, 2)}


def hook_packed(driver: Driver, pages: list[int], line: int, height: int, field: str) -> None:
    step = {"interlaced": (line, line), "seq-tb": (line * (height // 2), 0)}.get(field, (0, 0))
    both = field in ("interlaced", "seq-tb")
    lines = height // 2 if both else height
    if field != "bottom":
        code = packed_writes(pages, OFFSET, line, step[1], lines)
        driver.hook(Driver.O_FIELD, code, 0 if both else 1)
    if field != "top":
        code = packed_writes(pages, OFFSET + step[0], line, step[1], lines)
        driver.hook(Driver.E_FIELD, code, 1)


def hook_planar(driver: Driver, pages: list[int], fourcc: str, width: int, height: int) -> None:
    """As bttv_buffer_risc for interlaced fields."""
    across, down = PLANAR[fourcc]
    luma, chroma = width * height, width * height >> across >> down
    u, v = (luma + chroma, luma) if FOURCCS[fourcc].cr_first else (luma, luma + chroma)
    for top in (True, False):
        low = 0 if top else width >> across
        at = Planar(OFFSET + (0 if top else width), OFFSET + u + low, OFFSET + v + low)
        code = planar_writes(pages, at, width, height // 2, (across, down), True, top)
        driver.hook(Driver.O_FIELD if top else Driver.E_FIELD, code, 0 if top else 1, FM3)


def prepare(rc: RootComplex, norm: str, width: int, height: int, fourcc: str) -> tuple[Bt878, Driver]:
    chip = rc.chip(norm)
    driver = Driver(rc, chip)
    form = FOURCCS[fourcc]
    driver.geometry(width, height, sheight=480 if norm == "NTSC" else 576)
    driver.format(form.code, (0x3 if form.byte_swap else 0) | (0xC if form.word_swap else 0))
    return chip, driver


@pytest.mark.parametrize(
    ("norm", "width", "height"), [("PAL", 768, 576), ("NTSC", 640, 480), ("SECAM", 320, 240), ("PAL", 50, 36)]
)
@pytest.mark.parametrize("fourcc", ["YUYV", "BGR4"])
def test_interlaced_frames(norm: str, width: int, height: int, fourcc: str) -> None:
    """The geometry registers, both fields' programs, page crossings and frame numbers fit together."""
    rc = RootComplex()
    chip, driver = prepare(rc, norm, width, height, fourcc)
    expected = expected_frame(norm, fourcc, width, height, "interlaced")
    pages = rc.scattered(OFFSET + len(expected.base))
    hook_packed(driver, pages, len(expected.base) // height, height, "interlaced")
    driver.start()
    driver.frame()  # number 1: the program waits for the end of an even field first
    for number in (2, 3):
        driver.frame()
        whole = np.frombuffer(rc.gather(pages, 0, len(pages) * PAGE), np.uint8)
        end = OFFSET + len(expected.base)
        assert np.array_equal(whole[OFFSET:end], sent(expected, number))
        assert (whole[:OFFSET] == POISON).all()
        assert (whole[end:] == POISON).all()
    assert chip.stats.lost_fields == chip.stats.runaways == 0
    assert not chip.registers.get("INT_STAT") & (IntStat.FDSR.mask | IntStat.SCERR.mask | IntStat.OCERR.mask)


@pytest.mark.parametrize("fourcc", sorted(set(FOURCCS) - set(PLANAR)))
def test_packed_formats(fourcc: str) -> None:
    """Every packed format has the bytes, the order and the line length that bttv's fourcc promises."""
    rc = RootComplex()
    _, driver = prepare(rc, "PAL", 176, 144, fourcc)
    expected = expected_frame("PAL", fourcc, 176, 144, "interlaced")
    pages = rc.scattered(OFFSET + len(expected.base))
    hook_packed(driver, pages, len(expected.base) // 144, 144, "interlaced")
    driver.start()
    driver.frame()  # number 1: the program waits for the end of an even field first
    driver.frame()
    image = np.frombuffer(rc.gather(pages, OFFSET, len(expected.base)), np.uint8)
    assert np.array_equal(image, sent(expected, 2))


@pytest.mark.parametrize("fourcc", sorted(PLANAR))
def test_planar_formats(fourcc: str) -> None:
    """WRITE123 and WRITE1S23: three planes, chroma lines dropped where the format has fewer."""
    rc = RootComplex()
    chip, driver = prepare(rc, "PAL", 176, 144, fourcc)
    expected = expected_frame("PAL", fourcc, 176, 144, "interlaced")
    pages = rc.scattered(OFFSET + len(expected.base))
    hook_planar(driver, pages, fourcc, 176, 144)
    driver.start()
    driver.frame()  # number 1: the program waits for the end of an even field first
    driver.frame()
    image = np.frombuffer(rc.gather(pages, OFFSET, len(expected.base)), np.uint8)
    assert np.array_equal(image, sent(expected, 2))
    assert not chip.registers.get("INT_STAT") & IntStat.FDSR.mask


@pytest.mark.parametrize("field", ["top", "bottom", "seq-tb"])
def test_field_orders(field: str) -> None:
    """Buffers of one field, and of both one after the other."""
    rc = RootComplex()
    both = field == "seq-tb"
    height = 200 if both else 100
    chip, driver = prepare(rc, "PAL", 320, height, "YUYV")
    driver.geometry(320, height, interlaced=both)
    expected = expected_frame("PAL", "YUYV", 320, height, field)
    pages = rc.scattered(OFFSET + len(expected.base))
    hook_packed(driver, pages, 640, height, field)
    driver.start()
    driver.frame()  # number 1: the program waits for the end of an even field first
    driver.frame()
    image = np.frombuffer(rc.gather(pages, OFFSET, len(expected.base)), np.uint8)
    assert np.array_equal(image, sent(expected, 2))
    chip.clock.step()
    assert chip.stats.frames == 1


def test_alternate_buffers() -> None:
    """A buffer for each field in turn: the expected file has both, the bottom one in its second half."""
    rc = RootComplex()
    _, driver = prepare(rc, "PAL", 320, 100, "YUYV")
    driver.geometry(320, 100, interlaced=False)
    expected = expected_frame("PAL", "YUYV", 320, 100, "alternate")
    size = len(expected.base) // 2
    buffers = [rc.scattered(OFFSET + size, seed) for seed in (1, 2)]
    hook_packed(driver, buffers[0], 640, 100, "top")
    driver.hook(Driver.E_FIELD, packed_writes(buffers[1], OFFSET, 640, 0, 100), 1)
    driver.start()
    driver.frame()  # number 1: the program waits for the end of an even field first
    driver.frame()
    image = b"".join(rc.gather(pages, OFFSET, size) for pages in buffers)
    assert np.array_equal(np.frombuffer(image, np.uint8), sent(expected, 2))


def test_last_frame_tells_what_was_sent() -> None:
    """The report's picture of page states rests on it: data and pieces agree with memory."""
    rc = RootComplex()
    chip, driver = prepare(rc, "PAL", 320, 240, "422P")
    pages = rc.scattered(OFFSET + 320 * 240 * 2)
    hook_planar(driver, pages, "422P", 320, 240)
    driver.start()
    driver.frame()  # number 1: the program waits for the end of an even field first
    driver.frame()
    assert chip.last_frame() is None  # the second field has not ended
    chip.bar_write(CAP_CTL, 4, 0)
    chip.clock.step()
    frame = chip.last_frame()
    assert frame is not None
    assert (frame.number, [each.field for each in frame.fields]) == (2, [0, 1])
    for each in frame.fields:
        planes = [each.data(plane) for plane in range(3)]
        assert [plane.shape for plane in planes] == [(120, 320), (120, 160), (120, 160)]
        rows = zip(each.addr, each.length, each.plane, each.line, each.offset, strict=True)
        for addr, length, plane, line, offset in rows:
            piece = planes[plane][line, offset : offset + length]
            assert rc.memory.at(int(addr), int(length)).tobytes() == piece.tobytes()
