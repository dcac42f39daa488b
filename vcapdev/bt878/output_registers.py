# SPDX-License-Identifier: GPL-2.0-or-later
"""What leaves the decoder, and its clock: formats, capture switches, VBI, PLL, timing generator.

Facts: as in :mod:`vcapdev.bt878.decoder_registers`, where a picture shows the whole block.
"""

from __future__ import annotations

from vcapdev.bt878.decoder_registers import Decoder8
from vcapdev.regs import Field


class Tglb(Decoder8):
    """Timing generator: a byte of its memory."""

    OFFSET = 0x080
    TGLB = Field(7, 0, unmodelled=True)


class Tgctrl(Decoder8):
    """Timing generator and clock."""

    OFFSET = 0x084
    TGCKO = Field(6, 5, inert=True, sure="M", doc="clock put out")
    TGCKI = Field(4, 3, values={1: "PLL"}, sure="M", doc="clock of the decoder; 0 is the crystal")
    TGC_AI = Field(2, unmodelled=True, sure="M")
    TGC_RESET = Field(1, unmodelled=True, sure="M", doc="memory address back to 0")
    TGC_VM = Field(0, unmodelled=True, sure="M", doc="run from memory")


PIXEL_FORMATS = {
    0: "RGB32",
    1: "RGB24",
    2: "RGB16",
    3: "RGB15",
    4: "YUY2",
    5: "BtYUV",
    6: "Y8",
    7: "RGB8",
    8: "YCrCb422",
    9: "YCrCb411",
    14: "RAW",
}


class ColorFmt(Decoder8):
    """Pixel format of each field."""

    OFFSET = 0x0D4
    ODD = Field(7, 4, values=PIXEL_FORMATS)
    EVEN = Field(3, 0, values=PIXEL_FORMATS)


class ColorCtl(Decoder8):
    """Colour: test bars, gamma, the order of bytes."""

    #   7       6      5       4       3          2           1          0
    # +-------+------+-------+-------+----------+-----------+----------+-----------+
    # |  EXT_ | CO-  | RGB_  | GAMMA | WSWAP    | WSWAP     | BSWAP    | BSWAP     |
    # | FRMRT | BARS | DED   |       | odd      | even      | odd      | even      |
    # +-------+------+-------+-------+----------+-----------+----------+-----------+
    OFFSET = 0x0D8
    EXT_FRMRATE = Field(7, unmodelled=True)
    COLOR_BARS = Field(6, unmodelled=True, doc="the chip's own colour bars instead of the input")
    RGB_DED = Field(5, inert=True, doc="dithering of RGB16 and RGB15")
    GAMMA = Field(4, sure="M", inert=True, doc="1: gamma is not removed; it never is here")
    WSWAP_ODD = Field(3)
    WSWAP_EVEN = Field(2)
    BSWAP_ODD = Field(1)
    BSWAP_EVEN = Field(0)


class CapCtl(Decoder8):
    """What is captured; looked at when a field begins (I)."""

    OFFSET = 0x0DC
    DITH_FRAME = Field(4, inert=True)
    CAPTURE_VBI_ODD = Field(3)
    CAPTURE_VBI_EVEN = Field(2)
    CAPTURE_ODD = Field(1)
    CAPTURE_EVEN = Field(0)


class VbiPackSize(Decoder8):
    """Length of a VBI line in dwords, low byte."""

    OFFSET = 0x0E0
    VBI_PKT_LO = Field(7, 0)


class VbiPackDel(Decoder8):
    """Start and length of a VBI line."""

    OFFSET = 0x0E4
    VBI_HDELAY = Field(7, 2)
    EXT_FRAME = Field(1, unmodelled=True, doc="VBI over the whole frame")
    VBI_PKT_HI = Field(0)


class Fcap(Decoder8):
    """Field capture counter (Bt848A on); only the name is known."""

    OFFSET = 0x0E8
    FCAP = Field(7, 0, unmodelled=True)


class PllFLo(Decoder8):
    """PLL: fraction, low byte. Clock = crystal / X * (I + F / 65536) / C."""

    OFFSET = 0x0F0
    PLL_F = Field(7, 0)


class PllFHi(Decoder8):
    """PLL: fraction, high byte."""

    OFFSET = 0x0F4
    PLL_F = Field(7, 0)


class PllXci(Decoder8):
    """PLL: dividers and integer."""

    OFFSET = 0x0F8
    PLL_X = Field(7, doc="1: crystal / 2")
    PLL_C = Field(6, doc="1: output / 4, else / 6")
    PLL_I = Field(5, 0)


class Dvsif(Decoder8):
    """Digital video input; 0 is analog."""

    OFFSET = 0x0FC
    DVSIF = Field(7, 0, unmodelled=True)


OUTPUT_REGISTERS = (
    Tglb, Tgctrl, ColorFmt, ColorCtl, CapCtl, VbiPackSize, VbiPackDel, Fcap, PllFLo, PllFHi, PllXci, Dvsif,
)  # fmt: skip
"""The declarations of this module, in the order of their offsets."""
