# SPDX-License-Identifier: GPL-2.0-or-later
"""Vital product data and power management.

Protects against a guest that reads the data for ever because the flag never turns, and against registers
that answer, or DMA that runs, in D3hot.
"""

from __future__ import annotations

import pytest

from vcapdev.bt878.board import load_board
from vcapdev.bt878.identity import config_space
from vcapdev.pci.capabilities import vital_product_data
from vcapdev.pci.config import ConfigSpace
from vcapdev.pci.function import PciFunction

VPD, PMCSR = 0x44, 0x50


def config() -> ConfigSpace:
    return config_space(load_board("pv143"))


def read_vpd(space: ConfigSpace, address: int) -> bytes:
    space.write(VPD + 2, address.to_bytes(2, "little"))
    assert space.read(VPD + 3, 1)[0] & 0x80, "the flag says that the data are there"
    return space.read(VPD + 4, 4)


def test_vital_product_data_answers() -> None:
    space = config()
    data = b"".join(read_vpd(space, address) for address in range(0, 64, 4))
    assert data[:17] == b"\x82\x0e\x00ProVideo PV143"
    assert data[17:26] == b"\x90\x0c\x00PN\x05PV1"
    end = data.index(b"\x78", 30)
    assert sum(data[:end]) & 0xFF == 0, "everything up to the checksum adds up to zero"
    assert data[end + 1 :].strip(b"\0") == b""
    assert read_vpd(space, 0x7FFC) == bytes(4)


def test_vital_product_data_cannot_be_written() -> None:
    space = config()
    before = read_vpd(space, 0)
    space.write(VPD + 4, b"evil")
    space.write(VPD + 2, b"\x00\x80")
    assert not space.read(VPD + 3, 1)[0] & 0x80, "the flag says that the write is done"
    assert read_vpd(space, 0) == before


def test_vpd_layout_is_the_specifications() -> None:
    data = vital_product_data("X", {"PN": "1", "SN": "22"})
    assert data[:-2] == b"\x82\x01\x00X\x90\x0d\x00PN\x011SN\x0222RV\x01"
    assert data[-1] == 0x78
    assert sum(data[:-1]) & 0xFF == 0


class Chip:
    """Counts resets, answers reads with their offset."""

    def __init__(self) -> None:
        self.resets = 0
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return offset & ((1 << 8 * size) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))

    def reset(self) -> None:
        self.resets += 1


def awake() -> tuple[ConfigSpace, Chip, PciFunction]:
    space, chip = config(), Chip()
    function = PciFunction(space, chip.read, chip.write, chip.reset)
    space.write(0x04, b"\x06\x00")
    return space, chip, function


def test_d3hot_shuts_everything() -> None:
    space, chip, function = awake()
    assert function.region_read(0, 0x10, 4) == b"\x10\0\0\0"
    space.write(PMCSR, b"\x03\x00")
    assert function.region_read(0, 0x10, 4) == b"\xff\xff\xff\xff"
    function.region_write(0, 0x10, b"\1\2\3\4")
    assert chip.written == []
    assert not space.bus_master
    assert not space.intx_enabled
    assert function.region_read(7, 0, 2) == b"\x9e\x10", "configuration space still answers"


def test_coming_back_resets_the_function() -> None:
    space, chip, function = awake()
    space.write(PMCSR, b"\x03\x00")
    assert chip.resets == 0
    space.write(PMCSR, b"\x00\x00")
    assert chip.resets == 1
    assert space.read(0x04, 2) == b"\0\0"
    space.write(0x04, b"\x06\x00")
    assert function.region_read(0, 0, 1) == b"\0"


@pytest.mark.parametrize("state", [1, 2])
def test_states_that_do_not_exist_change_nothing(state: int) -> None:
    space, chip, _ = awake()
    space.write(PMCSR, bytes([state, 0]))
    assert space.read(PMCSR, 1) == b"\0"
    assert space.bus_master
    space.write(PMCSR, b"\x03\x00")
    space.write(PMCSR, bytes([state, 0]))
    assert space.read(PMCSR, 1) == b"\x03"
    assert not space.bus_master
    assert chip.resets == 0


def test_reset_wakes_up() -> None:
    space, chip, function = awake()
    space.write(PMCSR, b"\x03\x00")
    function.reset()
    assert chip.resets == 1
    assert space.read(PMCSR, 1) == b"\0"
    space.write(PMCSR, b"\x00\x00")
    assert chip.resets == 1, "it was awake already"
