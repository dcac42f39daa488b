# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions of the RISC engine: their fields, and in words.

::

     31  28 27  26  25 24  23      20 19    16 15      12 11                 0
    +------+---+---+--+---+----------+--------+----------+--------------------+
    |opcode|SOL|EOL| 0|IRQ| RISCS    | RISCS  | lanes    | bytes              |  data instructions
    |      |   |   |  |   | to reset | to set | disabled |                    |
    +------+---+---+--+---+----------+--------+----------+--------------------+
                                               15 RESYNC   3..0 FIFO status      SYNC

Sources: Fusion 878A data sheet 100600B, pages 2-38 to 2-46 (fields, errors, Table 2-7); Bt848 data sheet
L848A_A, page 54 (WRITEC, counts); Linux 6.1 ``drivers/media/pci/bt8xx/bt848.h`` (opcodes, status codes).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

SOL = 1 << 27
EOL = 1 << 26
IRQ = 1 << 24
RESYNC = 1 << 15
COUNT = 0xFFF
LANES = 0xF << 12


class Op(IntEnum):
    """Opcodes; all others are illegal."""

    WRITE = 0x1
    SKIP = 0x2
    WRITEC = 0x5
    JUMP = 0x7
    SYNC = 0x8
    WRITE123 = 0x9
    SKIP123 = 0xA
    WRITE1S23 = 0xB


DWORDS = {
    Op.WRITE: 2,
    Op.SKIP: 1,
    Op.WRITEC: 1,
    Op.JUMP: 2,
    Op.SYNC: 2,
    Op.WRITE123: 5,
    Op.SKIP123: 2,
    Op.WRITE1S23: 3,
}
"""Length of each instruction."""

LONGEST = 5
DATA_OPS = frozenset(DWORDS) - {Op.JUMP, Op.SYNC}


class Status(IntEnum):
    """FIFO status codes, which are also the only legal operands of SYNC."""

    PXV = 0x0
    EOL4 = 0x1
    SOL = 0x2
    VRE = 0x4
    EOL1 = 0x5
    FM1 = 0x6
    EOL2 = 0x9
    VRO = 0xC
    EOL3 = 0xD
    FM3 = 0xE


SYNC_OPERANDS = frozenset(int(status) for status in Status)
END_OF_LINE = {4: Status.EOL4, 3: Status.EOL3, 2: Status.EOL2, 1: Status.EOL1}
"""The status of a line's last dword, by its valid bytes."""


_BYTES = [4 * DWORDS.get(op, 1) for op in range(16)]  # type: ignore[call-overload]


def instruction_bytes(code: bytes) -> int:
    """Length of the instruction that ``code`` begins with; 4 for an illegal one, or for too few bytes."""
    return _BYTES[code[3] >> 4] if len(code) > 3 else 4


def counts(words: Sequence[int]) -> tuple[int, int, int]:
    """Bytes that a data instruction takes from each FIFO."""
    planar = words[0] >> 28 in (Op.WRITE123, Op.SKIP123, Op.WRITE1S23)
    return words[0] & COUNT, words[1] & COUNT if planar else 0, words[1] >> 16 & COUNT if planar else 0


def disassemble(words: Sequence[int]) -> str:
    """An instruction in words: ``"WRITE SOL 1008 bytes to 0x0a3c1010"``.

    :param words: its dwords; too few of them are said to be missing.
    """
    word = words[0]
    try:
        op = Op(word >> 28)
    except ValueError:
        return f"illegal instruction {word:#010x}"
    if len(words) < DWORDS[op]:
        return f"{op.name} {word:#010x}, cut off"
    return " ".join([op.name, *_flags(op, word), _operands(op, words)])


def _flags(op: Op, word: int) -> list[str]:
    flags = [name for name, bit in (("SOL", SOL), ("EOL", EOL)) if op in DATA_OPS and word & bit]
    flags += ["RESYNC"] if op is Op.SYNC and word & RESYNC else []
    flags += ["IRQ"] if word & IRQ else []
    flags += [f"reset={word >> 20 & 15:#x}"] if word >> 20 & 15 else []
    flags += [f"set={word >> 16 & 15:#x}"] if word >> 16 & 15 else []
    return flags + ([f"lanes-off={word >> 12 & 15:#x}"] if op in DATA_OPS and word & LANES else [])


def _operands(op: Op, words: Sequence[int]) -> str:
    if op is Op.JUMP:
        return f"to {words[1]:#010x}"
    if op is Op.SYNC:
        operand = words[0] & 15
        return Status(operand).name if operand in SYNC_OPERANDS else f"{operand:#x}"
    first, second, third = counts(words)
    if op is Op.WRITE:
        return f"{first} bytes to {words[1]:#010x}"
    if op is Op.WRITE123:
        return f"{first} bytes to {words[2]:#010x}, {second} to {words[3]:#010x}, {third} to {words[4]:#010x}"
    if op is Op.WRITE1S23:
        return f"{first} bytes to {words[2]:#010x}, {second} and {third} skipped"
    return f"{first}, {second} and {third} bytes" if op is Op.SKIP123 else f"{first} bytes"
