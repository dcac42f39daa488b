# SPDX-License-Identifier: GPL-2.0-or-later
"""Boards: the ones that come along, and every complaint about a bad file.

Protects users who write their own board: one line that names the file, the key and what would be right.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.bt878.board import Input, board_from, board_names, load_board
from vcapdev.errors import UsageError

GOOD = """
title: Test
subsystem: "1234:abcd"
inputs:
  - {name: One, muxsel: 2}
"""


def test_boards_that_come_along() -> None:
    ids = {name: load_board(name) for name in board_names()}
    assert {n: f"{b.subsystem_vendor:04x}:{b.subsystem_device:04x}" for n, b in ids.items()} == {
        "impactvcb": "0070:13eb",
        "pv143": "aa00:1430",
        "pv150": "aa00:1460",
        "vc100": "107d:6607",
    }
    assert {n: b.revision for n, b in ids.items()} == {
        "impactvcb": 0x11,
        "pv143": 0x11,
        "pv150": 0x11,
        "vc100": 2,
    }
    assert [b.name for b in ids.values() if b.i2c_devices()] == ["impactvcb"]


def test_default_and_case() -> None:
    assert load_board() == load_board("PV143")
    assert len(load_board().inputs) == 4


def test_eeproms_are_not_shared() -> None:
    board = load_board("impactvcb")
    first, second = board.i2c_devices()[0], board.i2c_devices()[0]
    first.data[0] = 0
    assert second.data[0] == 0x84


def load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_board(path)


def test_own_file_with_defaults(tmp_path: Path) -> None:
    board = load(tmp_path, GOOD)
    assert board == load_board(str(tmp_path / "mine.yaml"))
    assert load_board(tmp_path / "mine.yaml").inputs == (Input("One", 2),)


def test_own_file_with_everything(tmp_path: Path) -> None:
    load(
        tmp_path,
        GOOD
        + """
revision: 0x02
crystal_mhz: 35.5
second_crystal_mhz: 28
gpio_levels: 0xabcdef
i2c:
  - {device: 24c02, address: 0x51, hex: "00 01ff", writable: true}
  - {device: 24c02, address: 0x50, hauppauge: {model: 1, tuner: 5, formats: 7, serial: 9, revision: B2}}
vpd: {PN: a b, V1: x}
""",
    )
    board = load_board(tmp_path / "mine.yaml")
    assert (board.revision, board.crystal_hz, board.second_crystal_hz) == (2, 35.5e6, 28e6)
    assert board.gpio_levels == 0xABCDEF
    assert board.i2c[0].contents == b"\x00\x01\xff"
    assert board.i2c_devices()[0].writable
    assert board.vpd == {"PN": "a b", "V1": "x"}


COMPLAINTS = [
    ("", "mapping with the keys title"),
    ("[1]", "mapping with the keys title"),
    ("a: [", "not YAML"),
    (GOOD.replace("title: Test", ""), "title: is missing"),
    (GOOD + "crystal: 3", "crystal: no such key (did you mean 'crystal_mhz'?)"),
    (GOOD.replace("muxsel", "muxel"), "inputs[0].muxel: no such key (did you mean 'muxsel'?)"),
    (GOOD.replace("muxsel: 2", "muxsel: 4"), "inputs[0].muxsel: wants a number from 0x0 to 0x3, not 4"),
    (GOOD.replace("muxsel: 2", "muxsel: true"), "inputs[0].muxsel: wants a number"),
    (GOOD.replace("name: One", "name: 1"), "inputs[0].name: wants"),
    (GOOD.replace("name: One", "name: Ünö"), "inputs[0].name: wants"),
    ("title: T\nsubsystem: '1:2'\ninputs: []", "subsystem: wants"),
    ("title: T\nsubsystem: 12345678\ninputs: []", "subsystem: wants"),
    ("title: T\nsubsystem: '0001:0002'\ninputs: []", "inputs: wants at least one"),
    ("title: T\nsubsystem: '0001:0002'\ninputs: {}", "inputs: wants a list"),
    (GOOD + "revision: 3", "revision: wants 0x02"),
    (GOOD + "crystal_mhz: fast", "crystal_mhz: wants MHz"),
    (GOOD + "crystal_mhz: .nan", "crystal_mhz: wants MHz"),
    (GOOD + "gpio_levels: 0x1000000", "gpio_levels: wants"),
    (GOOD + "i2c: [{device: tuner, address: 0x60}]", "i2c[0].device: no model of 'tuner'"),
    (GOOD + "i2c: [{device: 24c02, address: 0x7f}]", "i2c[0].address: wants"),
    (
        GOOD + "i2c: [{device: 24c02, address: 80}, {device: 24c02, address: 80}]",
        "i2c[1].address: 0x50 is taken",
    ),
    (GOOD + "i2c: [{device: 24c02, address: 80, hex: zz}]", "i2c[0].hex: wants"),
    (GOOD + "i2c: [{device: 24c02, address: 80, hex: 12}]", "i2c[0].hex: wants"),
    (
        GOOD + f"i2c: [{{device: 24c02, address: 80, hex: '{'00' * 257}'}}]",
        "i2c[0].hex: a 24c02 has 256 bytes",
    ),
    (
        GOOD + "i2c: [{device: 24c02, address: 80, hex: '', hauppauge: {model: 1}}]",
        "i2c[0]: wants hauppauge or",
    ),
    (GOOD + "i2c: [{device: 24c02, address: 80, hauppauge: {}}]", "i2c[0].hauppauge.model: is missing"),
    (GOOD + "i2c: [{device: 24c02, address: 80, hauppauge: {model: -1}}]", "i2c[0].hauppauge.model: wants"),
    (GOOD + "i2c: [{device: 24c02, address: 80, writable: 1}]", "i2c[0].writable: wants true or false"),
    (GOOD + "vpd: {partno: x}", "vpd.partno: wants a keyword"),
    (GOOD + "vpd: [x]", "vpd: wants a mapping"),
    (GOOD + "vpd: {RV: x}", "vpd.RV: wants"),
]


@pytest.mark.parametrize(("text", "complaint"), COMPLAINTS)
def test_complaints(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert complaint in message
    assert str(tmp_path / "mine.yaml") in message
    assert "\n" not in message


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(
        UsageError, match=r"no board is called 'pv134' \(did you mean 'pv143'\?\); there are imp"
    ):
        load_board("pv134")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_board(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_board(tmp_path / "binary.yaml")


TEXT = st.text("aZ0:x\n ", max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
KEYS = [
    "title",
    "subsystem",
    "revision",
    "crystal_mhz",
    "second_crystal_mhz",
    "inputs",
    "gpio_levels",
    "i2c",
    "vpd",
]


@given(st.dictionaries(st.sampled_from(KEYS), TREES))
def test_any_document_is_a_board_or_a_usage_error(document: dict[str, object]) -> None:
    whole = {"title": "T", "subsystem": "0001:0002", "inputs": [{"name": "a", "muxsel": 0}], **document}
    try:
        board_from(whole, Path("x.yaml"))
    except UsageError as error:
        assert "x.yaml" in str(error)  # noqa: PT017 - only this error may come, and it names the file
