# SPDX-License-Identifier: GPL-2.0-or-later
"""The video decoder's registers, BAR0 0x000 to 0x0fc: eight bits each, one to a dword. Input and scaling.

Facts: data sheets of Bt848 (L848A_A, pages 94 to 112) and Fusion 878A (100600B), Linux 6.1
``drivers/media/pci/bt8xx/bt848.h``, FreeBSD ``sys/dev/bktr``. Registers that scale and crop exist twice::

    0x000 +----------------------+            0x080 +----------------------+
          | status, input, norm  |                  | timing generator     |
    0x00c | CROP ... HSCALE_LO   |  even     0x08c  | CROP ... HSCALE_LO   |  odd
          | 02c CONTROL          |  fields          | 0ac CONTROL          |  fields
          | 040 SCLOOP           |                  | 0c0 SCLOOP           |
          | 04c VSCALE, 06c VTC  |                  | 0cc VSCALE, 0ec VTC  |
    0x07c | SRESET               |            0x0d4 | COLOR_FMT .. CAP_CTL |  both fields,
    0x080 +----------------------+            0x0e0 | VBI, 0f0 PLL, DVSIF  |  a bit for each
                                              0x100 +----------------------+

The copy for even (bottom) fields has the prefix ``E_``, the one for odd (top) fields ``O_``. The reset values
are consistent with each other: 640x480 NTSC on a 28.6 MHz clock.
"""

from __future__ import annotations

from vcapdev.regs import Field, Register8


class Decoder8(Register8):
    """Base of the decoder's registers; writing SRESET gives them their reset values."""

    BLOCK = "decoder"
    SURE = "K"


class Dstatus(Decoder8):
    """Device status. PRES, HLOC, FIELD and NUML move by themselves; a write clears what is latched."""

    #   7      6      5       4      3      2       1     0
    # +------+------+-------+------+------+-------+-----+-----+
    # | PRES | HLOC | FIELD | NUML | CSEL | PLOCK | LOF | COF |
    # +------+------+-------+------+------+-------+-----+-----+
    OFFSET = 0x000
    SURE = "KD"
    RESET_SURE = "D"
    PRES = Field(7, live=True, doc="video is present")
    HLOC = Field(6, live=True, doc="horizontal lock")
    FIELD = Field(5, live=True, doc="1 in even (bottom) fields")
    NUML = Field(4, live=True, doc="1: 625 lines a frame")
    CSEL = Field(3, ro=True, doc="crystal in use (Bt848); reads 0 here")
    PLOCK = Field(2, wc=True, doc="1: the PLL is, or was, out of lock")
    LOF = Field(1, wc=True, doc="luma converter overflowed")
    COF = Field(0, wc=True, doc="chroma converter overflowed")


class Iform(Decoder8):
    """Input format: multiplexer, crystal, television norm."""

    OFFSET = 0x004
    RESET = 0x58
    HACTIVE = Field(7, unmodelled=True)
    MUXSEL = Field(6, 5, values={0: "mux3", 1: "mux2", 2: "mux0", 3: "mux1"})
    XTSEL = Field(4, 3, values={1: "XT0", 2: "XT1", 3: "auto"})
    FORMAT = Field(
        2,
        0,
        values={
            0: "auto",
            1: "NTSC-M",
            2: "NTSC-J",
            3: "PAL-BDGHI",
            4: "PAL-M",
            5: "PAL-N",
            6: "SECAM",
            7: "PAL-Nc",
        },
    )


class Tdec(Decoder8):
    """Temporal decimation: drop some of the 50 or 60 fields."""

    OFFSET = 0x008
    DEC_FIELD = Field(7, unmodelled=True, doc="count fields, not frames")
    FLDALN = Field(6, unmodelled=True)
    DEC_RAT = Field(
        5, 0, unmodelled=True, sure="I", doc="how many to drop; bt848.h has 4:0, but 60 needs six bits"
    )


class Crop(Decoder8):
    """The high bits of the four cropping values."""

    COPIES = {"E_": 0x00C, "O_": 0x08C}
    RESET = 0x12
    VDELAY_MSB = Field(7, 6)
    VACTIVE_MSB = Field(5, 4)
    HDELAY_MSB = Field(3, 2)
    HACTIVE_MSB = Field(1, 0)


class VdelayLo(Decoder8):
    """Half lines from the end of vertical reset to the first active line, low byte."""

    COPIES = {"E_": 0x010, "O_": 0x090}
    RESET = 0x16
    RESET_SURE = "D"
    VDELAY = Field(7, 0)


class VactiveLo(Decoder8):
    """Lines given to the vertical scaler, counted in a frame, low byte."""

    COPIES = {"E_": 0x014, "O_": 0x094}
    RESET = 0xE0
    RESET_SURE = "D"
    VACTIVE = Field(7, 0)


class HdelayLo(Decoder8):
    """Scaled pixels from the end of HRESET to the first active one, low byte."""

    COPIES = {"E_": 0x018, "O_": 0x098}
    RESET = 0x78
    RESET_SURE = "D"
    HDELAY = Field(7, 0)


class HactiveLo(Decoder8):
    """Scaled pixels put out for each line, low byte."""

    COPIES = {"E_": 0x01C, "O_": 0x09C}
    RESET = 0x80
    HACTIVE = Field(7, 0)


class HscaleHi(Decoder8):
    """Horizontal scaling: (input / output - 1) * 4096, high byte."""

    COPIES = {"E_": 0x020, "O_": 0x0A0}
    RESET = 0x02
    HSCALE = Field(7, 0)


class HscaleLo(Decoder8):
    """Horizontal scaling, low byte."""

    COPIES = {"E_": 0x024, "O_": 0x0A4}
    RESET = 0xAC
    HSCALE = Field(7, 0)


class Bright(Decoder8):
    """Brightness, signed."""

    OFFSET = 0x028
    BRIGHT = Field(7, 0, inert=True)


class Control(Decoder8):
    """Luma and chroma paths."""

    COPIES = {"E_": 0x02C, "O_": 0x0AC}
    RESET = 0x20
    LNOTCH = Field(7, inert=True)
    COMP = Field(6, doc="1: luma and chroma come on two wires (S-Video)")
    LDEC = Field(5, inert=True, doc="luma decimation filter off")
    CBSENSE = Field(4, unmodelled=True, doc="chroma order of the first sample")
    CON_MSB = Field(2, inert=True)
    SAT_U_MSB = Field(1, inert=True)
    SAT_V_MSB = Field(0, inert=True)


class ContrastLo(Decoder8):
    """Luma gain, low byte."""

    OFFSET = 0x030
    RESET = 0xD8
    CONTRAST = Field(7, 0, inert=True)


class SatULo(Decoder8):
    """U gain, low byte."""

    OFFSET = 0x034
    RESET = 0xFE
    SAT_U = Field(7, 0, inert=True)


class SatVLo(Decoder8):
    """V gain, low byte."""

    OFFSET = 0x038
    RESET = 0xB4
    SAT_V = Field(7, 0, inert=True)


class Hue(Decoder8):
    """Hue, signed."""

    OFFSET = 0x03C
    HUE = Field(7, 0, inert=True)


class Scloop(Decoder8):
    """Chroma gain control and luma peaking."""

    COPIES = {"E_": 0x040, "O_": 0x0C0}
    PEAK = Field(7, inert=True)
    CAGC = Field(6, inert=True)
    CKILL = Field(5, inert=True)
    HFILT = Field(4, 3, inert=True)


class WcUp(Decoder8):
    """White crush, upper limit."""

    OFFSET = 0x044
    RESET = 0xCF
    WC_UP = Field(7, 0, inert=True)


class Oform(Decoder8):
    """Output format: luma range and coring."""

    OFFSET = 0x048
    RANGE = Field(7, values={1: "full"}, inert=True, doc="0: luma 16 to 235")
    CORE = Field(6, 5, inert=True)


class VscaleHi(Decoder8):
    """Vertical scaling, high bits: 0x10000 - (input / output - 1) * 512, thirteen bits."""

    COPIES = {"E_": 0x04C, "O_": 0x0CC}
    RESET = 0x60
    RESET_SURE = "D"
    YCOMB = Field(7, inert=True)
    COMB = Field(6, inert=True)
    INT = Field(5, doc="interlaced scaling")
    VSCALE = Field(4, 0)


class VscaleLo(Decoder8):
    """Vertical scaling, low byte."""

    COPIES = {"E_": 0x050, "O_": 0x0D0}
    RESET_SURE = "D"
    VSCALE = Field(7, 0)


class Test(Decoder8):
    """Factory tests."""

    OFFSET = 0x054
    TEST = Field(7, 0, unmodelled=True)


class Areset(Decoder8):
    """Reset of the audio block: Linux writes 0x80, then 0, on a device 0x036e."""

    OFFSET = 0x058
    ARESET = Field(7, inert=True, doc="there is no audio block here")


class Adelay(Decoder8):
    """When the gain control looks at the sync tip."""

    OFFSET = 0x060
    RESET = 0x68
    ADELAY = Field(7, 0, inert=True)


class Bdelay(Decoder8):
    """When the colour burst is looked at."""

    OFFSET = 0x064
    RESET = 0x5D
    BDELAY = Field(7, 0, inert=True)


class Adc(Decoder8):
    """The converters."""

    OFFSET = 0x068
    RESET = 0x82
    ADC_MODE = Field(7, 6, inert=True, doc="must be 2")
    SYNC_T = Field(5, inert=True)
    AGC_EN = Field(4, inert=True)
    CLK_SLEEP = Field(3, unmodelled=True)
    Y_SLEEP = Field(2, unmodelled=True)
    C_SLEEP = Field(1, inert=True, doc="no loss with composite video")
    CRUSH = Field(0, inert=True)


class Vtc(Decoder8):
    """Video timing control."""

    COPIES = {"E_": 0x06C, "O_": 0x0EC}
    HSFMT = Field(7, inert=True)
    VFILT = Field(1, 0, inert=True, doc="taps of the vertical filter")


class WcDown(Decoder8):
    """White crush, lower limit."""

    OFFSET = 0x078
    RESET = 0x7F
    WC_DOWN = Field(7, 0, inert=True)


class Sreset(Decoder8):
    """Any write gives the decoder's registers their reset values."""

    OFFSET = 0x07C
    SURE = "B"
    SRESET = Field(7, 0, wo=True)


class VtotalLo(Decoder8):
    """Forced number of lines, low byte; 0 leaves it to the signal."""

    OFFSET = 0x0B0
    VTOTAL = Field(7, 0, unmodelled=True)


class VtotalHi(Decoder8):
    """Forced number of lines, high bits."""

    OFFSET = 0x0B4
    VTOTAL = Field(7, 0, unmodelled=True)


DECODER_REGISTERS = (
    Dstatus, Iform, Tdec, Crop, VdelayLo, VactiveLo, HdelayLo, HactiveLo, HscaleHi, HscaleLo, Bright, Control,
    ContrastLo, SatULo, SatVLo, Hue, Scloop, WcUp, Oform, VscaleHi, VscaleLo, Test, Areset, Adelay, Bdelay,
    Adc, Vtc, WcDown, Sreset, VtotalLo, VtotalHi,
)  # fmt: skip
"""The declarations of this module, in the order of their (even field's) offsets."""
