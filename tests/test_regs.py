# SPDX-License-Identifier: GPL-2.0-or-later
"""The register file: access semantics, hooks, log and reports, on a small made-up chip.

Protects every register model: a mask that is wrong here is wrong in each of them.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.regs import AccessError, Field, Register, Register8, Register24, Register32, RegisterFile


class Status(Register32):
    """All kinds of bits."""

    OFFSET = 0x10
    RESET = 0x0000_0100
    BLOCK = "status"
    LIVE = Field(31, 28, live=True)
    DONE = Field(9, w1c=True)
    FAIL = Field(8, w1c=True)
    LATCH = Field(7, wc=True)
    GO = Field(6, wo=True)
    MODE = Field(5, 4, values={2: "turbo"})
    SECRET = Field(3, unmodelled=True)
    GAIN = Field(2, 1, inert=True)
    ID = Field(0, ro=True)


class Level(Register8):
    """Two copies of a byte."""

    COPIES = {"E_": 0x00, "O_": 0x80}
    RESET = 0x21
    LEVEL = Field(7, 0)


class PortData(Register24):
    """Sixteen aliases."""

    OFFSET = 0x40
    REPEAT = 16
    DATA = Field(23, 0)


class Mystery(Register8):
    """Nothing of it is modelled."""

    OFFSET = 0x20
    ALL = Field(7, 0, unmodelled=True)


CHIP = (Status, Level, PortData, Mystery)


def make(*hooks: object) -> RegisterFile:
    return RegisterFile(CHIP, *hooks, size=0x100)


def test_names_and_places() -> None:
    assert list(make().dump()) == ["E_LEVEL", "STATUS", "MYSTERY", "PORT_DATA", "O_LEVEL"]


def test_reset_values() -> None:
    registers = make()
    assert registers.read(0x10, 4) == 0x100
    assert registers.read(0x00, 4) == registers.read(0x80, 4) == 0x21


@pytest.mark.parametrize(
    ("before", "written", "after"),
    [
        (0, 0xFFFF_FFFF, 0x3E),  # only plain, inert and unmodelled bits store
        (0xF000_0301, 0, 0xF000_0301),  # live, latched and read-only bits survive a zero
        (0x300, 0x200, 0x100),  # a one clears its own bit only
        (0x080, 0, 0),  # any write clears what is latched that way
    ],
)
def test_write_semantics(before: int, written: int, after: int) -> None:
    registers = make()
    registers.set("STATUS", before)
    registers.write(0x10, 4, written)
    assert registers.get("STATUS") == after


def test_bytes_touch_only_their_lane() -> None:
    registers = make()
    registers.set("STATUS", 0x380)
    registers.write(0x11, 1, 0x01)  # clears FAIL; LATCH lies in another byte
    assert registers.get("STATUS") == 0x280
    registers.write(0x12, 2, 0xFFFF)
    assert registers.get("STATUS") == 0x280
    assert [registers.read(0x10 + lane, 1) for lane in range(4)] == [0x80, 0x02, 0, 0]
    assert registers.read(0x10, 2) == 0x280


def test_eight_bit_register_has_empty_upper_bytes() -> None:
    registers = make()
    registers.write(0x00, 4, 0xAABB_CCDD)
    assert registers.read(0x00, 4) == 0xDD
    assert registers.read(0x01, 1) == 0
    assert registers.read(0x80, 4) == 0x21, "the other copy is another register"


def test_aliases_are_one_register() -> None:
    registers = make()
    registers.write(0x7C, 4, 0x123456)
    assert registers.read(0x40, 4) == 0x123456


@pytest.mark.parametrize(("offset", "size"), [(0, 3), (0, 8), (0, 0), (1, 2), (2, 4), (0x100, 1), (-4, 4)])
def test_impossible_accesses_are_refused(offset: int, size: int) -> None:
    registers = make()
    with pytest.raises(AccessError):
        registers.read(offset, size)
    with pytest.raises(AccessError):
        registers.write(offset, size, 0)
    assert len(registers.log) == 0


class Hooks:
    """Counts what it is called for."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def read_PORT_DATA(self) -> int:
        return 0xABCDEF

    def write_STATUS(self, value: int) -> None:
        self.written.append(value)


def test_hooks_are_found_by_name() -> None:
    hooks = Hooks()
    registers = make(hooks)
    assert registers.read(0x44, 4) == 0xABCDEF
    assert registers.read(0x45, 1) == 0xCD
    assert registers.peek("PORT_DATA") == 0xABCDEF
    assert registers.get("PORT_DATA") == 0, "the stored value is the model's own"
    registers.write(0x10, 4, 0x60)
    assert hooks.written == [0x160], "the new value, with the write-only bit as written"
    assert registers.get("STATUS") == 0x120
    registers.set("STATUS", 0)
    registers.reset()
    assert len(hooks.written) == 1, "the model's side calls no hook"


def test_a_hook_for_nothing_or_a_second_one_is_refused() -> None:
    class Typo:
        def write_STATU(self, value: int) -> None: ...

    with pytest.raises(TypeError, match="write_STATU"):
        make(Typo())
    with pytest.raises(TypeError, match="already"):
        make(Hooks(), Hooks())


def test_log_is_bounded_and_decoded() -> None:
    registers = RegisterFile(CHIP, size=0x100, log_length=3)
    registers.read(0x00, 4)
    registers.write(0x10, 4, 0x26)
    registers.read(0x11, 1)
    registers.read(0x30, 4)
    assert [entry.offset for entry in registers.log] == [0x10, 0x11, 0x30]
    assert registers.log.lines() == [
        "W STATUS 0x00000026 MODE=turbo GAIN=0x3",
        "R STATUS[15:8] 0x01 FAIL",
        "R 0x030 0x0",
    ]
    assert registers.log.lines(1) == ["R 0x030 0x0"]
    assert registers.log.lines(0) == []
    registers.log.clear()
    assert registers.log.lines() == []


def test_touches_are_reported_once() -> None:
    registers = make()
    for _ in range(2):
        registers.write(0x10, 4, 0x0C00_0C08)
        registers.write(0x10, 4, 0)
        registers.read(0x20, 1)
        registers.read(0x30, 4)
        registers.write(0x32, 2, 1)
    assert registers.unmodelled == [
        "W STATUS.SECRET (unmodelled)",
        "W STATUS bits 11:10 (reserved)",
        "W STATUS bits 27:26 (reserved)",
        "R MYSTERY (unmodelled)",
        "R 0x030 (no register)",
        "W 0x030 (no register)",
    ]
    registers.write(0x10, 4, 0x0400_1000)
    assert registers.unmodelled[-1] == "W STATUS bit 12 (reserved)"


def test_inert_and_unchanged_bits_are_not_reported() -> None:
    registers = make()
    registers.write(0x10, 4, 0x36)
    registers.write(0x20, 4, 0)
    assert registers.unmodelled == []


def test_model_side() -> None:
    registers = make()
    registers.set_field("STATUS.LIVE", 0x25)
    assert registers.field("STATUS.LIVE") == 5
    assert registers.get("STATUS") == 0x5000_0100
    registers.cell("STATUS").value |= Status.DONE.mask
    assert registers.field("STATUS.DONE") == 1
    registers.set("E_LEVEL", 0)
    registers.reset_block("status")
    assert (registers.get("STATUS"), registers.get("E_LEVEL")) == (0x100, 0)
    registers.reset()
    assert registers.get("E_LEVEL") == 0x21
    for missing in (
        lambda: registers.field("STATUS.NO"),
        lambda: registers.get("NO"),
        lambda: registers.reset_block("no"),
    ):
        with pytest.raises(KeyError):
            missing()


def test_bad_declarations_are_refused() -> None:
    def declare(**body: object) -> None:
        type("Bad", (Register8,), {"OFFSET": 0, **body})

    for body in (
        {"A": Field(3, 0), "B": Field(3)},  # overlap
        {"A": Field(8)},  # outside
        {"A": Field(0), "RESET": 2},  # resets a bit that is not there
        {"A": Field(0), "SURE": "Z"},
    ):
        with pytest.raises(TypeError):
            declare(**body)
    with pytest.raises(TypeError):
        Field(0, ro=True, w1c=True)
    with pytest.raises(TypeError):
        Field(0, 1)
    with pytest.raises(TypeError):
        RegisterFile([Status, Status], size=0x100)
    with pytest.raises(TypeError):
        RegisterFile([Status], size=0x10)


ACCESS = st.tuples(
    st.booleans(), st.integers(-8, 0x110), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64)
)


@given(st.lists(ACCESS, max_size=60))
def test_any_sequence_keeps_the_promises(sequence: list[tuple[bool, int, int, int]]) -> None:
    """Only AccessError is ever raised; software cannot set what is not its to set; reports stay unique."""
    registers = make(Hooks())
    for is_write, offset, size, value in sequence:
        try:
            if is_write:
                registers.write(offset, size, value)
            else:
                assert 0 <= registers.read(offset, size) < 1 << 8 * size
        except AccessError:
            assert size == 8 or offset % size or not 0 <= offset < 0x100
    for cell in (registers.cell(name) for name in registers.dump()):
        allowed = cell.register.RESET | cell.rw
        assert not cell.value & ~allowed, cell.name
    assert len(set(registers.unmodelled)) == len(registers.unmodelled)


def test_every_kind_is_covered_here() -> None:
    kinds = {field.kind for register in CHIP for field in register.FIELDS}
    assert kinds == {"rw", *Field.KINDS}
    assert issubclass(Status, Register)
