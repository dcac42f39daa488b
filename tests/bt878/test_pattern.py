# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the agreement on content between the card and whoever verifies it, from its definition alone."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from vcapdev.bt878.expected import FOURCCS, Row, expected_frame
from vcapdev.bt878.formats import FORMATS, swapped
from vcapdev.bt878.pattern import KIND_VBI, KIND_VIDEO, PictureKey, Shot, mix32, picture
from vcapdev.bt878.testcard import card
from vcapdev.errors import UsageError
from vcapdev.report.picture import decode


def murmur3(x: int) -> int:
    """The finaliser, as published."""
    x ^= x >> 16
    x = x * 0x85EBCA6B & 0xFFFFFFFF
    x ^= x >> 13
    x = x * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16


def test_mix32() -> None:
    """Numbers and arrays alike."""
    values = [0, 1, 2, 0xDEADBEEF, 0xFFFFFFFF]
    assert [mix32(value) for value in values] == [murmur3(value) for value in values]
    assert mix32(np.array(values, np.uint32)).tolist() == [murmur3(value) for value in values]


@pytest.mark.parametrize("width", [768, 20, 6, 3])
@pytest.mark.parametrize("kind", [KIND_VIDEO, KIND_VBI])
def test_lines_as_they_are_sent(width: int, kind: int) -> None:
    """Base, stamp and tag as the contract says, in lines of any length."""
    field, frame, lines = 1, 70_000, 5
    key = PictureKey(kind, field, 576, lines, width, 6)
    sent = Shot(picture(key), frame).plane(0)
    base = picture(key).plane(0)
    stamp = murmur3(frame * 2 + field) & (0x07070707 if kind == KIND_VIDEO else 0xFFFFFFFF)
    for line in range(lines):
        check = murmur3(frame ^ line << 8 ^ field << 4 ^ kind ^ 0x5EED0000)
        tag = struct.pack("<IHBBI4s", frame, line, field, kind, check, b"VCAP")[:width]
        want = bytes(int(byte) ^ stamp >> 8 * (x % 4) & 0xFF for x, byte in enumerate(base[line]))
        assert sent[line].tobytes() == tag + want[len(tag) :]


def test_parts_equal_the_whole() -> None:
    """Lines are rendered in groups: where one begins does not matter, nor how many lines there are."""
    for code in (4, 8):
        shot = Shot(picture(PictureKey(KIND_VIDEO, 0, 576, 40, 100, code)), 3)
        ends = shot.picture.offsets(7)
        out = np.zeros(ends[-1], np.uint8)
        shot.render(11, 7, out)
        fewer = picture(PictureKey(KIND_VIDEO, 0, 576, 20, 100, code))
        for index, width in enumerate(shot.picture.widths):
            rows = out[ends[index] : ends[index + 1]].reshape(7, -1)[:, :width]
            assert np.array_equal(rows, shot.plane(index)[11:18])
            assert np.array_equal(fewer.plane(index), shot.picture.plane(index)[:20])


def test_a_misplaced_line_is_seen() -> None:
    """Each line differs from each other one, of the same and of the other field, in most of its low bits."""
    planes = [picture(PictureKey(KIND_VIDEO, field, 576, 100, 720, 4)).plane(0) for field in (0, 1)]
    low = np.concatenate(planes) & 7
    for shift in (1, 2, 50, 100):
        same = (low == np.roll(low, shift, axis=0)).mean(axis=1)
        assert same.max() < 0.25  # an eighth by chance


MIXED = ("RGBP", "RGBR", "RGBO", "RGBQ")
BARS = {  # a column of each colour bar: red, green, blue
    230: (191, 191, 0),
    310: (0, 191, 191),
    380: (0, 191, 0),
    460: (191, 0, 191),
    540: (191, 0, 0),
    610: (0, 0, 191),
}


@pytest.mark.parametrize("fourcc", sorted(FOURCCS))
def test_colours_survive_every_format(fourcc: str) -> None:
    """The report's decoder, which shares no code with the card, shows the test card's bars in each format.

    Where a byte is no sample of its own, the noise reaches high bits of some channels: those are left out.
    """
    expected = expected_frame("PAL", fourcc, 768, 576, "interlaced")
    shown = decode(fourcc, expected.base, 768, 576).astype(int)
    coarse, channels = {"HI24": (70, [1])}.get(fourcc, (70, [0, 2]) if fourcc in MIXED else (14, [0, 1, 2]))
    for column, wanted in BARS.items():
        patch = shown[220:300, column : column + 16].reshape(-1, 3).mean(axis=0)
        want = (
            np.full(3, (int(card()[0][250, column]) - 16) * 1.164) if fourcc == "GREY" else np.array(wanted)
        )
        assert np.abs(patch - want)[channels].max() < coarse, (column, patch)


@pytest.mark.parametrize(
    ("fourcc", "bits", "rows"),
    [("YUYV", 16, 1), ("RGB4", 32, 1), ("Y41P", 12, 1), ("422P", 16, 3), ("YU12", 12, 2), ("YUV9", 9, 1.5)],
)
@pytest.mark.parametrize("field", ["interlaced", "top", "bottom", "seq-tb"])
def test_expected_layout(fourcc: str, bits: int, rows: float, field: str) -> None:
    """V4L2's image sizes; rows inside the image, never overlapping, tags zeroed."""
    expected = expected_frame("NTSC", fourcc, 320, 240, field)
    assert len(expected.base) == 320 * 240 * bits // 8
    if field != "seq-tb":
        assert len(expected.rows) == 240 * rows
    covered = np.zeros(len(expected.base), np.uint8)
    for row in expected.rows:
        covered[row.offset : row.offset + row.length] += 1
        if row.plane == 0:
            assert expected.base[row.offset : row.offset + 16] == bytes(16)
    assert covered.max() == 1
    if field != "seq-tb" or rows == 1:
        assert covered.min() == 1


def test_two_fields_one_after_the_other_lose_chroma() -> None:
    """bttv puts the top field's chroma where the bottom field's luma goes: it is not expected to survive."""
    expected = expected_frame("PAL", "YU12", 320, 240, "seq-tb")
    assert {(row.field, row.plane) for row in expected.rows} == {(0, 0), (1, 0), (1, 1), (1, 2)}
    chroma = [row.offset for row in expected.rows if row.plane == 1]
    assert chroma[0] == 320 * 240


def test_the_file() -> None:
    """What the guest's verifier parses."""
    expected = expected_frame("PAL", "YUYV", 48, 32, "interlaced")
    data = expected.file()
    magic, count, size = struct.unpack_from("<8sII", data)
    assert (magic, count, size) == (b"VCAPEXP1", 32, 48 * 32 * 2)
    offset, length, line, reserved, field, plane = struct.unpack_from("<IIIHBB", data, 16 + 16 * 17)
    assert (offset, length, line, reserved, field, plane) == (96 * 3, 96, 1, 0, 1, 0)
    assert data[16 + 16 * count :] == expected.base
    assert expected.rows[17] == Row(96 * 3, 96, 1, 1, 0)


@pytest.mark.parametrize(
    "wrong", [("MAC", "YUYV", 8, 8, "top"), ("PAL", "MJPG", 8, 8, "top"), ("PAL", "YUYV", 8, 8, "any"),
              ("PAL", "YUYV", 0, 8, "top")],
)  # fmt: skip
def test_what_cannot_be_expected(wrong: tuple[str, str, int, int, str]) -> None:
    """Typing errors of a user are said as such."""
    with pytest.raises(UsageError):
        expected_frame(*wrong)


@pytest.mark.parametrize(
    ("byte", "word", "order"),
    [
        (False, False, "abcdef"),
        (True, False, "badcfe"),
        (False, True, "cdab\0\0ef"),
        (True, True, "dcba\0\0fe"),
    ],
)
def test_swapping(byte: bool, word: bool, order: str) -> None:
    """BSWAP within each 16 bits, WSWAP of the two; lane 0 is the first byte of the line."""
    line = np.frombuffer(b"abcdef", np.uint8).reshape(1, 6)
    assert swapped(line, byte, word).tobytes()[: len(order)] == order.encode()


@pytest.mark.parametrize("code", sorted(FORMATS))
@pytest.mark.parametrize("width", [1, 7, 48, 924, 1023])
def test_every_width(code: int, width: int) -> None:
    """HACTIVE takes any value: planes are as wide as the format says, whatever the width."""
    shown = picture.__wrapped__(PictureKey(KIND_VIDEO, 0, 576, 3, width, code, True, True))
    assert shown.widths == FORMATS[code].widths(width)
