# SPDX-License-Identifier: GPL-2.0-or-later
"""The I2C master of the chip, both ways that software can use it, and the bus behind it.

::

    register 0x110                                       I2cBus
    MODE=1: bytes ---------------------------------------> start, write, read, stop ---> device
    MODE=0: SCL, SDA ---> Wires: bits to bytes, -----------^                              at its
            read back <-- wired-AND of both ends                                          address

Nobody at an address means no acknowledge. Sources: Fusion 878A data sheet (100600B) pages 3-21 and 3-22;
Linux 6.1 ``drivers/media/pci/bt8xx/bttv-i2c.c``; the I2C-bus specification for starts, stops and bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Protocol

from vcapdev.bt878.registers import I2c, IntStat
from vcapdev.regs import RegisterFile


class I2cDevice(Protocol):
    """A slave."""

    @property
    def address(self) -> int:
        """Seven bits."""

    def begin(self, read: bool) -> bool:
        """A start with our address; True acknowledges."""

    def write(self, byte: int) -> bool:
        """A byte from the master; True acknowledges."""

    def read(self) -> int:
        """The next byte for the master."""

    def end(self) -> None:
        """A stop."""


class I2cBus:
    """Bytes between the master and whoever answers.

    :raise ValueError: two devices at one address.
    """

    def __init__(self, devices: Sequence[I2cDevice] = ()) -> None:
        self._devices = {device.address: device for device in devices}
        if len(self._devices) != len(devices):
            raise ValueError("two I2C devices have the same address")
        self._selected: I2cDevice | None = None
        self.refuses: Callable[[int], bool] | None = (
            None  # a fault: asked at each start whether nobody answers
        )
        self.reading = False
        """Direction that the last start gave."""

    @property
    def selected(self) -> bool:
        """Whether a device takes part in the transfer that is under way."""
        return self._selected is not None

    def start(self, byte: int) -> bool:
        """A start, or a repeated one, with address and direction; whether somebody acknowledged."""
        refused = self.refuses is not None and self.refuses(byte)
        device = None if refused else self._devices.get(byte >> 1)
        self.reading = bool(byte & 1)
        self._selected = device if device is not None and device.begin(self.reading) else None
        return self._selected is not None

    def write(self, byte: int) -> bool:
        """A byte to the device that was started; whether it acknowledged."""
        return self._selected is not None and self._selected.write(byte)

    def read(self) -> int:
        """A byte from the device; 0xff from nobody."""
        return 0xFF if self._selected is None else self._selected.read() & 0xFF

    def stop(self) -> None:
        """A stop."""
        if self._selected is not None:
            self._selected.end()
        self._selected = None


class _State(Enum):
    IDLE = auto()  # waits for a start, or for the stop of a transfer that it has no part in
    ADDRESS = auto()
    RECEIVE = auto()
    SEND = auto()


class Wires:
    """The slave end of SCL and SDA: finds starts, stops and bits in the levels that the master drives.

    The slave changes SDA only when SCL falls; ``scl`` and ``sda`` are the levels on the wires (True is high).
    """

    def __init__(self, bus: I2cBus) -> None:
        self._bus = bus
        self.reset()

    def reset(self) -> None:
        """Both lines released, no transfer."""
        self.scl = self.sda = True
        self._state = _State.IDLE
        self._pull = False  # the slave holds SDA low
        self._bits = 0  # of the byte so far, either way
        self._shift = 0
        self._acknowledging = False
        self._wanted = False  # the master acknowledged the byte that was sent

    def drive(self, scl: bool, sda: bool) -> None:
        """The master's levels, as of now."""
        line = sda and not self._pull
        if self.scl and scl:
            if self.sda and not line:
                self._begin()
            elif line and not self.sda:
                self._end()
        elif scl:
            self._rise(line)
        elif self.scl:
            self._fall()
        self.scl = scl
        self.sda = sda and not self._pull

    def _begin(self) -> None:
        self._state = _State.ADDRESS
        self._bits = self._shift = 0
        self._acknowledging = self._pull = False

    def _end(self) -> None:
        self._state = _State.IDLE
        self._pull = False
        self._bus.stop()

    def _rise(self, line: bool) -> None:
        if self._state is _State.SEND:
            if self._bits == 8:
                self._wanted = not line
        elif self._state is not _State.IDLE and not self._acknowledging:
            self._shift = (self._shift << 1 | line) & 0xFF
            self._bits += 1

    def _fall(self) -> None:
        if self._state is _State.SEND:
            self._fall_sending()
        elif self._acknowledging:
            self._after_acknowledge()
        elif self._bits == 8:
            self._pull = self._take_byte()
            self._acknowledging = True

    def _take_byte(self) -> bool:
        if self._state is _State.ADDRESS:
            return self._bus.start(self._shift)
        return self._bus.write(self._shift)

    def _after_acknowledge(self) -> None:
        acknowledged, self._pull = self._pull, False
        self._acknowledging = False
        self._bits = self._shift = 0
        if not acknowledged:
            self._state = _State.IDLE
        elif self._bus.reading:
            self._state = _State.SEND
            self._next_byte()
        else:
            self._state = _State.RECEIVE

    def _fall_sending(self) -> None:
        self._bits += 1
        if self._bits < 8:
            self._pull = not self._shift >> (7 - self._bits) & 1
        elif self._bits == 8:
            self._pull = False  # the master's turn, to acknowledge
        elif self._wanted:
            self._next_byte()
        else:
            self._state = _State.IDLE

    def _next_byte(self) -> None:
        self._bits = 0
        self._shift = self._bus.read()
        self._pull = not self._shift & 0x80


class I2cController:
    """Register 0x110: hooks ``read_I2C`` and ``write_I2C``, bound at construction.

    :param registers: the chip's; also RACK in INT_STAT is set here.
    :param latch: the chip's way to latch INT_STAT bits and to look at its interrupt line again.
    """

    def __init__(self, registers: RegisterFile, bus: I2cBus, latch: Callable[[int], None]) -> None:
        self._register = registers.cell("I2C")
        self._status = registers.cell("INT_STAT")
        self.bus = bus
        self._wires = Wires(bus)
        self._latch = latch
        registers.bind(self)

    def reset(self) -> None:
        """Lines released, no transfer; the register itself is reset by its file."""
        self.bus.stop()
        self._wires.reset()

    def read_I2C(self) -> int:
        """In software mode SCL and SDA show the wires, not what was written."""
        value = self._register.value
        if value & I2c.MODE.mask:
            return value
        lines = self._wires.scl * I2c.SCL.mask | self._wires.sda * I2c.SDA.mask
        return (value & ~(I2c.SCL.mask | I2c.SDA.mask)) | lines

    def write_I2C(self, value: int) -> None:
        """Move the wires, or do a whole transfer and latch I2CDONE."""
        if not value & I2c.MODE.mask:
            self._wires.drive(bool(value & I2c.SCL.mask), bool(value & I2c.SDA.mask))
            return
        acknowledged = self._transfer(value)
        if not value & I2c.NOSTOP.mask or not acknowledged:
            self.bus.stop()
        self._status.value = IntStat.RACK.put(self._status.value, acknowledged)
        self._latch(IntStat.I2CDONE.mask)

    def _transfer(self, value: int) -> bool:
        """One hardware transfer; whether all of it was acknowledged.

        With a start: DB0 is the address; then DB1 (and DB2 with W3B) are written, or a byte is read into DB2.
        Without: DB0 is one more byte to write, or, after a start for reading, one more byte is read. The
        direction is the start's, since bit 24 is then part of the data.
        """
        first = I2c.DB0.get(value)
        if value & I2c.NOSTART.mask:
            return self._fetch(value) if self.bus.reading else self.bus.write(first)
        if not self.bus.start(first):
            return False
        if self.bus.reading:
            return self._fetch(value)
        more = [I2c.DB1.get(value), I2c.DB2.get(value)] if value & I2c.W3B.mask else [I2c.DB1.get(value)]
        return all(self.bus.write(byte) for byte in more)

    def _fetch(self, value: int) -> bool:
        if not self.bus.selected:
            return False
        self._register.value = I2c.DB2.put(value, self.bus.read())
        return True
