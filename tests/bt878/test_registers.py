# SPDX-License-Identifier: GPL-2.0-or-later
"""The chip's register declarations: offsets, reset values and masks against the data sheet's numbers.

Protects against a slip in a declaration, which a driver would notice only by chance.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.bt878.registers import REGISTERS, IntMask, IntStat
from vcapdev.regs import AccessError, RegisterFile

# offset, name, reset value: L848A_A pages 94 to 112, Fusion 878A 100600B, bt848.h.
PLACES = """
000 DSTATUS 00 | 004 IFORM 58 | 008 TDEC 00 | 00c E_CROP 12 | 08c O_CROP 12 | 010 E_VDELAY_LO 16
090 O_VDELAY_LO 16 | 014 E_VACTIVE_LO e0 | 094 O_VACTIVE_LO e0 | 018 E_HDELAY_LO 78 | 098 O_HDELAY_LO 78
01c E_HACTIVE_LO 80 | 09c O_HACTIVE_LO 80 | 020 E_HSCALE_HI 02 | 0a0 O_HSCALE_HI 02 | 024 E_HSCALE_LO ac
0a4 O_HSCALE_LO ac | 028 BRIGHT 00 | 02c E_CONTROL 20 | 0ac O_CONTROL 20 | 030 CONTRAST_LO d8
034 SAT_U_LO fe | 038 SAT_V_LO b4 | 03c HUE 00 | 040 E_SCLOOP 00 | 0c0 O_SCLOOP 00 | 044 WC_UP cf
078 WC_DOWN 7f | 048 OFORM 00 | 04c E_VSCALE_HI 60 | 0cc O_VSCALE_HI 60 | 050 E_VSCALE_LO 00
0d0 O_VSCALE_LO 00 | 054 TEST 00 | 058 ARESET 00 | 060 ADELAY 68 | 064 BDELAY 5d | 068 ADC 82 | 06c E_VTC 00
0ec O_VTC 00 | 07c SRESET 00 | 080 TGLB 00 | 084 TGCTRL 00 | 0b0 VTOTAL_LO 00 | 0b4 VTOTAL_HI 00
0d4 COLOR_FMT 00 | 0d8 COLOR_CTL 00 | 0dc CAP_CTL 00 | 0e0 VBI_PACK_SIZE 00 | 0e4 VBI_PACK_DEL 00
0e8 FCAP 00 | 0f0 PLL_F_LO 00 | 0f4 PLL_F_HI 00 | 0f8 PLL_XCI 00 | 0fc DVSIF 00 | 100 INT_STAT 0
104 INT_MASK 0 | 10c GPIO_DMA_CTL 0 | 110 I2C 3 | 114 RISC_STRT_ADD 0 | 118 GPIO_OUT_EN 0 | 11c GPIO_REG_INP 0
120 RISC_COUNT 0 | 200 GPIO_DATA 0 | 2fc GPIO_DATA 0
"""
EXPECTED = [tuple(entry.split()) for line in PLACES.strip().splitlines() for entry in line.split("|")]


def test_places_and_reset_values() -> None:
    registers = RegisterFile(REGISTERS)
    for offset, name, reset in EXPECTED:
        assert registers.get(name) == int(reset, 16), name
        assert registers.read(int(offset, 16), 4) == int(reset, 16), name
        registers.set(name, 0x5A)
        assert registers.read(int(offset, 16), 4) == 0x5A, f"{name} is not at {offset}"
        registers.reset()
    assert set(registers.dump()) == {name for _, name, _ in EXPECTED}


def test_odd_copies_lie_0x80_above_even_ones() -> None:
    registers = RegisterFile(REGISTERS)
    even = [name for name in registers.dump() if name.startswith("E_")]
    assert len(even) == 12
    for name in even:
        assert registers.cell("O_" + name[2:]).offset == registers.cell(name).offset + 0x80


def test_interrupt_bits() -> None:
    assert IntStat.MASKS["w1c"] == IntStat.LATCHED
    assert IntMask.MASKS["rw"] == IntStat.LATCHED
    registers = RegisterFile(REGISTERS)
    registers.set("INT_STAT", 0xFBFF_FFFF)
    registers.write(0x100, 4, 0x0000_0800)
    assert registers.get("INT_STAT") == 0xFBFF_F7FF, "a one clears its bit and no other"
    registers.write(0x100, 4, 0xFFFF_FFFF)
    assert registers.get("INT_STAT") & IntStat.LATCHED == 0
    assert registers.field("INT_STAT.RISCS") == 0xF, "RISCS is not software's"


@pytest.mark.parametrize(
    ("offset", "kept"),
    [
        (0x104, 0x008F_FB3F),
        (0x10C, 0x0000_FCFF),
        (0x110, 0xFFFF_FFFF),
        (0x114, 0xFFFF_FFFC),
        (0x118, 0x00FF_FFFF),
        (0x120, 0),
        (0x000, 0),
        (0x07C, 0),
        (0x04C, 0xFF),
        (0x0DC, 0x1F),
    ],
)
def test_write_masks(offset: int, kept: int) -> None:
    registers = RegisterFile(REGISTERS)
    registers.write(offset, 4, 0xFFFF_FFFF)
    assert registers.read(offset, 4) == kept


def test_what_bttv_programs_is_modelled() -> None:
    """Linux 6.1's probe, open and start of capture report nothing but reserved status bits being cleared."""
    registers = RegisterFile(REGISTERS)
    writes = """
    104=0 0dc=0 0d8=10 004=18 10c=c0ac 04c=20 0cc=20 028=0 030=d8 02c=20 0ac=20 034=0 038=b5 0c0=0 040=0
    03c=0 068=81 044=cf 078=7f 048=0 100=fffff 104=c0911 11c=0 118=0 058=80 058=0 110=2 110=3 104=c0b11
    060=7f 064=72 004=7b 0e0=ff 0e4=1 0f0=f9 0f4=dc 0f8=8e 000=0 084=8 0fc=0 00c=d2 010=fe 08c=d2 090=fe
    104=c0b13 114=1234000 10c=c0af 06c=0 020=3 024=41 01c=0 018=9a 014=40 010=20 00c=23 0b4=0 0b0=0 0d4=44
    0dc=f 10c=c0ac
    """
    for entry in writes.split():
        offset, _, value = entry.partition("=")
        registers.write(int(offset, 16), 4, int(value, 16))
    assert registers.unmodelled == ["W INT_STAT bits 7:6 (reserved)", "W INT_STAT bit 10 (reserved)"]


def test_every_field_says_how_sure_it_is() -> None:
    for register in REGISTERS:
        assert register.SURE, register.NAME
        assert register.RESET_SURE, register.NAME
        assert register.__doc__, register.NAME
        assert register.FIELDS, register.NAME


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 0xFFF),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 2**32 - 1),
        )
    )
)
def test_any_access_is_safe(sequence: list[tuple[bool, int, int, int]]) -> None:
    registers = RegisterFile(REGISTERS)
    for is_write, offset, size, value in sequence:
        try:
            registers.write(offset, size, value) if is_write else registers.read(offset, size)
        except AccessError:
            assert offset % size
    assert registers.get("RISC_COUNT") == registers.get("DSTATUS") == registers.get("INT_STAT") == 0
    registers.log.lines()
