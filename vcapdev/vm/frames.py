# SPDX-License-Identifier: GPL-2.0-or-later
"""The frames of the control channel to the guest, from and to bytes; docs/agent.md describes them."""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = 0x31414356
VERSION = 1
MAX_PAYLOAD = 32768
_HEADER = struct.Struct("<IIIHH")

HELLO, SPAWN, SIGNAL, PUSH, PULL, DATA, END, RESTORED = 1, 2, 3, 4, 5, 6, 7, 8
SPAWNED, STDOUT, STDERR, EXITED, DONE, ERROR, KMSG, KMSG_LOST = 16, 17, 18, 19, 20, 21, 22, 23


class Frame(NamedTuple):
    """One message of the channel."""

    id: int
    type: int
    payload: bytes = b""


def _check(length: int, ident: int, kind: int) -> int:
    x = length ^ (ident * 0x9E3779B1 & 0xFFFFFFFF) ^ (kind << 8) ^ 0x5643
    return (x ^ (x >> 16)) & 0xFFFF


def encode(frame: Frame) -> bytes:
    """A frame as bytes.

    :raise ValueError: when its payload is longer than ``MAX_PAYLOAD``.
    """
    length = len(frame.payload)
    if length > MAX_PAYLOAD:
        raise ValueError(f"payload of {length} bytes")
    return (
        _HEADER.pack(MAGIC, length, frame.id, frame.type, _check(length, frame.id, frame.type))
        + frame.payload
    )


class Decoder:
    """Finds frames in a stream; whatever is not a frame is skipped and counted."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.junk = 0  # bytes skipped so far

    def feed(self, data: bytes) -> list[Frame]:
        """Add what arrived; the frames that are complete by now."""
        self._data += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        while len(self._data) >= _HEADER.size:
            magic, length, ident, kind, check = _HEADER.unpack_from(self._data)
            if magic != MAGIC or length > MAX_PAYLOAD or check != _check(length, ident, kind):
                self._skip_junk()
                continue
            if len(self._data) < _HEADER.size + length:
                return None
            payload = bytes(self._data[_HEADER.size : _HEADER.size + length])
            del self._data[: _HEADER.size + length]
            return Frame(ident, kind, payload)
        return None

    def _skip_junk(self) -> None:
        at = self._data.find(MAGIC.to_bytes(4, "little"), 1)
        skip = at if at >= 0 else max(1, len(self._data) - 3)
        self.junk += skip
        del self._data[:skip]
