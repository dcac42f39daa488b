# SPDX-License-Identifier: GPL-2.0-or-later
"""The RISC engine: fetches a program from guest memory and moves what is in the FIFO where it says.

Two paths, one result. The interpreter (here and in :mod:`vcapdev.bt878.interpreter`) executes any program,
instruction by instruction. Behind a SYNC to a mode code the engine tries the fast path first: the program's
leading lines that fit the FIFO's geometry are moved slice by slice, each slice's code fetched and compared
just before (:mod:`vcapdev.bt878.fitting`).

Before each batch the guest's pending messages are handled; if they stopped or restarted the engine, the batch
is not moved. (Fusion 878A data sheet 100600B, pages 2-38 to 2-46.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vcapdev.bt878.fifo import GROUP_BYTES, Block, Fifo
from vcapdev.bt878.fitting import Slice, slices_of
from vcapdev.bt878.interpreter import Interpreter, Stopped
from vcapdev.bt878.programs import FETCH, Place, Text, TextCache
from vcapdev.bt878.registers import IntStat
from vcapdev.bt878.risc import LONGEST, disassemble, instruction_bytes
from vcapdev.dma import Abort, Batch, Origin, Program
from vcapdev.pci.busmaster import BusAbort, BusMaster

MAX_STEPS = 16384
"""Instructions interpreted for one event; more than a real chip's bus could fetch in a field."""
MAX_IDLE_STEPS = 1024
"""Instructions in a row that take nothing from the FIFO: the end of a turn for what jumps in circles."""
DRAIN_EVERY = 256


class Engine(Interpreter):
    """One RISC engine.

    :param latch: sets bits of INT_STAT.
    :ivar running: between RISC_ENABLE and a stop or a fatal error.
    :ivar moved: batches since the chip last emptied the list, with the block they were taken from.
    :ivar fast: whether the fast path is tried; for tests.
    """

    def __init__(self, bus: BusMaster, fifo: Fifo, latch: Callable[[int], None]) -> None:
        super().__init__(bus, fifo, latch)
        self.moved: list[tuple[Block, Batch]] = []
        self.fast = True
        self.runaways = 0
        self._texts = TextCache(lambda text: bus.gone(text.id))
        self._text: Text | None = None
        self._run: tuple[Block, list[Slice], int] | None = None
        self._active = False

    # Switching.

    def start(self, address: int) -> None:
        """RISC_ENABLE goes to 1: the next :meth:`run` fetches from ``address``."""
        self._halt()
        self.pc = address
        self.running = True

    def stop(self) -> None:
        """RISC_ENABLE goes to 0: no further fetch."""
        self._halt()

    def flushed(self) -> None:
        """The FIFO was emptied: an instruction that is being executed begins again, and waits."""
        self.epoch += 1
        self._pieces.clear()
        self._run = None

    def reset(self) -> None:
        """As after power-on; every program is gone."""
        self._halt()
        self.pc = self.riscs = 0
        self._texts.clear()
        self.moved = []

    def _halt(self) -> None:
        self.running = self.held = False
        self.epoch += 1
        self.aborting_line = self.aborting = False
        self.after = None
        self.passed = 0
        self._pieces.clear()
        self._text = self._run = None

    # Running.

    def run(self) -> None:
        """Execute until the program waits for the FIFO or for an interrupt's turn, stops, or has had its own.

        May be called from within itself, through the messages that it handles: then the outer call goes on.
        """
        if self._active:
            return
        self._active = True
        try:
            self._turn()
        finally:
            self._active = False

    def _turn(self) -> None:
        self._steps = self.idle = 0
        self.held = False
        while self.running and self.bus.enabled():
            epoch = self.epoch
            try:
                if self._run is not None:
                    self._slice()
                elif not self._interpret():
                    return
            except Stopped:
                continue
            except BusAbort as abort:
                if self.epoch == epoch:
                    self._abort(abort)
        if not self.running:
            return
        self._pieces.clear()  # bus mastering is off: what was on its way is lost, the program stands still

    def _interpret(self) -> bool:
        """One instruction; False when there is nothing to do for now."""
        self._steps += 1
        self.idle += 1
        if self._steps % DRAIN_EVERY == 0:
            self.settle()
        if self._steps > MAX_STEPS or self.idle > MAX_IDLE_STEPS:
            self.flush()
            self.runaways += 1
            if self.aborting:  # nothing in the program waits for what is in the FIFO
                self.latch(IntStat.SCERR.mask)
            return False
        if self.step():
            return True
        self.flush()
        return False

    def _abort(self, abort: BusAbort) -> None:
        """PABORT. That the engine stops then is a choice: the pages at hand do not say."""
        if abort.why is Abort.MASTER_DISABLED:
            return
        self._halt()
        if not Place.of(abort.origin).fetch:
            self.pc = Place.of(abort.origin).address
        self.latch(IntStat.PABORT.mask)

    # The fast path.

    def synced(self) -> None:
        """A SYNC to a mode code has matched; ``pc`` is behind it."""
        block = self.fifo.block
        if block is None or not self.fast:
            return
        slices = slices_of(self._enter(self.pc), block)
        if slices:
            self._run = block, slices, 0

    def _slice(self) -> None:
        assert self._run is not None
        block, slices, index = self._run
        part = slices[index]
        self._run = None
        self.settle()
        if not self.bus.enabled() or self.fifo.block is not block or self.fifo.line != part.first:
            return  # bus mastering was switched off, now or before the field ended
        if self.bus.read(part.address, len(part.code), part.address | FETCH) != part.code:
            return  # the program has changed: what is there now is the interpreter's
        block.shot.render(part.first, part.lines, self.scratch)
        self.move(block, part.batch)
        self.fifo.next_line(part.lines)
        self.idle = 0
        self.pc = part.address + len(part.code)
        if part.after >= 0:
            self.after = part.after
        else:  # nothing but SKIPs
            self._advance(-1, part.lines * block.widths[0])
        if index + 1 < len(slices):
            self._run = block, slices, index + 1

    # Programs.

    def _enter(self, address: int) -> Text:
        """The text at an address as it is in memory now; announced if it was not known."""
        text = self._texts.get(address)
        if text is None or self.bus.peek(address, len(text.code)) != text.code:
            if text is not None:
                self._texts.drop(text)
            text = self._texts.read(address, self.bus.peek)
            self.bus.program(Program(text.id, address, text.ranges(), text.code))
            self._steps += len(text.shape.table) // 8  # a program that only makes us decode uses up its turn
        self._text = text
        return text

    def program_of(self, address: int, code: bytes) -> int:
        """The id of the program that an interpreted instruction belongs to."""
        text = self._text
        if text is not None and text.address <= address < text.end:
            offset = address - text.address
            if text.code[offset : offset + len(code)] == code:
                return text.id
        return self._enter(address).id

    def describe(self, origin: int, frame: int | None, field: str | None) -> Origin:
        """Explain an origin of a batch that is being moved, or of a fetch."""
        place = Place.of(origin)
        text = self._text
        if text is not None and text.address <= place.address < text.end:
            code = text.code[place.address - text.address :]
        else:
            code = self.bus.peek(place.address, 4 * LONGEST)
        words = np.frombuffer(code[: instruction_bytes(code)], "<u4").tolist() if len(code) > 3 else []
        said = disassemble(words) if words else "an instruction outside memory"
        if place.fetch:
            return Origin(f"fetch of {said}", place.address, frame, field)
        return Origin(said, place.address, frame, field, place.line, place.offset)


assert GROUP_BYTES % 8 == 0
