# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the guest's verifier: each way to spoil a frame gets its own name and the exact place.

The C code is compiled as a host library, and fed with buffers that this file makes from the base image by the
rules of ``vcapdev.bt878.pattern``, written out here a second time.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess

import pytest

from vcapdev.bt878.expected import Expected, Row, expected_frame
from vcapdev.resources import resource_dir

INTACT, STALE, TORN, MISPLACED, DAMAGED = range(5)
PAGE = 4096


class CExpected(ctypes.Structure):
    _fields_ = [
        ("rows", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("row", ctypes.c_void_p),
        ("base", ctypes.c_void_p),
    ]


class CFinding(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("verdict", "frame", "field", "line", "plane", "byte")] + [
        ("offset", ctypes.c_uint32),
        ("bad_rows", ctypes.c_uint32),
        ("want", ctypes.c_uint8 * 8),
        ("found", ctypes.c_uint8 * 8),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("verify") / "verify.so"
    source = resource_dir("guest") / "src" / "capture" / "verify.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fsanitize=undefined"]
    subprocess.run(["gcc", *flags, "-fno-sanitize-recover", "-o", str(out), str(source)], check=True)
    loaded = ctypes.CDLL(str(out))
    loaded.expected_parse.restype = ctypes.c_char_p
    return loaded


class Verifier:
    def __init__(self, library: ctypes.CDLL, expected: Expected) -> None:
        self.library = library
        self.c = CExpected()
        self.file = expected.file()
        wrong = library.expected_parse(ctypes.byref(self.c), self.file, ctypes.c_size_t(len(self.file)))
        assert wrong is None, wrong

    def __call__(self, buffer: bytes, *, full: bool = True, alternate: int = -1) -> CFinding:
        finding = CFinding()
        self.library.verify(ctypes.byref(self.c), bytes(buffer), full, alternate, ctypes.byref(finding))
        return finding


def mix32(x: int) -> int:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ x >> shift) * factor) & 0xFFFFFFFF
    return x ^ x >> 16


def sent_row(expected: Expected, row: Row, frame: int) -> bytes:
    stamp = (mix32(frame * 2 + row.field) & 0x07070707).to_bytes(4, "little")
    base = expected.base[row.offset : row.offset + row.length]
    data = bytearray(byte ^ stamp[x % 4] for x, byte in enumerate(base))
    if row.plane == 0:
        check = mix32(frame ^ row.line << 8 ^ row.field << 4 ^ 0x5EED0000)
        data[:16] = struct.pack("<IHBBII", frame, row.line, row.field, 0, check, 0x50414356)
    return bytes(data)


def sent(expected: Expected, frame: int) -> bytearray:
    """The image of one frame, as it arrives."""
    image = bytearray(len(expected.base))
    for row in expected.rows:
        image[row.offset : row.offset + row.length] = sent_row(expected, row, frame)
    return image


@pytest.fixture(scope="module")
def yuyv() -> Expected:
    return expected_frame("PAL", "YUYV", 768, 576, "interlaced")


@pytest.fixture(scope="module")
def frames(yuyv: Expected) -> dict[int, bytes]:
    return {number: bytes(sent(yuyv, number)) for number in (9, 10, 11)}


@pytest.fixture
def verify(library: ctypes.CDLL, yuyv: Expected) -> Verifier:
    return Verifier(library, yuyv)


def page_of(frames: dict[int, bytes], victim: int, donor: bytes, page: int) -> bytes:
    image = bytearray(frames[victim])
    image[page * PAGE : (page + 1) * PAGE] = donor
    return bytes(image)


def place_of(expected: Expected, offset: int) -> tuple[int, int, int]:
    """Field, line and byte of an offset in an interlaced YUYV image."""
    row = offset // 1536
    return row % 2, row // 2, offset % 1536


def test_what_the_card_sends_is_intact(verify: Verifier, frames: dict[int, bytes]) -> None:
    for number, image in frames.items():
        for full in (True, False):
            finding = verify(image, full=full)
            assert (finding.verdict, finding.frame, finding.bad_rows) == (INTACT, number, 0)


@pytest.mark.parametrize("page", [0, 1, 50, 107])
def test_a_page_of_an_earlier_frame_is_stale_and_found(verify, yuyv, frames, page) -> None:
    """This is what a lost page write looks like in a buffer that is used again."""
    finding = verify(page_of(frames, 10, frames[9][page * PAGE : (page + 1) * PAGE], page))
    assert finding.verdict == STALE
    assert finding.frame == 10
    spoiled = [r for r in yuyv.rows if r.offset < (page + 1) * PAGE and r.offset + r.length > page * PAGE]
    assert finding.bad_rows == len(spoiled)
    # The first bad row in the image's order of rows, field by field, at its first byte in the page.
    first = spoiled[0]
    assert (finding.field, finding.line) == (first.field, first.line)
    assert 0 <= finding.offset - max(page * PAGE, first.offset) < 16


def test_a_page_of_a_later_frame_is_torn(verify: Verifier, frames: dict[int, bytes]) -> None:
    finding = verify(page_of(frames, 10, frames[11][40 * PAGE : 41 * PAGE], 40))
    assert finding.verdict == TORN


def test_two_fields_of_different_frames_are_torn(verify, yuyv, frames) -> None:
    image = bytearray(frames[10])
    for row in yuyv.rows:
        if row.field == 1:
            image[row.offset : row.offset + row.length] = frames[11][row.offset : row.offset + row.length]
    finding = verify(bytes(image))
    assert (finding.verdict, finding.frame, finding.field, finding.line) == (TORN, 10, 1, 0)


@pytest.mark.parametrize(("page", "donor"), [(30, 60), (3, 4), (100, 0)])
def test_a_page_from_elsewhere_in_the_frame_is_misplaced(verify, frames, page, donor) -> None:
    finding = verify(page_of(frames, 10, frames[10][donor * PAGE : (donor + 1) * PAGE], page))
    assert finding.verdict == MISPLACED


@pytest.mark.parametrize("junk", [bytes(PAGE), b"\xaa" * PAGE])
def test_a_page_of_something_else_is_damaged(verify, yuyv, frames, junk) -> None:
    finding = verify(page_of(frames, 10, junk, 30))
    assert finding.verdict == DAMAGED
    assert bytes(finding.found)[0] == junk[0]


@pytest.mark.parametrize("offset", [16, 1535, 1536 * 5 + 777, 768 * 576 * 2 - 1])
def test_one_flipped_bit_is_found_at_its_place(verify, yuyv, frames, offset) -> None:
    image = bytearray(frames[10])
    image[offset] ^= 0x40
    finding = verify(bytes(image))
    assert finding.verdict == DAMAGED
    assert (finding.field, finding.line, finding.byte) == place_of(yuyv, offset)
    assert finding.offset == offset
    assert finding.found[0] == finding.want[0] ^ 0x40


def test_tags_alone_do_not_see_the_inside_of_a_line(verify: Verifier, frames: dict[int, bytes]) -> None:
    image = bytearray(frames[10])
    image[100] ^= 1
    assert verify(bytes(image), full=False).verdict == INTACT
    image[1536 * 7] ^= 1
    assert verify(bytes(image), full=False).verdict == DAMAGED


def test_part_of_a_line_of_an_earlier_frame_is_stale(verify: Verifier, frames: dict[int, bytes]) -> None:
    """A page boundary in the middle of a line: no tag is in the stale part, only the stamp tells."""
    image = bytearray(frames[10])
    image[4096 : 1536 * 3] = frames[9][4096 : 1536 * 3]
    finding = verify(bytes(image))
    assert finding.verdict == STALE
    assert finding.bad_rows == 1


def test_a_buffer_without_any_tag_is_not_intact(verify: Verifier) -> None:
    finding = verify(bytes(768 * 576 * 2))
    assert finding.verdict != INTACT
    assert finding.frame == 0


@pytest.mark.parametrize("fourcc", ["BGR4", "GREY", "422P", "YU12", "YVU9", "RGBP"])
@pytest.mark.parametrize("field", ["interlaced", "top", "bottom", "seq-tb"])
def test_every_layout(library: ctypes.CDLL, fourcc: str, field: str) -> None:
    expected = expected_frame("PAL", fourcc, 320, 240, field)
    verify = Verifier(library, expected)
    image = sent(expected, 77)
    assert verify(bytes(image)).verdict == INTACT
    row = expected.rows[-1]
    image[row.offset + row.length // 2] ^= 8
    finding = verify(bytes(image))
    assert (finding.verdict, finding.plane, finding.line) == (DAMAGED, row.plane, row.line)


@pytest.mark.parametrize("parity", [0, 1])
def test_alternating_fields_use_their_half_of_the_image(library: ctypes.CDLL, parity: int) -> None:
    expected = expected_frame("PAL", "YUYV", 384, 288, "alternate")
    verify = Verifier(library, expected)
    half = len(expected.base) // 2
    buffer = sent(expected, 5)[parity * half : (parity + 1) * half]
    assert verify(bytes(buffer), alternate=parity).verdict == INTACT
    assert verify(bytes(buffer), alternate=1 - parity).verdict != INTACT


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"X" + data[1:],
        lambda data: data[:-1],
        lambda data: data[:8] + struct.pack("<I", 0xFFFFFFFF) + data[12:],
        lambda data: data[:16] + struct.pack("<I", 1 << 30) + data[20:],
        lambda data: data[:10],
    ],
)
def test_a_broken_file_is_refused(library: ctypes.CDLL, yuyv: Expected, spoil) -> None:
    data = spoil(yuyv.file())
    assert library.expected_parse(ctypes.byref(CExpected()), data, ctypes.c_size_t(len(data))) is not None
