# SPDX-License-Identifier: GPL-2.0-or-later
"""The function as a vfio-user device: regions, interrupts, splitting of accesses, refusals.

Protects the chip from accesses that it cannot take, and the client from a wrong picture of the device.
"""

from __future__ import annotations

import errno
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.bt878.board import load_board
from vcapdev.bt878.identity import config_space
from vcapdev.bt878.registers import REGISTERS
from vcapdev.pci.function import PciFunction
from vcapdev.regs import RegisterFile
from vcapdev.vfiouser.device import Device


def make() -> tuple[PciFunction, RegisterFile]:
    registers = RegisterFile(REGISTERS)
    space = config_space(load_board("pv143"))
    function = PciFunction(space, registers.read, registers.write, registers.reset)
    function.region_write(7, 0x04, b"\x06\x00")
    return function, registers


def test_it_is_a_device() -> None:
    device: Device = make()[0]
    assert len(device.regions) == 9
    assert [region.size for region in device.regions] == [0x1000, 0, 0, 0, 0, 0, 0, 256, 0]
    assert all((region.readable, region.writable) == (region.size > 0,) * 2 for region in device.regions)
    assert [(irq.count, irq.flags) for irq in device.irqs] == [(1, 7), (0, 0), (0, 0), (0, 0), (0, 0)]


def test_accesses_are_split_at_natural_boundaries() -> None:
    function, registers = make()
    function.region_write(0, 0x103, bytes(range(1, 10)))
    assert [(entry.offset, entry.size, entry.value) for entry in registers.log] == [
        (0x103, 1, 0x01),
        (0x104, 4, 0x05040302),
        (0x108, 4, 0x09080706),
    ]
    registers.log.clear()
    assert function.region_read(0, 0x106, 6) == registers.get("INT_MASK").to_bytes(4, "little")[2:] + bytes(4)
    assert [(entry.offset, entry.size) for entry in registers.log] == [(0x106, 2), (0x108, 4)]


@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [
        (0, 0xFFD, 4),
        (0, -4, 4),
        (0, 0x1000, 1),
        (0, 0, 0),
        (7, 0xFF, 2),
        (1, 0, 4),
        (6, 0, 1),
        (8, 0, 1),
        (99, 0, 1),
    ],
)
def test_refusals(region: int, offset: int, count: int) -> None:
    function, _ = make()
    with pytest.raises(OSError, match="region") as read:
        function.region_read(region, offset, count)
    with pytest.raises(OSError, match="region") as written:
        function.region_write(region, offset, bytes(count))
    assert read.value.errno == written.value.errno == errno.EINVAL


def test_memory_disabled_means_nobody_answers() -> None:
    function, registers = make()
    function.region_write(7, 0x04, b"\x04\x00")
    assert function.region_read(0, 0x104, 8) == b"\xff" * 8
    function.region_write(0, 0x104, b"\1\0\0\0")
    assert registers.get("INT_MASK") == 0
    assert len(registers.log) == 0


def test_reset_turns_dma_off_before_the_chip_is_told() -> None:
    order: list[bool] = []
    space = config_space(load_board("pv143"))
    function = PciFunction(
        space, lambda o, s: 0, lambda o, s, v: None, lambda: order.append(space.bus_master)
    )
    function.region_write(7, 0x04, b"\x06\x00")
    assert space.bus_master
    function.reset()
    assert order == [False]


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0, 7]), st.integers(0, 0x1000), st.integers(0, 64)),
        max_size=40,
    )
)
def test_any_access_answers_or_refuses(sequence: list[tuple[bool, int, int, int]]) -> None:
    function, _ = make()
    for is_write, region, offset, count in sequence:
        inside = count > 0 and offset + count <= function.regions[region].size
        with nullcontext() if inside else pytest.raises(OSError, match="region"):
            if is_write:
                function.region_write(region, offset, b"\xa5" * count)
            else:
                assert len(function.region_read(region, offset, count)) == count
