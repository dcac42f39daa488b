# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects vcap-scene: which pages of a frame it says were lost, and that it refuses what makes no sense.

The comparison is compiled as a host library; the content of frames is made by the rules of
``vcapdev.bt878.pattern``.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from test_verify import CExpected, sent

from vcapdev.bt878.expected import Expected, expected_frame
from vcapdev.image.programs import build_programs
from vcapdev.progress import Silent
from vcapdev.resources import resource_dir

INTACT, PARTIAL, LOST, MIXED = range(4)
PAGE = 4096
FILL = 0xA5
SOURCES = resource_dir("guest") / "src"


class CReadback(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("outcome", "frame", "pages", "bad", "half")] + [
        ("list", ctypes.c_char * 200)
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    directory = tmp_path_factory.mktemp("readback")
    globals_ = directory / "globals.c"
    globals_.write_text('#include "scene/scene.h"\nstruct expected expected;\n')
    files = [SOURCES / "scene/readback.c", SOURCES / "capture/verify.c", globals_]
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fsanitize=undefined", f"-I{SOURCES}"]
    out = directory / "readback.so"
    subprocess.run(["gcc", *flags, "-fno-sanitize-recover", "-o", str(out), *map(str, files)], check=True)
    loaded = ctypes.CDLL(str(out))
    loaded.expected_parse.restype = ctypes.c_char_p
    return loaded


@pytest.fixture(scope="module")
def yuyv() -> Expected:
    return expected_frame("PAL", "YUYV", 768, 576, "interlaced")


class Reader:
    def __init__(self, library: ctypes.CDLL, expected: Expected) -> None:
        self.library, self.c, self.file = library, CExpected(), expected.file()
        wrong = library.expected_parse(ctypes.byref(self.c), self.file, ctypes.c_size_t(len(self.file)))
        assert wrong is None, wrong

    def __call__(self, data: bytes, *, shift: int = 0, want: int = 0, last: int = 0) -> CReadback:
        result = CReadback()
        self.library.read_back(
            ctypes.byref(self.c), bytes(data), ctypes.c_size_t(shift), want, last, ctypes.byref(result)
        )
        return result


@pytest.fixture
def read_back(library: ctypes.CDLL, yuyv: Expected) -> Reader:
    return Reader(library, yuyv)


def said(result: CReadback) -> tuple[int, int, bytes]:
    return result.outcome, result.bad, result.list


def test_a_frame_as_it_was_sent(read_back: Reader, yuyv: Expected) -> None:
    result = read_back(sent(yuyv, 10), last=9)
    assert (said(result), result.frame, result.pages) == ((INTACT, 0, b""), 10, 216)


def test_pages_of_an_older_frame_are_named(read_back: Reader, yuyv: Expected) -> None:
    image, old = sent(yuyv, 10), sent(yuyv, 8)
    for page in (0, 3, 4, 5, 215):
        image[page * PAGE : (page + 1) * PAGE] = old[page * PAGE : (page + 1) * PAGE]
    result = read_back(image, last=9)
    assert (said(result), result.frame) == ((PARTIAL, 5, b"0,3-5,215"), 10)


def test_pages_that_were_never_written(read_back: Reader, yuyv: Expected) -> None:
    image = sent(yuyv, 10)
    image[7 * PAGE : 9 * PAGE] = bytes([FILL]) * 2 * PAGE
    assert said(read_back(image)) == (PARTIAL, 2, b"7-8")


def test_one_byte_is_enough(read_back: Reader, yuyv: Expected) -> None:
    image = sent(yuyv, 10)
    image[100 * PAGE - 1] ^= 1
    assert said(read_back(image)) == (PARTIAL, 1, b"99")


@pytest.mark.parametrize("image", [bytes(884736), bytes([FILL]) * 884736])
def test_nothing_came(read_back: Reader, image: bytes) -> None:
    result = read_back(image)
    assert (said(result), result.frame) == ((LOST, 216, b"0-215"), 0)


def test_whole_fields_of_two_frames_are_not_lost_but_one_that_is_missing_is(
    read_back: Reader, yuyv: Expected
) -> None:
    def with_field(image: bytearray, other: bytes) -> bytearray:
        for row in yuyv.rows:
            if row.field == 1:
                image[row.offset : row.offset + row.length] = other[row.offset : row.offset + row.length]
        return image

    assert said(read_back(with_field(sent(yuyv, 10), sent(yuyv, 11)), last=9)) == (MIXED, 0, b"")
    assert said(read_back(with_field(sent(yuyv, 10), sent(yuyv, 9)), last=9))[0] == LOST
    assert said(read_back(with_field(sent(yuyv, 10), bytes(884736)), last=9))[0] == LOST
    assert read_back(with_field(sent(yuyv, 10), bytes(884736)), last=9).half == 1
    assert read_back(with_field(sent(yuyv, 10), sent(yuyv, 11)), last=9).half == 0
    half = with_field(sent(yuyv, 10), bytes(884736))
    half[50 * PAGE : 51 * PAGE] = bytes(PAGE)
    assert read_back(half, last=9).half == 0
    torn = with_field(sent(yuyv, 10), sent(yuyv, 11))
    torn[50 * PAGE : 51 * PAGE] = bytes(PAGE)
    assert said(read_back(torn, last=9)) == (PARTIAL, 1, b"50")


def test_a_whole_frame_that_is_not_new_is_lost(read_back: Reader, yuyv: Expected) -> None:
    assert said(read_back(sent(yuyv, 9), last=9))[0] == LOST


def test_after_the_close_it_has_to_be_the_very_frame(read_back: Reader, yuyv: Expected) -> None:
    assert said(read_back(sent(yuyv, 9), want=9, last=20)) == (INTACT, 0, b"")
    assert said(read_back(sent(yuyv, 9), want=10, last=20))[0] == LOST
    image = sent(yuyv, 9)
    image[PAGE : 2 * PAGE] = sent(yuyv, 8)[PAGE : 2 * PAGE]
    assert said(read_back(image, want=9)) == (PARTIAL, 1, b"1")


def test_pages_are_those_of_memory_where_a_buffer_begins_inside_one(
    read_back: Reader, yuyv: Expected
) -> None:
    image = sent(yuyv, 10)
    image[0] ^= 1
    image[PAGE - 2048] ^= 1  # the first byte of the second page
    result = read_back(image, shift=2048)
    assert (said(result), result.pages) == ((PARTIAL, 2, b"0-1"), 217)


def test_a_long_list_is_cut_off(read_back: Reader, yuyv: Expected) -> None:
    image = sent(yuyv, 10)
    for page in range(0, 216, 2):
        image[page * PAGE + 100] ^= 1
    result = read_back(image)
    assert (result.outcome, result.bad) == (PARTIAL, 108)
    assert result.list.startswith(b"0,2,4,")
    assert result.list.endswith(b"...")


@pytest.fixture(scope="module")
def program() -> Path:
    return build_programs(["vcap-scene"], Silent())["vcap-scene"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "--expect FILE is needed"),
        ("--expect x --do dance --at active", "--do dance is not known"),
        ("--expect x --do exit", "say --at MOMENT behind it"),
        ("--expect x --at active", "say --do ACT first"),
        ("--expect x --do exit --at noon", "--at noon is not known"),
        ("--expect x --memory shared-file", "--file PATH goes with"),
        ("--expect x --io mmap --packed", "go with --io userptr"),
        ("--expect x --io dmabuf", "--io dmabuf goes with --memory udmabuf"),
        ("--expect x --frames 0", "--frames 0: not a number from 1"),
        ("--expect x --pool 1 --buffers 3", "--pool 1 is less than --buffers 3"),
        ("--expect x --field alternate", "a buffer has to hold a whole frame"),
        ("--expect x extra", "unknown argument extra"),
    ],
)
def test_what_makes_no_sense_is_refused(program: Path, words: str, says: str) -> None:
    done = subprocess.run([program, *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[0]
    assert " munmap " in done.stderr.splitlines()[-1]  # the acts that there are
