# SPDX-License-Identifier: GPL-2.0-or-later
"""A 24C02 serial EEPROM, and what board makers put into it.

Sources: data sheet of the 24C02 (page write, current address and random read); Linux 6.1
``drivers/media/common/tveeprom.c`` for the tagged format that Hauppauge uses.
"""

from __future__ import annotations

from construct import Bytes, Int8ul, Int16ul, Int24ul, Padding, Struct

SIZE = 256  # bytes
PAGE = 8  # a write of several bytes wraps within a page


class Eeprom24c02:
    """256 bytes behind an address pointer that reads advance and wrap; a device for :class:`I2cBus`.

    :param contents: the bytes; shorter ones are filled up with 0xff, as an erased chip reads.
    :param writable: False ties the write-protect pin high: data bytes are acknowledged and lost.
    """

    def __init__(self, address: int, contents: bytes = b"", *, writable: bool = False) -> None:
        if len(contents) > SIZE:
            raise ValueError(f"a 24C02 has {SIZE} bytes, not {len(contents)}")
        self.address = address
        self.data = bytearray(contents.ljust(SIZE, b"\xff"))
        self.writable = writable
        self._pointer = 0
        self._want_pointer = False

    def begin(self, read: bool) -> bool:
        """A start condition with our address; a write begins with the byte that sets the pointer."""
        self._want_pointer = not read
        return True

    def write(self, byte: int) -> bool:
        """A byte from the master; always acknowledged (the write cycle takes no time here)."""
        if self._want_pointer:
            self._pointer, self._want_pointer = byte, False
            return True
        if self.writable:
            self.data[self._pointer] = byte
        self._pointer = (self._pointer & ~(PAGE - 1)) | ((self._pointer + 1) & (PAGE - 1))
        return True

    def read(self) -> int:
        """The byte at the pointer, which moves on."""
        byte = self.data[self._pointer]
        self._pointer = (self._pointer + 1) % SIZE
        return byte

    def end(self) -> None:
        """A stop condition."""


_COMPREHENSIVE = Struct(
    "tag" / Bytes(1),
    "unknown" / Padding(4),
    "tuner_formats" / Int8ul,
    "tuner" / Int8ul,
    "unknown" / Padding(1),
    "model" / Int16ul,
    "revision" / Int24ul,
    "unknown" / Padding(2),
    "radio" / Int8ul,
)
_SERIAL = Struct("tag" / Bytes(1), "unknown" / Padding(5), "serial" / Int24ul)
_AUDIO = Struct("tag" / Bytes(1), "unknown" / Padding(1), "processor" / Int8ul)
_END = 0x79


def hauppauge(
    *, model: int, revision: str = "A1", serial: int = 1, tuner: int = 0, formats: int = 0
) -> bytes:
    """Hauppauge's tagged format, with the tags that Linux looks at; 256 bytes.

    :param model: what the sticker says; Linux takes 64900 as an ImpactVCB (no tuner).
    :param revision: up to four characters, space to underscore.
    :param tuner: index in Hauppauge's list, 0 for none.
    :param formats: bit mask of television standards in Hauppauge's numbering.
    """
    code = 0
    for character in revision.ljust(4)[:4]:
        code = code << 6 | (ord(character) - 32) & 0x3F
    body = _long(
        _COMPREHENSIVE.build(
            {
                "tag": b"\x00",
                "tuner_formats": formats,
                "tuner": tuner,
                "model": model,
                "revision": code,
                "radio": 0,
            }
        )
    )
    body += _long(_SERIAL.build({"tag": b"\x01", "serial": serial}))
    body += _short(_AUDIO.build({"tag": b"\x02", "processor": 0}))
    body += bytes([_END])
    return (body + bytes([-sum(body) & 0xFF])).ljust(SIZE, b"\xff")


def _long(packet: bytes) -> bytes:
    return b"\x84" + len(packet).to_bytes(2, "little") + packet


def _short(packet: bytes) -> bytes:
    return bytes([0x70 | len(packet)]) + packet
