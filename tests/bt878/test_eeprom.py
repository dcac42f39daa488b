# SPDX-License-Identifier: GPL-2.0-or-later
"""The 24C02, and Hauppauge's tags as Linux's tveeprom walks through them.

Protects board recognition: a malformed packet makes Linux give up on the whole EEPROM.
"""

from __future__ import annotations

import pytest

from vcapdev.bt878.eeprom import Eeprom24c02, hauppauge


def packets(data: bytes) -> dict[int, bytes]:
    """Tag and payload of each packet, up to the end mark; its checksum is verified."""
    found, at = {}, 0
    while data[at] != 0x79:
        if data[at] == 0x84:
            length, at = int.from_bytes(data[at + 1 : at + 3], "little"), at + 3
        else:
            assert data[at] & 0xF8 == 0x70
            length, at = data[at] & 7, at + 1
        found[data[at]] = data[at : at + length]
        at += length
    assert sum(data[: at + 2]) & 0xFF == 0
    return found


def test_hauppauge_tags() -> None:
    data = hauppauge(model=64900, revision="D121", serial=878001, tuner=5, formats=0x14)
    assert len(data) == 256
    found = packets(data)
    whole = found[0]
    assert (whole[5], whole[6]) == (0x14, 5)
    assert int.from_bytes(whole[8:10], "little") == 64900
    revision = int.from_bytes(whole[10:13], "little")
    assert "".join(chr(32 + (revision >> shift & 63)) for shift in (18, 12, 6, 0)) == "D121"
    assert whole[-1] == 0, "no radio"
    assert int.from_bytes(found[1][6:9], "little") == 878001
    assert found[2][2] == 0, "no audio processor"


def test_pointer_wraps() -> None:
    eeprom = Eeprom24c02(0x50, bytes(range(256)))
    eeprom.begin(False)
    eeprom.write(0xFE)
    eeprom.begin(True)
    assert [eeprom.read() for _ in range(4)] == [0xFE, 0xFF, 0, 1]


def test_erased_beyond_the_contents_and_write_protected() -> None:
    eeprom = Eeprom24c02(0x50, b"\x12")
    eeprom.begin(False)
    assert eeprom.write(0)
    assert eeprom.write(0x99), "a protected chip acknowledges and forgets"
    assert eeprom.data[:3] == b"\x12\xff\xff"


def test_too_long() -> None:
    with pytest.raises(ValueError, match="256"):
        Eeprom24c02(0x50, bytes(257))
