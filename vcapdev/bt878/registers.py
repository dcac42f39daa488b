# SPDX-License-Identifier: GPL-2.0-or-later
"""All registers of function 0, BAR0, 4 KiB.

Here are interrupts, DMA, I2C and GPIO (0x100 to 0x2ff); :mod:`vcapdev.bt878.decoder_registers` and
:mod:`vcapdev.bt878.output_registers` have the decoder's. Facts: data sheets of Bt848 (L848A_A, page
112) and Fusion 878A (100600B, pages 3-11 and 3-21), Linux 6.1 ``drivers/media/pci/bt8xx/bt848.h``.
A chip wires them up like this::

    self.registers = RegisterFile(REGISTERS, self)        # the chip's own write_INT_STAT and so on
    self.decoder = Decoder(self.registers, board, ...)    # these bind their own hooks
    self.i2c = I2cController(self.registers, ...)
    self.gpio = Gpio(self.registers, ...)
"""

from __future__ import annotations

from vcapdev.bt878.decoder_registers import DECODER_REGISTERS
from vcapdev.bt878.output_registers import OUTPUT_REGISTERS
from vcapdev.regs import Field, Register, Register24, Register32


class Interrupt32(Register32):
    """Base of the interrupt registers."""

    BLOCK = "interrupt"
    SURE = "K"


class IntStat(Interrupt32):
    """Interrupt status: a 1 written clears a latched bit; bits are set whatever the mask says."""

    #   31-28   27  26   25    24 23-20  19    18    17     16    15    14    13    12
    # +-------+----+--+----+-----+--+-----+-----+------+------+-----+----+-----+----+
    # | RISCS |RISC|  |RACK|FIELD|  |SCERR|OCERR|PABORT|RIPERR|PPERR|FDSR|FTRGT|FBUS|
    # |       |_EN |  |    |     |  |     |     |      |      |     |    |     |    |
    # +-------+----+--+----+-----+--+-----+-----+------+------+-----+----+-----+----+
    #    11   10   9      8    7 6   5     4     3     2     1     0
    # +-----+--+-----+-------+---+-----+-----+-----+-----+-----+------+
    # |RISCI|  |GPINT|I2CDONE|   |VPRES|HLOCK|OFLOW|HSYNC|VSYNC|FMTCHG|
    # +-----+--+-----+-------+---+-----+-----+-----+-----+-----+------+
    OFFSET = 0x100
    SURE = "KD"
    RESET_SURE = "I"
    RISCS = Field(31, 28, live=True, doc="flags that instructions set and reset")
    RISC_EN = Field(27, live=True, doc="the DMA controller runs")
    RACK = Field(25, ro=True, doc="the last I2C transfer was acknowledged; valid when I2CDONE is set")
    FIELD = Field(24, live=True, doc="1 in even (bottom) fields")
    SCERR = Field(19, w1c=True, doc="the program's lines and the video's are out of step")
    OCERR = Field(18, w1c=True, doc="illegal instruction")
    PABORT = Field(17, w1c=True, doc="master or target abort")
    RIPERR = Field(16, w1c=True, doc="parity error in an instruction")
    PPERR = Field(15, w1c=True, doc="parity error on the bus")
    FDSR = Field(14, w1c=True, sure="KM", doc="data do not match the program")
    FTRGT = Field(13, w1c=True, sure="KM", doc="FIFO overrun by a slow target")
    FBUS = Field(12, w1c=True, sure="KM", doc="FIFO overrun, the bus was not granted")
    RISCI = Field(11, w1c=True, doc="an instruction had its IRQ bit")
    GPINT = Field(9, w1c=True, doc="the GPIO interrupt pin")
    I2CDONE = Field(8, w1c=True, doc="an I2C hardware transfer ended")
    VPRES = Field(5, w1c=True, doc="video came or went")
    HLOCK = Field(4, w1c=True, doc="horizontal lock changed")
    OFLOW = Field(3, w1c=True, doc="converter overflow")
    HSYNC = Field(2, w1c=True, doc="each line")
    VSYNC = Field(1, w1c=True, doc="each field")
    FMTCHG = Field(0, w1c=True, doc="525 or 625 lines changed")

    LATCHED = 0x000F_FB3F
    """All bits that raise an interrupt."""


class IntMask(Interrupt32):
    """Interrupt mask: INTA# is asserted while status, mask and latched bits have one in common."""

    OFFSET = 0x104
    RESET_SURE = "I"
    ETBF = Field(23, inert=True, sure="KB", doc="430FX workaround of the Bt848; FreeBSD always sets it")
    SCERR = Field(19)
    OCERR = Field(18)
    PABORT = Field(17)
    RIPERR = Field(16)
    PPERR = Field(15)
    FDSR = Field(14)
    FTRGT = Field(13)
    FBUS = Field(12)
    RISCI = Field(11)
    GPINT = Field(9)
    I2CDONE = Field(8)
    VPRES = Field(5)
    HLOCK = Field(4)
    OFLOW = Field(3)
    HSYNC = Field(2)
    VSYNC = Field(1)
    FMTCHG = Field(0)


class GpioDmaCtl(Register32):
    """DMA switches and FIFO trigger points, and how the GPIO port works."""

    #  31    16 15    14    13   12 11 10    9 8  7  6  5  4  3  2  1     0
    # +--------+-----+-----+-----+-----+-----+---+-----+-----+-----+-----+-----+
    # |        |GP-  |GP-  |GP-  |GPIO-|GPC- |   |PLTP |PLTP |PKTP |RISC_|FIFO_|
    # |        |INTC |INTI |WEC  |MODE |LKMD |   |23   |1    |     |EN   |EN   |
    # +--------+-----+-----+-----+-----+-----+---+-----+-----+-----+-----+-----+
    OFFSET = 0x10C
    BLOCK = "dma"
    SURE = "K"
    GPINTC = Field(15, sure="KD", values={1: "edge"}, doc="GPINT: 0 follows the pin's level")
    GPINTI = Field(14, sure="KD", doc="the pin is inverted")
    GPWEC = Field(13, sure="M", unmodelled=True)
    GPIOMODE = Field(12, 11, sure="M", unmodelled=True, values={1: "SPI out", 2: "SPI in"})
    GPCLKMODE = Field(10, sure="M", unmodelled=True)
    PLTP23 = Field(7, 6, sure="M", inert=True, doc="trigger of FIFO 2 and 3: 4, 8, 16, 32 dwords")
    PLTP1 = Field(5, 4, sure="M", inert=True, doc="trigger of FIFO 1")
    PKTP = Field(3, 2, sure="M", inert=True, doc="trigger in packed mode")
    RISC_ENABLE = Field(1, doc="0 to 1: fetch from RISC_STRT_ADD")
    FIFO_ENABLE = Field(0, doc="0 holds the FIFO empty")


class I2c(Register32):
    """I2C: a hardware master (MODE=1) or two lines for software to wiggle."""

    #  31        24 23        16 15         8  7    6    5      4       3    2   1   0
    # +------------+------------+------------+----+----+------+-------+----+---+---+---+
    # | DB0        | DB1        | DB2, data  |MODE|RATE|NOSTOP|NOSTART|SYNC|W3B|SCL|SDA|
    # | address    | to write   | read       |    |    |      |       |    |   |   |   |
    # +------------+------------+------------+----+----+------+-------+----+---+---+---+
    OFFSET = 0x110
    BLOCK = "i2c"
    SURE = "KD"
    RESET = 0x3
    RESET_SURE = "I"
    DB0 = Field(31, 24, doc="address and R/W bit; a data byte with NOSTART")
    DB1 = Field(23, 16, doc="first byte to write")
    DB2 = Field(15, 8, doc="second byte to write, or the byte read")
    MODE = Field(7, values={1: "hardware"})
    RATE = Field(6, values={1: "396.8 kHz"})
    NOSTOP = Field(5)
    NOSTART = Field(4)
    SYNC = Field(3, doc="a slave may stretch the clock")
    W3B = Field(2, doc="write three bytes, or acknowledge the byte read")
    SCL = Field(1)
    SDA = Field(0)


class RiscStrtAdd(Register32):
    """Where the program begins; loaded when RISC_ENABLE goes from 0 to 1."""

    OFFSET = 0x114
    BLOCK = "dma"
    SURE = "K"
    ADDRESS = Field(31, 2)


class GpioOutEn(Register24):
    """GPIO: 1 drives the pin."""

    OFFSET = 0x118
    BLOCK = "gpio"
    SURE = "D"
    RESET_SURE = "D"
    OUT_EN = Field(23, 0)


class GpioRegInp(Register24):
    """GPIO: 1 samples the pin through a register."""

    OFFSET = 0x11C
    BLOCK = "gpio"
    SURE = "K"
    REG_INP = Field(23, 0, inert=True)


class RiscCount(Register32):
    """The program counter: address of the instruction that is executed or waits."""

    OFFSET = 0x120
    BLOCK = "dma"
    SURE = "K"
    PC = Field(31, 0, live=True)


class GpioData(Register24):
    """The GPIO port: latch of a pin that is driven, level of one that is not; sixty-four times for bursts."""

    OFFSET = 0x200
    REPEAT = 64
    BLOCK = "gpio"
    SURE = "KD"
    DATA = Field(23, 0)


REGISTERS: tuple[type[Register], ...] = (
    *DECODER_REGISTERS, *OUTPUT_REGISTERS, IntStat, IntMask, GpioDmaCtl, I2c, RiscStrtAdd, GpioOutEn,
    GpioRegInp, RiscCount, GpioData,
)  # fmt: skip
"""Every declaration, for :class:`vcapdev.regs.RegisterFile`."""
