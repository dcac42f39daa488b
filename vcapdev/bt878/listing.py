# SPDX-License-Identifier: GPL-2.0-or-later
"""The program in memory as the engine would run it, for people and tests: decoded, JUMPs followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vcapdev.bt878.risc import DATA_OPS, LONGEST, Op, disassemble, instruction_bytes


class Instruction(NamedTuple):
    """One instruction: its bus address, its dwords, and what it does."""

    address: int
    words: list[int]
    text: str


def listing(address: int, peek: Callable[[int, int], bytes], most: int) -> list[Instruction]:
    """From ``address`` on until the program comes back to where it was, leaves memory, or makes no sense.

    :param peek: gives memory from an address on, up to a length.
    :param most: instructions; a guest may have written a program without an end.
    """
    found: list[Instruction] = []
    seen: set[int] = set()
    while address not in seen and len(found) < most:
        seen.add(address)
        code = peek(address, 4 * LONGEST)
        length = instruction_bytes(code)
        if len(code) < length or len(code) < 4:
            break
        words = np.frombuffer(code[:length], "<u4").tolist()
        found.append(Instruction(address, words, disassemble(words)))
        op = words[0] >> 28
        if op == Op.JUMP:
            address = words[1] & ~3
        elif op == Op.SYNC or op in DATA_OPS:
            address = (address + length) & 0xFFFF_FFFF
        else:
            break
    return found
