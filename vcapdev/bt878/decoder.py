# SPDX-License-Identifier: GPL-2.0-or-later
"""The video decoder as software sees it: status, input, clock, and the geometry that registers ask for.

::

    inputs --MUXSEL--> [decoder: IFORM, PLL] --> [crop: VDELAY, VACTIVE] --> [scale: HSCALE, VSCALE] --> FIFO
                          |                          HACTIVE pixels a line, video_lines() lines a field
                          '--> DSTATUS: PRES HLOC FIELD NUML PLOCK

There is no picture here. The engine asks :meth:`Decoder.setup` when a field begins and tells
:meth:`Decoder.start_field`; everything else happens through registers. Sources: Fusion 878A data sheet
(100600B) pages 2-25 and 5-9; Linux 6.1 ``drivers/media/pci/bt8xx/bttv-driver.c``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from vcapdev.bt878.board import Board
from vcapdev.bt878.decoder_registers import Dstatus, Iform, VscaleHi
from vcapdev.bt878.output_registers import CapCtl, ColorCtl, ColorFmt, PllXci, Tgctrl, VbiPackDel
from vcapdev.bt878.registers import IntStat
from vcapdev.bt878.timing import Norm, norm_named, vbi_lines, video_lines
from vcapdev.regs import Cell, RegisterFile

_ADC_OVERFLOW = Dstatus.LOF.mask | Dstatus.COF.mask


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the registers of one field ask for, with the signal that is there."""

    pixels: int  # of a line, after scaling (HACTIVE)
    lines: int  # of active video in this field, after scaling
    vbi_lines: int  # before active video begins
    vbi_bytes: int  # of a VBI line
    hdelay: int  # scaled pixels
    vdelay: int  # half lines
    vactive: int  # lines of a frame
    hscale: int
    vscale: int
    interlaced: bool


@dataclass(frozen=True, slots=True)
class FieldSetup:
    """All that a field needs from the decoder's registers; taken when it begins."""

    geometry: Geometry
    format: int  # COLOR_FMT nibble, see ``output_registers.PIXEL_FORMATS``
    swap_bytes: bool  # within each 16 bits
    swap_words: bool  # within each 32 bits
    capture_video: bool
    capture_vbi: bool


class _Scaling(NamedTuple):
    """Values of one field's copy of the scaling registers; of two-part registers the low part, but HSCALE."""

    crop: int
    vdelay: int
    vactive: int
    hdelay: int
    hactive: int
    hscale: int
    vscale_hi: int
    vscale_lo: int


class _FieldCells:
    """The cells of one field's copy of the scaling registers."""

    def __init__(self, registers: RegisterFile, prefix: str) -> None:
        def cell(name: str) -> Cell:
            return registers.cell(prefix + name)

        self.crop = cell("CROP")
        self.vdelay, self.vactive = cell("VDELAY_LO"), cell("VACTIVE_LO")
        self.hdelay, self.hactive = cell("HDELAY_LO"), cell("HACTIVE_LO")
        self.hscale_hi, self.hscale_lo = cell("HSCALE_HI"), cell("HSCALE_LO")
        self.vscale_hi, self.vscale_lo = cell("VSCALE_HI"), cell("VSCALE_LO")

    def values(self) -> _Scaling:
        """As they are now."""
        return _Scaling(
            self.crop.value,
            self.vdelay.value,
            self.vactive.value,
            self.hdelay.value,
            self.hactive.value,
            self.hscale_hi.value << 8 | self.hscale_lo.value,
            self.vscale_hi.value,
            self.vscale_lo.value,
        )


class Decoder:
    """Hooks ``read_DSTATUS``, ``write_IFORM``, ``write_PLL_XCI`` and ``write_SRESET``, bound at construction.

    :param norm: of the signal on every input that the board connects.
    :param latch: the chip's way to latch INT_STAT bits and to look at its interrupt line again.
    """

    def __init__(
        self, registers: RegisterFile, board: Board, norm: Norm | str, latch: Callable[[int], None]
    ) -> None:
        self.norm = norm_named(norm) if isinstance(norm, str) else norm
        self.board = board
        self.even = False
        """Parity of the field that is being decoded: True is even (bottom)."""
        self._registers = registers
        self._latch = latch
        self._dstatus = registers.cell("DSTATUS")
        self._status = registers.cell("INT_STAT")
        self._iform = registers.cell("IFORM")
        self._color_fmt, self._color_ctl = registers.cell("COLOR_FMT"), registers.cell("COLOR_CTL")
        self._cap_ctl = registers.cell("CAP_CTL")
        self._vbi_size, self._vbi_del = registers.cell("VBI_PACK_SIZE"), registers.cell("VBI_PACK_DEL")
        self._fields = (_FieldCells(registers, "O_"), _FieldCells(registers, "E_"))
        self._unplugged: set[int] = set()
        self._vbi_switches = 0  # CAP_CTL when the frame began
        self._xci = registers.get("PLL_XCI")
        registers.bind(self)
        self._present = self.signal

    def reset(self) -> None:
        """As after power-on (signals stay as they are); call it after the register file's reset."""
        self.even = False
        self._vbi_switches = 0
        self._settle()

    # The signal.

    @property
    def mux(self) -> int:
        """The analog input that is selected: 0 to 3 as the pins are called."""
        return (2, 0, 1)[muxsel - 1] if (muxsel := self._muxsel()) else 3

    def _muxsel(self) -> int:
        return Iform.MUXSEL.get(self._iform.value)

    @property
    def signal(self) -> bool:
        """Whether the selected input carries video."""
        muxsel = self._muxsel()
        return muxsel not in self._unplugged and any(pin.muxsel == muxsel for pin in self.board.inputs)

    def plug(self, muxsel: int, connected: bool) -> None:
        """Pull the cable of an input (by its MUXSEL value), or put it back; VPRES and HLOCK tell."""
        (self._unplugged.discard if connected else self._unplugged.add)(muxsel)
        self._look_at_signal()

    def set_norm(self, norm: Norm | str) -> None:
        """The signal changes its norm; FMTCHG tells if the number of lines changes."""
        before = self.norm.has_625_lines
        self.norm = norm_named(norm) if isinstance(norm, str) else norm
        if before != self.norm.has_625_lines and self.signal:
            self._latch(IntStat.FMTCHG.mask)

    def overflow(self) -> None:
        """The converters overflow (for tests): LOF and COF latch, and OFLOW."""
        self._dstatus.value |= _ADC_OVERFLOW
        self._latch(IntStat.OFLOW.mask)

    def _look_at_signal(self) -> None:
        before, self._present = self._present, self.signal
        if before != self._present:
            self._latch(IntStat.VPRES.mask | IntStat.HLOCK.mask)

    # Fields.

    def start_field(self, even: bool) -> None:
        """A field begins: FIELD in both status registers, VSYNC, and HSYNC for its first line.

        Switches of VBI act for whole frames (page 2-25): bttv turns them on before it hooks its VBI programs.
        """
        self.even = even
        if not even:
            self._vbi_switches = self._cap_ctl.value
        self._status.value = IntStat.FIELD.put(self._status.value, even)
        self._latch(IntStat.VSYNC.mask | IntStat.HSYNC.mask)

    def setup(self, even: bool) -> FieldSetup:
        """What the registers ask of a field, as they are now."""
        switches = self._color_fmt.value, self._color_ctl.value, self._cap_ctl.value, self._vbi_switches
        return _setup(even, self.geometry(even), *switches)

    def geometry(self, even: bool) -> Geometry:
        """Sizes of a field, from its copy of the cropping and scaling registers."""
        packet = (self._vbi_del.value & VbiPackDel.VBI_PKT_HI.mask) << 8 | self._vbi_size.value
        return _geometry(self.norm, packet, self._fields[even].values())

    # The clock.

    @property
    def clock_hz(self) -> float:
        """CLKx2, the rate of samples, in Hz: the PLL's if TGCTRL selects it, else the crystal's."""
        get = self._registers.get
        crystal = self.board.crystal_hz
        if Iform.XTSEL.get(self._iform.value) == 2 and self.board.second_crystal_hz:
            crystal = self.board.second_crystal_hz
        xci = get("PLL_XCI")
        if Tgctrl.TGCKI.get(get("TGCTRL")) != 1 or not PllXci.PLL_I.get(xci):
            return crystal
        factor = PllXci.PLL_I.get(xci) + (get("PLL_F_HI") << 8 | get("PLL_F_LO")) / 0x10000
        return crystal / (1 + PllXci.PLL_X.get(xci)) * factor / (4 if PllXci.PLL_C.get(xci) else 6)

    # Hooks.

    def read_DSTATUS(self) -> int:
        """The latched bits, and what the signal is like now."""
        value = self._dstatus.value & (Dstatus.PLOCK.mask | _ADC_OVERFLOW)
        if self.signal:
            value |= Dstatus.PRES.mask | Dstatus.HLOC.mask
        if self.even:
            value |= Dstatus.FIELD.mask
        if self.norm.has_625_lines:
            value |= Dstatus.NUML.mask
        return value

    def write_IFORM(self, value: int) -> None:
        """Another input may be another signal."""
        self._look_at_signal()

    def write_PLL_XCI(self, value: int) -> None:
        """New factors put the PLL out of lock: it locks again at once, but PLOCK stays until cleared."""
        if value != self._xci and PllXci.PLL_I.get(value):
            self._dstatus.value |= Dstatus.PLOCK.mask
        self._xci = value

    def write_SRESET(self, value: int) -> None:
        """Any write: the decoder's registers as after power-on; DMA and interrupt registers stay."""
        self._registers.reset_block("decoder")
        self._settle()

    def _settle(self) -> None:
        self._xci = self._registers.get("PLL_XCI")
        self._look_at_signal()


@lru_cache(maxsize=16)
def _setup(even: bool, geometry: Geometry, form: int, color: int, capture: int, vbi: int) -> FieldSetup:
    """Made of COLOR_FMT, COLOR_CTL, CAP_CTL, and what that was when the frame began."""
    if even:
        code, byte, word = ColorFmt.EVEN, ColorCtl.BSWAP_EVEN, ColorCtl.WSWAP_EVEN
        video, blanking = CapCtl.CAPTURE_EVEN, CapCtl.CAPTURE_VBI_EVEN
    else:
        code, byte, word = ColorFmt.ODD, ColorCtl.BSWAP_ODD, ColorCtl.WSWAP_ODD
        video, blanking = CapCtl.CAPTURE_ODD, CapCtl.CAPTURE_VBI_ODD
    return FieldSetup(
        geometry=geometry,
        format=code.get(form),
        swap_bytes=bool(color & byte.mask),
        swap_words=bool(color & word.mask),
        capture_video=bool(capture & video.mask),
        capture_vbi=bool(vbi & blanking.mask),
    )


@lru_cache(maxsize=16)
def _geometry(norm: Norm, packet: int, scaling: _Scaling) -> Geometry:
    crop = scaling.crop
    vdelay = (crop >> 6 & 3) << 8 | scaling.vdelay
    vactive = (crop >> 4 & 3) << 8 | scaling.vactive
    vscale = VscaleHi.VSCALE.get(scaling.vscale_hi) << 8 | scaling.vscale_lo
    return Geometry(
        pixels=(crop & 3) << 8 | scaling.hactive,
        lines=video_lines(norm, vdelay, vactive, vscale),
        vbi_lines=vbi_lines(norm, vdelay),
        vbi_bytes=packet * 4,
        hdelay=(crop >> 2 & 3) << 8 | scaling.hdelay,
        vdelay=vdelay,
        vactive=vactive,
        hscale=scaling.hscale,
        vscale=vscale,
        interlaced=bool(scaling.vscale_hi & VscaleHi.INT.mask),
    )
