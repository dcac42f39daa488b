# SPDX-License-Identifier: GPL-2.0-or-later
"""The RISC engine's instructions, one by one.

The rules are those of data sheet 100600B, pages 2-43 to 2-46, and L848A_A, page 54 (WRITEC, short lines).
What they leave open is decided here so: an instruction that is aborted raises nothing, yet moves the address
that a WRITEC continues at; JUMPs are executed even while data instructions are aborted, or bttv's loop could
not go on; where a status nibble both resets and sets a bit, it is set.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from vcapdev.bt878.fifo import GROUP_BYTES, LINE, Block, Fifo
from vcapdev.bt878.programs import FETCH, Place, destinations
from vcapdev.bt878.registers import IntStat
from vcapdev.bt878.risc import (
    DATA_OPS,
    EOL,
    IRQ,
    LANES,
    LONGEST,
    RESYNC,
    SOL,
    SYNC_OPERANDS,
    Op,
    Status,
    counts,
    instruction_bytes,
)
from vcapdev.dma import Batch
from vcapdev.pci.busmaster import BusMaster

_MODES = (Status.FM1, Status.FM3)
_CODES = (*_MODES, Status.VRE, Status.VRO)
_WORDS = {4 * length: struct.Struct(f"<{length}I") for length in range(1, LONGEST + 1)}
JUMP, SYNC = int(Op.JUMP), int(Op.SYNC)  # comparing with members of an enumeration takes longer
_MAX_PIECES = 4096
_SLACK = 8192  # room for one line of the longest kind beyond a group
Piece = tuple[int, int, int, int]  # bus address, length, offset in the scratch buffer, origin


class Stopped(Exception):  # noqa: N818 - not an error: the guest stopped or restarted the engine
    """The engine was stopped or restarted by a message that was handled in the middle of something."""


class Interpreter:
    """Executes instructions; :class:`vcapdev.bt878.engine.Engine` decides when.

    :ivar pc: address of the instruction that is executed or waits (RISC_COUNT).
    :ivar riscs: the four status flags.
    :ivar epoch: grows whenever the engine is started or stopped, or its FIFO emptied.
    :ivar after: where a WRITEC continues, None if nothing was written yet.
    :ivar aborting_line: instructions are aborted through the one with EOL (the line was short).
    :ivar aborting: instructions are aborted up to the SYNC for what is at the FIFO's head.
    :ivar passed: lines of another mode that a SYNC to a mode code has seen go by.
    :ivar may_interrupt: asked before an instruction with its IRQ bit; it waits until the answer is yes.
    :ivar held: whether an instruction waits for that.
    :ivar idle: instructions since something was taken from the FIFO.
    """

    def __init__(self, bus: BusMaster, fifo: Fifo, latch: Callable[[int], None]) -> None:
        self.bus, self.fifo, self.latch = bus, fifo, latch
        self.pc = self.riscs = self.epoch = self.passed = self.idle = 0
        self.running = self.aborting_line = self.aborting = False
        self.after: int | None = None
        self.scratch = _scratch(GROUP_BYTES + _SLACK)
        self.may_interrupt: Callable[[], bool] = lambda: True
        self.held = False
        self.fetch_error = 0  # a test wants the next fetch to fail, with these bits of INT_STAT
        self.moved: list[tuple[Block, Batch]] = []
        self._pieces: list[Piece] = []
        self._span = (1 << 64, 0)  # lowest and highest address in _pieces
        self._owner: tuple[Block, int, int] | None = None  # block, group and program of _pieces
        self._steps = 0

    # What the engine adds.

    def synced(self) -> None:
        """A SYNC to a mode code has matched."""

    def program_of(self, address: int, code: bytes) -> int:
        """The id of the program that an instruction belongs to."""
        raise NotImplementedError

    # Fetching.

    def step(self) -> bool:
        """One instruction; False when it waits for the FIFO, or the engine has stopped."""
        if self.fifo.head() is None and self.aborting:
            self.aborting = False
        pc = self.pc
        if self._pieces and self._span[0] < pc + 20 and self._span[1] > pc:
            self.flush()  # the program writes to itself
        code = self.bus.fetch(pc, 4 * LONGEST, instruction_bytes, pc | FETCH)
        words = list(_WORDS[len(code)].unpack(code))
        op = words[0] >> 28
        if self.fetch_error:
            return self._fatal(self.fetch_error)
        if words[0] & IRQ and not self.may_interrupt():
            self.held = True
            return False
        if op == JUMP:
            return self._executed(words, words[1] & ~3)
        if op == SYNC:
            return self._sync(words)
        return self._data(words, code) if op in DATA_OPS else self._fatal(IntStat.OCERR.mask)

    def _fatal(self, error: int) -> bool:
        """A bad opcode or operand, or a parity error: the engine stops (pages 2-43, 2-45)."""
        self.flush()
        self.fetch_error = 0
        self.running = False
        self.latch(error)
        return False

    def _executed(self, words: list[int], following: int) -> bool:
        word = words[0]
        if word & 0x01FF_0000:
            self.flush()  # the bytes are in memory before the guest can hear of it
            self.riscs = self.riscs & ~(word >> 20) | word >> 16 & 15
        self.pc = following & 0xFFFF_FFFF
        if word & IRQ:
            self.latch(IntStat.RISCI.mask)
        return True

    # Control.

    def _sync(self, words: list[int]) -> bool:
        operand = words[0] & 15
        if operand not in SYNC_OPERANDS:
            return self._fatal(IntStat.OCERR.mask)
        self.aborting_line = False
        # Past the end of a field the program runs on to the SYNC for it. Before video, which a program of too
        # many VBI lines meets, any SYNC goes on: bttv's loop must not pass its SYNC VRE within a field.
        if self.aborting and self.fifo.head() not in (operand, *_MODES):
            self.pc += 8
            return True
        self.aborting = False
        found, skipped = self._seek(operand)
        if skipped and not words[0] & RESYNC:
            self.latch(IntStat.FDSR.mask)
        if not found:
            return False
        self.passed = 0
        self._executed(words, self.pc + 8)
        if operand in _MODES:
            self.synced()
        return True

    def _seek(self, operand: int) -> tuple[bool, bool]:
        """Throw FIFO entries away up to and with status ``operand``: found, and whether any were thrown."""
        skipped = False
        while (head := self.fifo.head()) is not None:
            self.idle = 0
            if head == operand:
                self.fifo.take_code()
                return True, skipped
            skipped = True
            if head != LINE:
                self.fifo.take_code()
                if head not in _MODES:
                    self._field_passed(operand)
            elif operand in _CODES:
                self.passed += self.fifo.skip_lines()
            elif self.fifo.seek_in_line(operand):
                return True, skipped
        return False, skipped

    def _field_passed(self, operand: int) -> None:
        """A whole field of the other mode went by a SYNC: SCERR, as far as its rule is known."""
        if operand in _MODES and self.passed:
            self.latch(IntStat.SCERR.mask)
        self.passed = 0

    # Data.

    def _data(self, words: list[int], code: bytes) -> bool:
        word, size = words[0], counts(words)
        if self.aborting_line and word & SOL:
            self.aborting_line = False
        if not (self.aborting or self.aborting_line):
            head = self.fifo.head()
            if head is None:
                return False
            if head != LINE:  # fewer lines than the program has
                self.latch(IntStat.FDSR.mask)
                self.aborting = True
            elif word & SOL and not self.fifo.at_start:  # the line before was longer
                self.latch(IntStat.FDSR.mask)
                self.fifo.next_line()
                return True
        targets = destinations(words, -1 if self.after is None else self.after)
        self._advance(targets[0], size[0])
        if self.aborting or self.aborting_line:
            self.aborting_line = self.aborting_line and not word & EOL
            self.pc += len(code)
            return True
        self._take(words, code, size, targets)
        return self._executed(words, self.pc + len(code))

    def _advance(self, target: int, count: int) -> None:
        start = target if target >= 0 else self.after
        self.after = None if start is None else (start + count) & 0xFFFF_FFFF

    def _take(
        self, words: list[int], code: bytes, size: tuple[int, int, int], targets: tuple[int, int, int]
    ) -> None:
        fifo, word = self.fifo, words[0]
        if fifo.at_start and not word & SOL:
            self.latch(IntStat.FDSR.mask)
        left = fifo.left()
        for plane in range(3):
            count = min(size[plane], left[plane])
            if count and targets[plane] >= 0:
                self._put(word, code, plane, targets[plane], count)
            fifo.used[plane] += count
            self.idle = 0 if count else self.idle
        if word & EOL:
            if left != size:  # the line is shorter or longer than the program's
                self.latch(IntStat.FDSR.mask)
            fifo.next_line()
            self.idle = 0
        elif size[0] >= left[0]:  # the line is over, the program wants more of it
            self.latch(IntStat.FDSR.mask)
            fifo.next_line()
            self.aborting_line = True

    def _put(self, word: int, code: bytes, plane: int, target: int, count: int) -> None:
        """Queue the write of ``count`` bytes from the head of a bank."""
        block, line, used = self.fifo.block, self.fifo.line, self.fifo.used[plane]
        assert block is not None
        self._own(block, line // block.group, self.program_of(self.pc, code))
        picture, row = block.shot.picture, line % block.group
        lines = min(block.group, block.lines - (line - row))
        source = picture.offsets(lines)[plane] + row * picture.strides[plane] + used
        for start, end in _enabled(target, count, word):
            self._pieces.append(
                (
                    target + start,
                    end - start,
                    source + start,
                    Place(self.pc, line, used + start, plane).origin,
                )
            )
        self._span = min(self._span[0], target), max(self._span[1], target + count)
        if target + count > 1 << 32:
            self._wrap()
        # What may be refused is moved at once, so that nothing behind it is executed.
        if len(self._pieces) >= _MAX_PIECES or not self.bus.reaches(target, count):
            self.flush()

    def _wrap(self) -> None:
        """The bus address has 32 bits: what is beyond the last begins again at 0."""
        wrapped: list[Piece] = []
        for address, length, source, origin in self._pieces:
            over = min(length, max(0, address + length - (1 << 32)))
            if over < length:
                wrapped.append((address, length - over, source, origin))
            if over:
                wrapped.append(
                    ((address + length - over) & 0xFFFF_FFFF, over, source + length - over, origin)
                )
        self._pieces = wrapped
        self._span = 0, 1 << 33

    # Moving.

    def _own(self, block: Block, group: int, program: int) -> None:
        """Make room for pieces of one group of lines and one program; others are moved first."""
        if self._owner is not None and self._pieces:
            if self._owner == (block, group, program):
                return
            self.flush()
        self._owner = block, group, program

    def settle(self) -> None:
        """Handle what the guest has sent.

        :raise Stopped: it stopped or restarted the engine.
        """
        epoch = self.epoch
        self.bus.drain()
        if self.epoch != epoch:
            raise Stopped

    def flush(self) -> None:
        """Move what has been queued.

        :raise Stopped: the engine was stopped meanwhile; nothing was moved.
        :raise BusAbort: a piece was refused.
        """
        if not self._pieces:
            return
        self.settle()
        pieces, self._pieces, self._span = self._pieces, [], (1 << 64, 0)
        assert self._owner is not None
        block, group, program = self._owner
        if not self.bus.enabled():
            return  # lost; the engine will stand still at its next fetch
        first = group * block.group
        block.shot.render(first, min(block.group, block.lines - first), self.scratch)
        addr, length, source, origin = zip(*pieces, strict=True)
        batch = Batch(
            np.array(addr, np.uint64),
            np.array(length, np.uint32),
            np.array(source, np.uint32),
            np.array(origin, np.int64),
            program,
        )
        self.move(block, batch)

    def move(self, block: Block, batch: Batch) -> None:
        """Move what has been rendered.

        :raise Stopped: the engine was stopped while observers looked, before or after the bytes were moved.
        :raise BusAbort: a piece was refused.
        """
        epoch = self.epoch
        if self.bus.write(batch, self.scratch, lambda: self.epoch == epoch):
            self.moved.append((block, batch))
        if self.epoch != epoch:
            raise Stopped


def _scratch(size: int) -> NDArray[np.uint8]:
    """A buffer that begins 128 bytes into a page.

    Copying is half as fast where the low twelve bits of a target are those of its source and a little more:
    the processor takes its loads for dependent on the stores before them. Capture buffers begin at a page or,
    from malloc, 16 bytes into one, and common line lengths are multiples of 256: 128 is in between.
    """
    whole = np.zeros(size + 4096, np.uint8)
    start = (128 - whole.ctypes.data) % 4096
    return whole[start : start + size]


def _enabled(target: int, count: int, word: int) -> Iterator[tuple[int, int]]:
    """The stretches of ``count`` bytes at ``target`` whose byte lanes a WRITE does not disable."""
    disabled = (word & LANES) >> 12
    if not disabled:
        yield 0, count
        return
    start = None
    for at in range(count):
        if disabled >> ((target + at) & 3) & 1:
            if start is not None:
                yield start, at
            start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, count
