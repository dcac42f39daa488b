# SPDX-License-Identifier: GPL-2.0-or-later
"""The GPIO port: directions, the latch, the board's levels, the interrupt pin.

Protects against spurious GPINT, which makes bttv mask the interrupt, and against straps read wrongly.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vcapdev.bt878.gpio import Gpio
from vcapdev.bt878.registers import REGISTERS, IntStat
from vcapdev.regs import RegisterFile

ENABLE, DATA, CONTROL = 0x118, 0x200, 0x10C
PIN = 1 << 8
EDGE, INVERT = 0x8000, 0x4000


def make(levels: int = 0) -> tuple[RegisterFile, Gpio, list[int]]:
    registers = RegisterFile(REGISTERS)
    latched: list[int] = []
    return registers, Gpio(registers, levels, latched.append), latched


def test_inputs_read_the_board() -> None:
    registers, gpio, _ = make(0xA5A5A5)
    assert registers.read(DATA, 4) == 0xA5A5A5
    assert registers.read(DATA + 0xFC, 4) == 0xA5A5A5
    gpio.drive(0xFF, 0x12)
    assert registers.read(DATA, 4) == 0xA5A512


def test_writes_to_inputs_are_lost() -> None:
    registers, _, _ = make()
    registers.write(ENABLE, 4, 0x00FF00)
    registers.write(DATA, 4, 0xFFFFFF)
    assert registers.read(DATA, 4) == 0x00FF00
    registers.write(ENABLE, 4, 0xFFFFFF)
    assert registers.read(DATA, 4) == 0x00FF00, "what was written to inputs was not kept"


def test_the_latch_survives_a_turn_of_direction() -> None:
    registers, _, _ = make()
    registers.write(ENABLE, 4, 0xFF)
    registers.write(DATA, 1, 0x5A)
    registers.write(ENABLE, 4, 0)
    assert registers.read(DATA, 4) == 0
    registers.write(ENABLE, 4, 0xFF)
    assert registers.read(DATA, 4) == 0x5A


def test_edge_interrupt() -> None:
    registers, gpio, latched = make()
    registers.write(CONTROL, 4, EDGE)
    for level in (0, PIN, PIN, 0, PIN):
        gpio.drive(PIN, level)
    assert latched == [IntStat.GPINT.mask] * 2


def test_inverting_the_pin_is_no_edge() -> None:
    """bttv does that at probe, with the pin low."""
    registers, gpio, latched = make()
    registers.write(CONTROL, 4, EDGE | INVERT)
    gpio.drive(0xFF, 0xFF)
    assert latched == []
    gpio.drive(PIN, PIN)
    assert latched == []
    gpio.drive(PIN, 0)
    assert latched == [IntStat.GPINT.mask]


def test_level_interrupt_comes_back_while_active() -> None:
    _, gpio, latched = make()
    gpio.drive(PIN, PIN)
    gpio.refresh()
    gpio.drive(PIN, 0)
    gpio.refresh()
    assert latched == [IntStat.GPINT.mask] * 2


def test_reset() -> None:
    registers, gpio, _ = make(0x0000F0)
    registers.write(ENABLE, 4, 0xFFFFFF)
    registers.write(DATA, 4, 0x123456)
    gpio.drive(0xFF0000, 0xFF0000)
    registers.reset()
    gpio.reset()
    assert registers.read(DATA, 4) == 0x0000F0
    registers.write(ENABLE, 4, 0xFFFFFF)
    assert registers.read(DATA, 4) == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([ENABLE, DATA, CONTROL]), st.integers(0, 0xFFFF_FFFF)),
            st.tuples(st.just(0), st.integers(0, 0xFF_FFFF)),
        )
    )
)
def test_each_pin_has_one_driver(steps: list[tuple[int, int]]) -> None:
    registers, gpio, _ = make()
    board = latch = enable = 0
    for where, value in steps:
        if where:
            registers.write(where, 4, value)
            enable = value & 0xFF_FFFF if where == ENABLE else enable
            latch = (latch & ~enable) | (value & enable) if where == DATA else latch
        else:
            board = value
            gpio.drive(0xFF_FFFF, value)
        assert registers.read(DATA, 4) == (latch & enable) | (board & ~enable & 0xFF_FFFF)
