# SPDX-License-Identifier: GPL-2.0-or-later
"""Where guest RAM lies: told by who starts QEMU, since behind a vIOMMU the card's maps do not show it."""

from __future__ import annotations

import re

from vcapdev.vfiouser.rammap import RamPiece

_SIZE = re.compile(r"(\d+)([MG])\Z")
_PIECE = re.compile(r"(0x[0-9a-f]+|\d+)\+(0x[0-9a-f]+|\d+)@(0x[0-9a-f]+|\d+)\Z")
_PAGE = 4096
_FOUR_GIB = 1 << 32
_MOST = 1 << 40  # bytes

# Below 4 GiB a q35 has RAM up to here, and only up to 2 GiB when there is more (QEMU, hw/i386/pc_q35.c,
# pc_q35_init; the same from 2.x to 11.x).
_LOW, _LOW_OF_MORE = 0xB000_0000, 0x8000_0000


def q35(size: int) -> list[RamPiece]:
    """RAM of a q35 machine with ``size`` bytes of it, all in one file."""
    low = size if size < _LOW else _LOW_OF_MORE
    pieces = [RamPiece(0, low, 0)]
    if size > low:
        pieces.append(RamPiece(_FOUR_GIB, size - low, low))
    return pieces


def parse(text: str) -> list[RamPiece]:
    """``256M`` or ``4G``: a q35 machine's; else ``START+SIZE@OFFSET,...``, each a number of bytes.

    :raise ValueError: when it is neither, or makes no sense.
    """
    size = _SIZE.match(text)
    if size:
        return _checked(q35(int(size[1]) << {"M": 20, "G": 30}[size[2]]), text)
    pieces = []
    for word in text.split(","):
        found = _PIECE.match(word)
        if not found:
            raise ValueError(text)
        pieces.append(RamPiece(*(int(number, 0) for number in found.groups())))
    return _checked(sorted(pieces), text)


def _checked(pieces: list[RamPiece], text: str) -> list[RamPiece]:
    end = 0
    for start, size, offset in pieces:
        if start < end or not size or (start | size | offset) % _PAGE or max(start, offset) + size > _MOST:
            raise ValueError(text)
        end = start + size
    return pieces
