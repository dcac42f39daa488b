# SPDX-License-Identifier: GPL-2.0-or-later
"""The decoder's registers at work: status, inputs, PLL, resets, and geometry.

Protects the sizes that field timing is built on: the expected ones are what bttv programs and asks for.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.bt878.board import load_board
from vcapdev.bt878.decoder import Decoder
from vcapdev.bt878.registers import REGISTERS, IntStat
from vcapdev.regs import AccessError, RegisterFile

PRES, HLOC, FIELD, NUML, PLOCK, LOF, COF = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02, 0x01


class Bench:
    """A decoder, and what it latched."""

    def __init__(self, norm: str = "PAL", board: str = "pv143") -> None:
        self.registers = RegisterFile(REGISTERS)
        self.latched: list[int] = []
        self.decoder = Decoder(self.registers, load_board(board), norm, self.latched.append)

    def dstatus(self) -> int:
        return self.registers.read(0, 4)

    def write(self, name: str, value: int) -> None:
        self.registers.write(self.registers.cell(name).offset, 4, value)


def select(bench: Bench, muxsel: int) -> None:
    bench.write("IFORM", 0x18 | muxsel << 5)


@pytest.mark.parametrize(("norm", "numl"), [("PAL", NUML), ("SECAM", NUML), ("NTSC", 0)])
def test_a_good_signal(norm: str, numl: int) -> None:
    assert Bench(norm).dstatus() == PRES | HLOC | numl


def test_field_parity_is_in_both_status_registers() -> None:
    bench = Bench("NTSC")
    for even in (True, False, True):
        bench.decoder.start_field(even)
        assert bench.dstatus() & FIELD == (FIELD if even else 0)
        assert bench.registers.field("INT_STAT.FIELD") == even
    assert bench.latched == [IntStat.VSYNC.mask | IntStat.HSYNC.mask] * 3


def test_inputs_of_the_board() -> None:
    """The PV150 connects mux 0 and mux 3 (IFORM codes 2 and 3; reset selects 2)."""
    bench = Bench(board="pv150")
    lost = IntStat.VPRES.mask | IntStat.HLOCK.mask
    seen = []
    for muxsel in (2, 3, 1, 0, 2):
        select(bench, muxsel)
        seen.append(bool(bench.dstatus() & PRES))
    assert seen == [True, True, False, False, True]
    assert bench.latched == [lost, lost]


def test_pulled_cable() -> None:
    bench = Bench()
    bench.decoder.plug(2, False)
    assert bench.dstatus() & (PRES | HLOC) == 0
    bench.decoder.plug(2, True)
    assert bench.dstatus() & (PRES | HLOC) == PRES | HLOC
    bench.decoder.plug(1, False)
    assert bench.latched == [IntStat.VPRES.mask | IntStat.HLOCK.mask] * 2, "the other input is not looked at"


def test_pins_of_the_multiplexer() -> None:
    bench = Bench()
    pins = []
    for muxsel in range(4):
        select(bench, muxsel)
        pins.append(bench.decoder.mux)
    assert pins == [3, 2, 0, 1]


def test_norm_of_the_signal_changes() -> None:
    bench = Bench("PAL")
    bench.decoder.set_norm("SECAM")
    assert bench.latched == []
    bench.decoder.set_norm("NTSC")
    assert bench.latched == [IntStat.FMTCHG.mask]
    assert bench.dstatus() & NUML == 0


def test_latched_status_is_cleared_by_any_write() -> None:
    bench = Bench()
    bench.decoder.overflow()
    assert bench.dstatus() == PRES | HLOC | NUML | LOF | COF
    assert bench.dstatus() & (LOF | COF), "reading does not clear"
    bench.write("DSTATUS", 0)
    assert bench.dstatus() == PRES | HLOC | NUML
    assert bench.latched == [IntStat.OFLOW.mask]


def test_pll_sequence_of_bttv() -> None:
    """28.636363 to 35.46895 MHz: PLOCK is set once, cleared by a write of 0, and does not come back."""
    bench = Bench()
    for name, value in (("PLL_F_LO", 0xF9), ("PLL_F_HI", 0xDC), ("PLL_XCI", 0x8E)):
        bench.write(name, value)
    assert bench.dstatus() & PLOCK
    bench.write("DSTATUS", 0)
    assert not bench.dstatus() & PLOCK
    assert bench.decoder.clock_hz == pytest.approx(28_636_363)
    bench.write("TGCTRL", 0x08)
    assert bench.decoder.clock_hz == pytest.approx(35_468_950, rel=1e-6)
    bench.write("PLL_XCI", 0x8E)
    assert not bench.dstatus() & PLOCK, "the same factors do not disturb it"
    bench.write("TGCTRL", 0)
    bench.write("PLL_XCI", 0)
    assert not bench.dstatus() & PLOCK, "a PLL that is off cannot lose lock"


def test_second_crystal() -> None:
    bench = Bench(board="impactvcb")
    bench.write("IFORM", 0x58 & ~0x18 | 0x10)
    assert bench.decoder.clock_hz == pytest.approx(35_468_950)


def test_sreset_spares_dma_and_interrupts() -> None:
    bench = Bench()
    for name, value in (("E_CROP", 0xFF), ("IFORM", 0x1B), ("INT_MASK", 0x802), ("RISC_STRT_ADD", 0x1000)):
        bench.write(name, value)
    bench.write("SRESET", 0)
    get = bench.registers.get
    assert (get("E_CROP"), get("IFORM"), get("INT_MASK"), get("RISC_STRT_ADD")) == (0x12, 0x58, 0x802, 0x1000)
    assert bench.dstatus() & PRES


def test_areset_is_harmless() -> None:
    bench = Bench()
    before = bench.registers.dump()
    bench.write("ARESET", 0x80)
    bench.write("ARESET", 0)
    assert bench.registers.dump() == before
    assert bench.registers.unmodelled == []


# norm, width, height, interlaced, HSCALE, HDELAY, VSCALE_HI and _LO, CROP (bttv_calc_geo_old), lines a field
COMPUTED = [
    ("NTSC", 640, 480, True, 0x0335, 106, 0x20, 0x00, 0x12, 240),
    ("NTSC", 320, 240, True, 0x166A, 52, 0x3E, 0x00, 0x11, 120),
    ("NTSC", 320, 240, False, 0x166A, 52, 0x00, 0x00, 0x11, 240),
    ("PAL", 768, 576, True, 0x0341, 154, 0x20, 0x00, 0x23, 288),
    ("PAL", 640, 480, True, 0x071A, 128, 0x3F, 0x9A, 0x22, 240),
    ("PAL", 384, 288, False, 0x168E, 76, 0x00, 0x00, 0x21, 288),
]


def program(bench: Bench, prefix: str, row: tuple[str, int, int, bool, int, int, int, int, int, int]) -> None:
    norm, width, _, _, hscale, hdelay, vscale_hi, vscale_lo, crop, _ = row
    values = {
        "HSCALE_HI": hscale >> 8, "HSCALE_LO": hscale & 0xFF, "HACTIVE_LO": width & 0xFF,
        "HDELAY_LO": hdelay & 0xFF, "VACTIVE_LO": (480 if norm == "NTSC" else 576) & 0xFF,
        "VDELAY_LO": 0x1A if norm == "NTSC" else 0x20, "CROP": crop,
        "VSCALE_HI": vscale_hi, "VSCALE_LO": vscale_lo,
    }  # fmt: skip
    for name, value in values.items():
        bench.write(prefix + name, value)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("row", COMPUTED)
def test_geometry(row: tuple[str, int, int, bool, int, int, int, int, int, int], even: bool) -> None:
    bench = Bench(row[0])
    program(bench, "E_" if even else "O_", row)
    geometry = bench.decoder.geometry(even)
    assert (geometry.pixels, geometry.lines) == (row[1], row[9])
    assert (geometry.hscale, geometry.hdelay, geometry.interlaced) == (row[4], row[5], row[3])
    assert geometry.vbi_lines == (13 if row[0] == "NTSC" else 16)
    assert bench.decoder.geometry(not even).pixels == 640, "the other field keeps its reset values"


def interlaced_vscale(height: int, full: int) -> int:
    return (0x10000 - (full * 512 // height - 512)) & 0x1FFF


@pytest.mark.parametrize(("norm", "full"), [("PAL", 576), ("NTSC", 480)])
def test_every_height_comes_out(norm: str, full: int) -> None:
    """Whatever even height bttv may ask for (a sixteenth at least), each field delivers half of it."""
    bench = Bench(norm)
    for height in range(max(32, full // 16), full + 1, 2):
        vscale = interlaced_vscale(height, full)
        row = (norm, 320, height, True, 0, 0, vscale >> 8 | 0x20, vscale & 0xFF, full >> 8 << 4 | 1, 0)
        program(bench, "O_", row)
        assert bench.decoder.geometry(False).lines == height // 2, height


def test_idle_vdelay_leaves_the_field_to_vbi() -> None:
    bench = Bench("PAL")
    bench.write("O_CROP", 0xC0)
    bench.write("O_VDELAY_LO", 0xFE)
    geometry = bench.decoder.geometry(False)
    assert (geometry.vdelay, geometry.lines, geometry.vbi_lines) == (0x3FE, 0, 312)


@pytest.mark.parametrize(("size", "delay", "length"), [(144, 1, 1600), (255, 1, 2044), (255, 0xFC, 1020)])
def test_vbi_packet(size: int, delay: int, length: int) -> None:
    bench = Bench()
    bench.write("VBI_PACK_SIZE", size)
    bench.write("VBI_PACK_DEL", delay)
    assert bench.decoder.geometry(True).vbi_bytes == length


def test_setup_takes_each_fields_bits() -> None:
    bench = Bench()
    bench.write("COLOR_FMT", 0x48)
    bench.write("COLOR_CTL", 0x10 | 0x08 | 0x01)
    bench.write("CAP_CTL", 0x06)
    assert not bench.decoder.setup(True).capture_vbi, "VBI acts from the next frame on"
    bench.decoder.start_field(False)
    odd, even = bench.decoder.setup(False), bench.decoder.setup(True)
    assert (odd.format, even.format) == (4, 8)
    assert (odd.swap_words, odd.swap_bytes, even.swap_words, even.swap_bytes) == (True, False, False, True)
    assert (odd.capture_video, odd.capture_vbi, even.capture_video, even.capture_vbi) == (
        True,
        False,
        False,
        True,
    )


def test_reset_starts_with_an_odd_field() -> None:
    bench = Bench()
    bench.decoder.start_field(True)
    bench.decoder.plug(2, False)
    bench.registers.reset()
    bench.decoder.reset()
    assert not bench.dstatus() & (FIELD | PRES), "a reset plugs no cable in"


@given(st.lists(st.tuples(st.integers(0, 0xFF), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFF_FFFF))))
def test_any_registers_give_a_possible_geometry(writes: list[tuple[int, int, int]]) -> None:
    bench = Bench("NTSC")
    for offset, size, value in writes:
        try:
            bench.registers.write(offset, size, value)
        except AccessError:
            assert offset % size
    for even in (False, True):
        geometry = bench.decoder.setup(even).geometry
        assert 0 <= geometry.pixels <= 1023
        assert 0 <= geometry.lines + geometry.vbi_lines <= 263
        assert 0 <= geometry.vbi_bytes <= 2044
    assert bench.decoder.clock_hz > 0
    assert bench.dstatus() < 0x100
