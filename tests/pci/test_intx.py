# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt line: level, status bit, disable bit, power state.

Protects against a line that stays up after a reset, and against edges told twice.
"""

from __future__ import annotations

from vcapdev.bt878.board import load_board
from vcapdev.bt878.identity import config_space
from vcapdev.pci.config import ConfigSpace
from vcapdev.pci.intx import Intx


def make() -> tuple[ConfigSpace, Intx, list[bool]]:
    space = config_space(load_board("pv143"))
    line: list[bool] = []
    return space, Intx(space, line.append), line


def pending(space: ConfigSpace) -> bool:
    return bool(space.read(0x06, 1)[0] & 0x08)


def test_changes_only() -> None:
    _, intx, line = make()
    for level in (False, True, True, False, False, True):
        intx.set_level(level)
    assert line == [True, False, True]
    assert intx.asserted


def test_disable_bit_gates_the_line_but_not_the_status() -> None:
    space, intx, line = make()
    space.write(0x05, b"\x04")
    intx.set_level(True)
    assert (line, pending(space)) == ([], True)
    space.write(0x05, b"\x00")
    assert line == [True]
    space.write(0x05, b"\x04")
    assert (line, pending(space)) == ([True, False], True)
    intx.set_level(False)
    assert (line, pending(space)) == ([True, False], False)


def test_sleep_gates_the_line() -> None:
    space, intx, line = make()
    intx.set_level(True)
    space.write(0x50, b"\x03")
    assert line == [True, False]


def test_software_cannot_clear_the_status_bit() -> None:
    space, intx, _ = make()
    intx.set_level(True)
    space.write(0x06, b"\xff\xff")
    assert pending(space)


def test_reset_keeps_what_the_chip_still_wants() -> None:
    """The chip's own reset, which comes next, lowers its request."""
    space, intx, line = make()
    intx.set_level(True)
    space.reset()
    assert pending(space)
    intx.set_level(False)
    assert (line, pending(space)) == ([True, False], False)
