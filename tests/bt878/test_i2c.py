# SPDX-License-Identifier: GPL-2.0-or-later
"""I2C, bit-banged and in hardware, with an EEPROM and with nobody.

Protects against a bus that acknowledges what is not there, and against EEPROM bytes that arrive shifted. The
two masters below do what Linux's i2c-algo-bit and bttv's hardware mode do, on the register.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.bt878.eeprom import Eeprom24c02
from vcapdev.bt878.i2c import I2cBus, I2cController, Wires
from vcapdev.bt878.registers import REGISTERS, IntStat
from vcapdev.regs import RegisterFile

I2C = 0x110
CONTENTS = bytes((7 * at + 3) & 0xFF for at in range(256))


class Bench:
    """Register file, controller, EEPROM at 0x50; the interrupt status is latched as a chip does it."""

    def __init__(self, *, writable: bool = False) -> None:
        self.registers = RegisterFile(REGISTERS)
        self.eeprom = Eeprom24c02(0x50, CONTENTS, writable=writable)
        self.controller = I2cController(self.registers, I2cBus([self.eeprom]), self.latch)

    def latch(self, bits: int) -> None:
        self.registers.cell("INT_STAT").value |= bits


class BitMaster:
    """Software mode, one line at a time, as Linux's i2c-algo-bit."""

    def __init__(self, bench: Bench) -> None:
        self.registers = bench.registers
        self.scl = self.sda = 1

    def set(self, *, scl: int | None = None, sda: int | None = None) -> None:
        self.scl = self.scl if scl is None else scl
        self.sda = self.sda if sda is None else sda
        self.registers.write(I2C, 4, self.scl << 1 | self.sda)

    def line(self) -> int:
        return self.registers.read(I2C, 4) & 1

    def start(self) -> None:
        self.set(sda=1)
        self.set(scl=1)
        self.set(sda=0)
        self.set(scl=0)

    def stop(self) -> None:
        self.set(sda=0)
        self.set(scl=1)
        self.set(sda=1)

    def bit(self, value: int) -> int:
        self.set(sda=value)
        self.set(scl=1)
        seen = self.line()
        self.set(scl=0)
        return seen

    def write(self, byte: int) -> bool:
        for position in range(7, -1, -1):
            self.bit(byte >> position & 1)
        return self.bit(1) == 0

    def read(self, acknowledge: bool) -> int:
        byte = 0
        for _ in range(8):
            byte = byte << 1 | self.bit(1)
        self.bit(0 if acknowledge else 1)
        return byte

    def read_all(self, address: int, count: int) -> bytes:
        self.start()
        assert self.write(address << 1)
        assert self.write(0)
        self.start()
        assert self.write(address << 1 | 1)
        data = bytes(self.read(at < count - 1) for at in range(count))
        self.stop()
        return data


def test_bit_banged_read_of_a_whole_eeprom() -> None:
    bench = Bench()
    assert BitMaster(bench).read_all(0x50, 256) == CONTENTS
    assert bench.registers.get("INT_STAT") == 0, "software mode raises no interrupt"


def test_bit_banged_write_and_read_back() -> None:
    bench = Bench(writable=True)
    master = BitMaster(bench)
    master.start()
    assert [master.write(byte) for byte in (0xA0, 0x0E, 1, 2, 3)] == [True] * 5
    master.stop()
    assert bench.eeprom.data[8:16] == bytes([3, *CONTENTS[9:14], 1, 2]), "a page write wraps within its page"
    master.start()
    assert master.write(0xA1)
    assert master.read(False) == CONTENTS[9], "the pointer stands behind the last byte"
    master.stop()


def test_nobody_acknowledges_nothing() -> None:
    """The addresses that bttv probes for infrared receivers, and every other one."""
    bench = Bench()
    master = BitMaster(bench)
    for address in range(0x80):
        for direction in (0, 1):
            master.start()
            assert master.write(address << 1 | direction) == (address == 0x50), hex(address)
            if address == 0x50 and direction:
                master.read(False)  # a master must let the slave finish before it can stop
            master.stop()
            assert master.line() == 1


def test_lines_read_back_as_driven() -> None:
    bench = Bench()
    assert bench.registers.read(I2C, 4) == 3
    for value in (2, 0, 1, 3):
        bench.registers.write(I2C, 4, value)
        assert bench.registers.read(I2C, 4) == value


def test_slave_holds_the_line_for_the_acknowledge() -> None:
    bench = Bench()
    master = BitMaster(bench)
    master.start()
    for position in range(7, -1, -1):
        master.bit(0xA0 >> position & 1)
    master.set(sda=1)
    assert master.line() == 0, "the master has let go, the slave holds"
    master.set(scl=1)
    assert bench.registers.read(I2C, 4) == 2
    master.set(scl=0)
    assert master.line() == 1


def test_a_start_in_the_middle_of_a_byte_begins_anew() -> None:
    bench = Bench()
    master = BitMaster(bench)
    master.start()
    for _ in range(5):
        master.bit(1)
    assert master.read_all(0x50, 2) == CONTENTS[:2]


def hardware(bench: Bench, value: int) -> tuple[bool, int]:
    """One transfer as bttv does it: clear, write, wait for I2CDONE; (acknowledged, data byte)."""
    bench.registers.write(0x100, 4, IntStat.I2CDONE.mask | IntStat.RACK.mask)
    assert not bench.registers.read(0x100, 4) & IntStat.I2CDONE.mask
    bench.registers.write(I2C, 4, value | 0x8B)
    status = bench.registers.read(0x100, 4)
    assert status & IntStat.I2CDONE.mask, "no interrupt means a time-out in the driver"
    return bool(status & IntStat.RACK.mask), bench.registers.read(I2C, 4) >> 8 & 0xFF


NOSTOP, NOSTART, W3B = 0x20, 0x10, 0x04


def test_hardware_read() -> None:
    bench = Bench()
    assert hardware(bench, 0xA0 << 24 | 0 << 16)[0]
    data = []
    for at in range(256):
        flags = (W3B | NOSTOP if at < 255 else 0) | (NOSTART if at else 0)
        acknowledged, byte = hardware(bench, 0xA1 << 24 | flags)
        assert acknowledged
        data.append(byte)
    assert bytes(data) == CONTENTS


def test_hardware_write_of_many_bytes() -> None:
    """Bytes after the first are at the address's place: an odd one must not be taken for a read."""
    bench = Bench(writable=True)
    assert hardware(bench, 0xA0 << 24 | 0x20 << 16 | NOSTOP)[0]
    assert hardware(bench, 0x55 << 24 | NOSTART | NOSTOP)[0]
    assert hardware(bench, 0xA1 << 24 | NOSTART)[0]
    assert bench.eeprom.data[0x20:0x23] == bytes([0x55, 0xA1, CONTENTS[0x22]])


def test_hardware_write_of_three_bytes() -> None:
    bench = Bench(writable=True)
    assert hardware(bench, 0xA0 << 24 | 0x30 << 16 | 0x77 << 8 | W3B)[0]
    assert bench.eeprom.data[0x30] == 0x77


def test_hardware_refusal() -> None:
    bench = Bench()
    assert not hardware(bench, 0x80 << 24)[0]
    assert not hardware(bench, 0x81 << 24)[0]
    assert not hardware(bench, 0x81 << 24 | NOSTART)[0], "nor does the rest of a refused transfer go anywhere"
    assert hardware(bench, 0xA1 << 24)[0], "and the bus is free afterwards"


def test_reset_ends_a_transfer() -> None:
    bench = Bench()
    master = BitMaster(bench)
    master.start()
    for position in range(7, -1, -1):
        master.bit(0xA0 >> position & 1)
    bench.registers.reset()
    bench.controller.reset()
    assert bench.registers.read(I2C, 4) == 3
    assert BitMaster(bench).read_all(0x50, 3) == CONTENTS[:3]


def test_two_devices_at_one_address() -> None:
    with pytest.raises(ValueError, match="same address"):
        I2cBus([Eeprom24c02(0x50), Eeprom24c02(0x50)])


@given(st.lists(st.integers(0, 0xFFFF_FFFF), max_size=80))
def test_any_writes_are_safe(values: list[int]) -> None:
    bench = Bench(writable=True)
    for value in values:
        bench.registers.write(I2C, 4, value)
        seen = bench.registers.read(I2C, 4)
        if not value & 0x80:
            assert seen & 3 & ~value == 0, "a slave can only pull down"
    assert len(bench.eeprom.data) == 256


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200))
def test_any_levels_are_safe(levels: list[tuple[bool, bool]]) -> None:
    wires = Wires(I2cBus([Eeprom24c02(0x50, CONTENTS)]))
    for scl, sda in levels:
        wires.drive(scl, sda)
        assert wires.scl == scl
        assert not wires.sda or sda
