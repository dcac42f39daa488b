# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration space: identity, write masks, status bits, the gates, and what lspci makes of it.

Protects the identity by which drivers find the card, and the rule that nothing but this gates DMA.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.bt878.board import board_names, load_board
from vcapdev.bt878.identity import config_space
from vcapdev.dma import Abort
from vcapdev.pci.config import Command, ConfigSpace, Status

GOLDEN = Path(__file__).parent / "golden"


def config(board: str = "pv143") -> ConfigSpace:
    return config_space(load_board(board))


def word(space: ConfigSpace, offset: int, size: int = 2) -> int:
    return int.from_bytes(space.read(offset, size), "little")


def write(space: ConfigSpace, offset: int, value: int, size: int = 2) -> None:
    space.write(offset, value.to_bytes(size, "little"))


def test_rev_02_equals_a_real_card() -> None:
    """The dump of a real rev 02 card, but for header type (single function) and what its BIOS set."""
    real = {0x00: 0x036E_109E, 0x08: 0x0400_0002, 0x34: 0, 0x40: 0}
    space = config("vc100")
    for offset, value in real.items():
        assert word(space, offset, 4) == value, hex(offset)
    assert word(space, 0x04, 4) == 0x0280_0000
    assert word(space, 0x3C, 4) == 0x2810_0100
    assert word(space, 0x2C, 4) == 0x6607_107D


def test_rev_11_has_capabilities() -> None:
    space = config()
    assert word(space, 0x04, 4) == 0x0290_0000
    assert word(space, 0x08, 4) == 0x0400_0011
    assert word(space, 0x2C, 4) == 0x1430_AA00
    assert space.read(0x34, 1) == b"\x44"
    assert space.read(0x44, 2) == b"\x03\x4c"
    assert space.read(0x4C, 4) == b"\x01\x00\x22\x00"


@pytest.mark.parametrize("name", board_names())
def test_write_masks(name: str) -> None:
    """All ones, then all zeros, written everywhere: only what the chip has changes."""
    space = config(name)
    before = space.read(0, 256)
    space.write(0, b"\xff" * 256)
    changed = {
        at: now for at, (now, old) in enumerate(zip(space.read(0, 256), before, strict=True)) if now != old
    }
    common = {0x04: 0x46, 0x05: 0x05, 0x0D: 0xFF, 0x11: 0xF0, 0x12: 0xFF, 0x13: 0xFF, 0x3C: 0xFF, 0x40: 0x06}
    new = {0x46: 0xFC, 0x47: 0x7F, 0x48: 0xFF, 0x49: 0xFF, 0x4A: 0xFF, 0x4B: 0xFF, 0x50: 0x03}
    assert changed == common | (new if name != "vc100" else {})


def test_bar_sizing() -> None:
    space = config()
    write(space, 0x10, 0xFFFF_FFFF, 4)
    assert word(space, 0x10, 4) == 0xFFFF_F008
    write(space, 0x10, 0xFE00_0000, 4)
    assert word(space, 0x10, 4) == 0xFE00_0008
    for bar in range(0x14, 0x28, 4):
        write(space, bar, 0xFFFF_FFFF, 4)
        assert word(space, bar, 4) == 0


def test_device_control_byte_for_old_bridges() -> None:
    """bttv on an i440FX reads, sets bit 1, and writes back."""
    space = config()
    write(space, 0x40, space.read(0x40, 1)[0] | 2, 1)
    assert space.read(0x40, 1) == b"\x02"


def test_gates() -> None:
    space = config()
    seen: list[tuple[bool, bool, bool]] = []
    space.subscribe(lambda: seen.append((space.memory_enabled, space.bus_master, space.intx_enabled)))
    assert (space.memory_enabled, space.bus_master, space.intx_enabled) == (False, False, True)
    write(space, 0x04, Command.MEMORY)
    write(space, 0x04, Command.MEMORY | Command.MASTER)
    write(space, 0x05, Command.INTX_DISABLE >> 8, 1)
    write(space, 0x3C, 11, 1)
    assert seen == [(True, False, True), (True, True, True), (True, True, False)]
    space.reset()
    assert seen[-1] == (False, False, True)


def test_one_write_is_announced_once() -> None:
    space = config()
    calls: list[int] = []
    space.subscribe(lambda: calls.append(1))
    write(space, 0x04, 0x0006_0406, 4)
    assert calls == [1]


@pytest.mark.parametrize(
    ("why", "bit"),
    [(Abort.UNMAPPED, Status.RECEIVED_MASTER_ABORT), (Abort.READ_ONLY, Status.RECEIVED_TARGET_ABORT)],
)
def test_aborts_latch_until_a_one_is_written(why: Abort, bit: Status) -> None:
    space = config()
    space.report_abort(why)
    assert word(space, 0x06) == 0x0290 | bit
    write(space, 0x06, 0)
    write(space, 0x06, 0xFFFF & ~bit)
    assert word(space, 0x06) == 0x0290 | bit
    write(space, 0x06, bit)
    assert word(space, 0x06) == 0x0290


def test_no_transfer_no_abort() -> None:
    space = config()
    space.report_abort(Abort.MASTER_DISABLED)
    assert word(space, 0x06) == 0x0290


def test_reset_forgets_everything() -> None:
    space = config()
    before = space.read(0, 256)
    space.write(0, b"\xff" * 256)
    space.report_abort(Abort.UNMAPPED)
    space.reset()
    assert space.read(0, 256) == before
    assert space.powered


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(min_size=1, max_size=8)), max_size=40))
def test_any_writes_keep_the_identity(writes: list[tuple[int, bytes]]) -> None:
    space = config()
    fixed = [
        *range(0x04),
        *range(0x08, 0x0D),
        *range(0x0E, 0x10),
        *range(0x14, 0x3C),
        0x3D,
        0x3E,
        0x3F,
        0x44,
        0x45,
    ]
    before = space.read(0, 256)
    for offset, data in writes:
        space.write(offset, data[: 256 - offset])
        assert len(space.data) == 256
    after = space.read(0, 256)
    assert [after[at] for at in fixed] == [before[at] for at in fixed]


def dump(space: ConfigSpace) -> str:
    """Configuration space as ``lspci -xxx`` prints it, which ``lspci -F`` decodes without hardware."""
    data = space.read(0, 256)
    lines = [f"{at:02x}: {data[at : at + 16].hex(' ')}\n" for at in range(0, 256, 16)]
    return "00:00.0 card\n" + "".join(lines)


@pytest.mark.parametrize("name", ["pv143", "vc100"])
def test_dump_equals_the_golden_one(name: str) -> None:
    """The bytes after a BIOS and bttv have set the card up; golden/README.md says how lspci decodes them."""
    space = config(name)
    write(space, 0x10, 0xFEBF_F000, 4)
    write(space, 0x04, Command.MEMORY | Command.MASTER | Command.SERR)
    write(space, 0x0D, 64, 1)
    write(space, 0x3C, 0x0A, 1)
    assert dump(space) == (GOLDEN / f"{name}.hex").read_text()
