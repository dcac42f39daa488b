# SPDX-License-Identifier: GPL-2.0-or-later
"""Capabilities: vital product data that answers, and power management with D0 and D3hot.

Sources: PCI Local Bus Specification 2.2, section 6.7 and appendix I (vital product data); PCI Bus Power
Management Interface Specification 1.1, section 3.2. A real Bt878 at revision 0x11 has both, at 0x44 and 0x4c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from construct import Const, Int8ul, Int16ul, Int32ul, Struct

from vcapdev.pci.config import ConfigSpace

_VPD = Struct("id" / Const(0x03, Int8ul), "next" / Int8ul, "address" / Int16ul, "data" / Int32ul)
_PM = Struct(
    "id" / Const(0x01, Int8ul),
    "next" / Int8ul,
    "capabilities" / Int16ul,
    "control" / Const(0, Int16ul),
    "bridge" / Const(0, Int8ul),
    "data" / Const(0, Int8ul),
)


def vital_product_data(name: str, items: Mapping[str, str]) -> bytes:
    """A well-formed data block: identifier string, read-only items closed by their checksum, end tag.

    :param name: the product's name, ASCII.
    :param items: two-letter keywords (``PN`` part number, ``SN`` serial number ...) and their text.
    """
    head = b"\x82" + len(name).to_bytes(2, "little") + name.encode("ascii")
    body = b"".join(_item(keyword, text.encode("ascii")) for keyword, text in items.items())
    head += b"\x90" + (len(body) + 4).to_bytes(2, "little") + body + b"RV\x01"
    checksum = -sum(head) & 0xFF
    return head + bytes([checksum]) + b"\x78"


def _item(keyword: str, text: bytes) -> bytes:
    return keyword.encode("ascii") + bytes([len(text)]) + text


class VitalProductData:
    """Vital product data of up to 32 KiB, read a dword at a time; writes complete and change nothing.

    Software writes an address with the flag clear; the data are there, and the flag set, at once.
    """

    FLAG = 0x80

    def __init__(self, offset: int, contents: bytes) -> None:
        self.offset = offset
        self.contents = contents
        self._config: ConfigSpace | None = None

    def install(self, config: ConfigSpace, following: int) -> None:
        self._config = config
        config.put(self.offset, _VPD.build({"next": following, "address": 0, "data": 0}))
        config.allow(self.offset + 2, b"\xfc\xff\xff\xff\xff\xff")
        config.on_write(self.offset + 3, self._transfer)

    def reset(self) -> None:
        pass

    def _transfer(self) -> None:
        assert self._config is not None
        data = self._config.data
        flag = data[self.offset + 3]
        if flag & self.FLAG:  # a write: the contents are read-only, so only say that it is done
            data[self.offset + 3] = flag & ~self.FLAG
            return
        address = self._config.word(self.offset + 2)
        data[self.offset + 4 : self.offset + 8] = self.contents[address : address + 4].ljust(4, b"\0")
        data[self.offset + 3] = flag | self.FLAG


class PowerManagement:
    """Power management, version 2: D0 and D3hot, DSI, no D1, D2 or PME.

    Coming back from D3hot resets the function (No_Soft_Reset is 0): ``on_reset`` is called for it.
    """

    CAPABILITIES = 0x0022  # version 2, device specific initialisation
    STATE = 0x3
    D3HOT = 0x3

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.on_reset: Callable[[], None] | None = None
        self._config: ConfigSpace | None = None
        self._state = 0

    def install(self, config: ConfigSpace, following: int) -> None:
        self._config = config
        config.put(self.offset, _PM.build({"next": following, "capabilities": self.CAPABILITIES}))
        config.allow(self.offset + 4, bytes([self.STATE]))
        config.on_write(self.offset + 4, self._set_state)

    def reset(self) -> None:
        self._state = 0

    def _set_state(self) -> None:
        assert self._config is not None
        at = self.offset + 4
        wanted = self._config.data[at] & self.STATE
        if wanted not in (0, self.D3HOT):  # D1 and D2 do not exist: the write has no effect
            self._config.data[at] = (self._config.data[at] & ~self.STATE) | self._state
            return
        before, self._state = self._state, wanted
        self._config.set_power(wanted == 0)
        if before and not wanted and self.on_reset is not None:
            self.on_reset()
