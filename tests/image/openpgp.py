# SPDX-License-Identifier: GPL-2.0-or-later
"""Just enough OpenPGP (RFC 4880) to sign a test repository: RSA keys that guard nothing, no gpg, no agent."""

from __future__ import annotations

import base64
import hashlib
import struct
import time
from dataclasses import dataclass

_BORN = 1577836800  # 2020-01-01
_SHA512_INFO = bytes.fromhex("3051300d060960864801650304020305000440")

_P1 = int(
    "cb28817134b626624669b8cc73064129556a6513bb06e41c1caef1a10ff683ff818cfd85ab1cab7d7fbf3356003fd4f5"
    "b42ed8ddb04f4abdcf6d4d4726b8570172c6d50eac7e3266342e249419749f1bfb803cd8bd59925e2bed25696b3f2f3f"
    "343cdbbc7446bd67eef0b8c4a7e70da7f60c004a57d79cc215abb969a6c5963d",
    16,
)
_Q1 = int(
    "fe5c2d7a979d57487ab369290a069b33e51534f1c7b4846a9638e4ed7b6a03c58272c5e7b44f2982674051a9f56d5bd1"
    "13acd306fbd3002a28fe46fe02b9b62ef9e4bbb5340bffc9eaf3359c63d075424577c89700b50956314e28f32def9920"
    "4ca13c112fed516f1a0078d3b2bdeb16fdcecb28f9c555d06aace8a1fefaa3e9",
    16,
)
_P2 = int(
    "e4189252124e839f8f81e51a9162380d265c509134359c5d450e029c84cd29d14e2c9ae8200353448944b8695aa61348"
    "8c2949b6467c8f540427541c73ff1951dc11980324c3464576bad00fa9153a29cdbc78924f806ed0857831b795701e1e"
    "94db48d2dbcce13508933b761b1d511a955cad261c4a9673b2b7b7e74a646703",
    16,
)
_Q2 = int(
    "f96b16f16c580b232e18521e8c8826d70ac4918b8246b23efd57c88ba0ecab82e49b4fa027a824b8fcb03ee0a44c4bab"
    "a793607601548040721a45c36ae4c264cf69c1d710524dcc57b6a1eee839f4d60f213cb3297893c42a1e2fd830e13289"
    "bd8926c99e9a7169c4570c5c89eca1b2ab9dd2944d480b5f4676ee6db361970b",
    16,
)


def _number(value: int) -> bytes:
    """A multiprecision integer (section 3.2)."""
    return struct.pack(">H", value.bit_length()) + value.to_bytes((value.bit_length() + 7) // 8, "big")


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, 0xFF]) + struct.pack(">I", len(body)) + body


def _subpacket(kind: int, data: bytes) -> bytes:
    return bytes([len(data) + 1, kind]) + data


@dataclass(frozen=True)
class Key:
    """An RSA key pair from two primes."""

    p: int
    q: int

    @property
    def _body(self) -> bytes:
        return b"\x04" + struct.pack(">I", _BORN) + b"\x01" + _number(self.p * self.q) + _number(65537)

    @property
    def fingerprint(self) -> bytes:
        return hashlib.sha1(self._hashed_body).digest()

    @property
    def _hashed_body(self) -> bytes:
        return b"\x99" + struct.pack(">H", len(self._body)) + self._body

    def public(self) -> bytes:
        """The public key with a user id that it certifies, as a binary keyring."""
        user = b"vcapdev test repository"
        certified = self._hashed_body + b"\xb4" + struct.pack(">I", len(user)) + user
        binding = self._signature(0x13, certified, _BORN, _subpacket(27, b"\x03"))
        return _packet(6, self._body) + _packet(13, user) + binding

    def clearsign(self, text: str) -> str:
        """The cleartext signature framework (section 7); ``text`` has no trailing blanks, no leading dash."""
        canonical = text.rstrip("\n").replace("\n", "\r\n").encode()
        signature = self._signature(0x01, canonical, int(time.time()) - 60)
        armour = base64.encodebytes(signature).decode()
        checksum = base64.b64encode(struct.pack(">I", _crc24(signature))[1:]).decode()
        return (
            f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text.rstrip(chr(10))}\n"
            f"-----BEGIN PGP SIGNATURE-----\n\n{armour}={checksum}\n-----END PGP SIGNATURE-----\n"
        )

    def _signature(self, kind: int, data: bytes, when: int, more: bytes = b"") -> bytes:
        hashed = _subpacket(33, b"\x04" + self.fingerprint) + _subpacket(2, struct.pack(">I", when)) + more
        head = bytes([4, kind, 1, 10]) + struct.pack(">H", len(hashed)) + hashed
        digest = hashlib.sha512(data + head + b"\x04\xff" + struct.pack(">I", len(head))).digest()
        unhashed = _subpacket(16, self.fingerprint[-8:])
        tail = struct.pack(">H", len(unhashed)) + unhashed + digest[:2] + _number(self._rsa(digest))
        return _packet(2, head + tail)

    def _rsa(self, digest: bytes) -> int:
        modulus = self.p * self.q
        size = (modulus.bit_length() + 7) // 8
        info = _SHA512_INFO + digest
        padded = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
        exponent = pow(65537, -1, (self.p - 1) * (self.q - 1))
        return pow(int.from_bytes(padded, "big"), exponent, modulus)


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = crc << 1 ^ (0x1864CFB if crc & 0x800000 else 0)
    return crc


KEY = Key(_P1, _Q1)  # signs the test repository
STRANGER = Key(_P2, _Q2)  # nobody's keyring has it
