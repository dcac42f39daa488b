# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the memory image: what is in it is what was in RAM, it is sparse and bounded, drgn opens it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import drgn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import PAGE, SyntheticGuest

from vcapdev.errors import GuestError, UsageError
from vcapdev.evidence.elfcore import write_core
from vcapdev.evidence.image import ELF_HEADER, PROGRAM_HEADER, core_map, live_map
from vcapdev.guestmm.kernel import attach
from vcapdev.guestmm.memory import GuestMemory, GuestReadError

UNLIMITED = 1 << 40
NOTE = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n"


@pytest.fixture
def guest():
    made = SyntheticGuest()
    yield made
    made.close()


def test_what_is_read_from_the_image_is_what_was_in_ram(guest: SyntheticGuest, tmp_path: Path) -> None:
    path = tmp_path / "core"
    written = write_core(path, guest.memory, NOTE, [], UNLIMITED)
    with core_map(path) as image:
        assert [(s.start, s.size) for s in image.segments] == [
            (s.start, s.size) for s in guest.memory.segments
        ]
        for kept, segment in zip(image.segments, guest.memory.segments, strict=True):
            assert np.array_equal(kept.data, segment.data)
        assert attach(GuestMemory(image)).release == "6.1.0-test"
        assert image.note == NOTE
    filled = sum(int(s.data.reshape(-1, PAGE).any(axis=1).sum()) for s in guest.memory.segments)
    assert (written.written, written.ram) == (filled, guest.pages - (0xC0000 - 0xA0000) // PAGE)
    assert written.zero == written.ram - filled
    assert path.stat().st_blocks * 512 < (filled + 64) * PAGE, "pages of zeros take room"


def test_drgn_opens_the_image(guest: SyntheticGuest, tmp_path: Path) -> None:
    path = tmp_path / "core"
    registers = [{"rip": 0xFFFFFFFF81000042, "cs": 0x10}, {"rip": 0x7F0000001000}]
    write_core(path, guest.memory, attach(GuestMemory(guest.memory)).note.text, registers, UNLIMITED)
    program = drgn.Program()
    program.set_core_dump(path)
    assert program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL
    assert b"OSRELEASE=6.1.0-test" in program["VMCOREINFO"].string_()
    assert program.read(guest.symbols["init_uts_ns"], 5) == b"Linux", "through the kernel's page tables"
    assert program.read(guest.uts, 5, physical=True) == b"Linux"


def test_the_vcpus_are_in_the_notes(guest: SyntheticGuest, tmp_path: Path) -> None:
    path = tmp_path / "core"
    write_core(path, guest.memory, NOTE, [{"rip": 0x1122334455667788, "r15": 15}], UNLIMITED)
    data = path.read_bytes()
    kind, _, offset, _, _, size, _, _ = PROGRAM_HEADER.unpack_from(data, ELF_HEADER.size)
    assert kind == 4
    notes = data[offset : offset + size]
    name, length, number = struct.unpack_from("<III", notes)
    assert (name, length, number, notes[12:17]) == (5, 336, 1, b"CORE\0")
    assert struct.unpack_from("<I", notes, 20 + 32)[0] == 1
    assert struct.unpack_from("<Q", notes, 20 + 112)[0] == 15
    assert struct.unpack_from("<Q", notes, 20 + 112 + 8 * 16)[0] == 0x1122334455667788
    assert notes[20 + 336 :][12:23] == b"VMCOREINFO\0"


def test_a_limit_leaves_out_what_is_said_to_matter_least(guest: SyntheticGuest, tmp_path: Path) -> None:
    for pfn in range(3000, 3100):
        guest.poke(pfn << 12, b"x")
    first, second = np.arange(3000, 3040), np.arange(3050, 3100)
    path = tmp_path / "core"
    everything = write_core(path, guest.memory, NOTE, [], UNLIMITED).written
    limit = (everything - 20) * PAGE
    written = write_core(path, guest.memory, NOTE, [], limit, [("first", first), ("second", second)])
    assert written.left_out == {"first": 40}
    with core_map(path) as image:
        memory = GuestMemory(image)
        assert memory.read(3040 << 12, 1) == b"x"
        with pytest.raises(GuestReadError):
            memory.read(3000 << 12, 1)
    tiny = write_core(path, guest.memory, NOTE, [], 50 * PAGE, [("first", first), ("second", second)])
    assert tiny.written == 50
    assert tiny.left_out == {"first": 40, "second": 50, "beyond the limit": everything - 140}
    assert path.stat().st_blocks * 512 <= 50 * PAGE + (64 << 10)


def test_memory_that_is_too_scattered_for_a_table_becomes_zeros(
    guest: SyntheticGuest, tmp_path: Path
) -> None:
    every_other = np.arange(1, guest.pages, 2)
    for pfn in range(1, guest.pages):
        if not guest.ram[pfn << 12 : (pfn + 1) << 12].any():
            guest.poke(pfn << 12, b"x")
    path = tmp_path / "core"
    limit = guest.pages // 2 * PAGE
    write_core(path, guest.memory, NOTE, [], limit, [("odd", every_other)])
    before = len(os.listdir("/proc/self/fd"))
    with core_map(path) as image:
        assert 1024 < len(image.segments) <= 4096
        assert len(os.listdir("/proc/self/fd")) <= before + 2, "many users may open but 1024 files"


def test_live_memory_is_reached_through_the_device(guest: SyntheticGuest) -> None:
    segments = [
        {"start": s.start, "size": s.size, "fd": s.fd, "offset": s.fd_offset} for s in guest.memory.segments
    ]
    with live_map({"pid": os.getpid(), "segments": segments}) as memory:
        assert attach(GuestMemory(memory)).release == "6.1.0-test"
        guest.poke(5000 << 12, b"now")
        assert GuestMemory(memory).read(5000 << 12, 3) == b"now"
        assert not memory.segments[0].data.flags.writeable
    with pytest.raises(GuestError, match="cannot be reached"):
        live_map({"pid": os.getpid(), "segments": [{"start": 0, "size": PAGE, "fd": 9999, "offset": 0}]})
    with pytest.raises(GuestError, match="are not in the file"):
        live_map({"pid": os.getpid(), "segments": [{**segments[0], "size": 1 << 40}]})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no memory image"),
        (b"\x7fELF" + bytes(100), "not an ELF core"),
        (b"#!/bin/sh\n" + bytes(100), "not an ELF core"),
    ],
)
def test_other_files_are_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        core_map(path)
    with pytest.raises(UsageError, match="No such file"):
        core_map(tmp_path / "none")


@pytest.fixture(scope="module")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of few pages, and its headers."""
    guest, path = SyntheticGuest(), tmp_path_factory.mktemp("image") / "core"
    write_core(path, guest.memory, NOTE, [], 4 * PAGE)
    guest.close()
    return path


@given(st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_a_damaged_image_is_refused_or_read(small_image: Path, place: int, damage: bytes) -> None:
    """Headers that lead outside the file are noticed before anything is mapped."""
    with small_image.open("r+b") as core:
        before = os.pread(core.fileno(), len(damage), place)
        os.pwrite(core.fileno(), damage, place)
        try:
            with core_map(small_image) as image:
                for segment in image.segments:
                    assert segment.data.size == segment.size
        except UsageError:
            pass
        finally:
            os.pwrite(core.fileno(), before, place)
