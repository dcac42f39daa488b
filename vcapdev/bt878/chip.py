# SPDX-License-Identifier: GPL-2.0-or-later
"""Function 0 of the Bt878, put together: registers, decoder, FIFO, RISC engine, I2C, GPIO and the clock.

::

    BAR0 --> registers --> decoder ----setup, FIELD----.
                 |                                     v
                 |                clock --begin, end--> FIFO --> RISC engine --> bus master --> memory
                 '-- GPIO_DMA_CTL ------------------------------------^  |
                 '-- INT_STAT & INT_MASK <------- latched bits ----------' --> INTx
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vcapdev.bt878.board import Board
from vcapdev.bt878.clock import Clock, Scheduler
from vcapdev.bt878.decoder import Decoder
from vcapdev.bt878.engine import Engine
from vcapdev.bt878.fifo import Block, Fifo
from vcapdev.bt878.frame import Moved, SentFrame, sent_frame
from vcapdev.bt878.gpio import Gpio
from vcapdev.bt878.i2c import I2cBus, I2cController
from vcapdev.bt878.output_registers import CapCtl
from vcapdev.bt878.registers import REGISTERS, GpioDmaCtl, IntMask, IntStat, RiscStrtAdd
from vcapdev.bt878.risc import Status
from vcapdev.bt878.vbi import field_blocks
from vcapdev.dma import Checkpoint, Origin
from vcapdev.pci.busmaster import BusMaster
from vcapdev.regs import RegisterFile

_RISC, _FIFO = GpioDmaCtl.RISC_ENABLE.mask, GpioDmaCtl.FIFO_ENABLE.mask
_FIELD_CAUSES = IntStat.VSYNC.mask | IntStat.RISCI.mask
_STOPPING = IntStat.PABORT.mask | IntStat.RIPERR.mask
# Registers that a driver writes when it turns from one piece of work to another: it acknowledges, masks, or
# switches capture or DMA. Between these it sets sizes and colours, thirty registers for every frame, and does
# nothing with buffers: to look at their pages each time would find nothing and cost as much as all the rest.
_TURNS = frozenset(reg.OFFSET for reg in (IntStat, IntMask, CapCtl, RiscStrtAdd, GpioDmaCtl))


@dataclass(slots=True)
class Stats:
    """Counted since power-on."""

    fields: int = 0
    frames: int = 0  # of which anything was moved to memory, complete
    interrupts: int = 0  # rising edges of the line
    lost_fields: int = 0  # lines dropped because the engine stood still
    aborted_fields: int = 0  # a transfer was refused
    stopped_fields: int = 0  # DMA was switched off between begin and end
    runaways: int = 0  # turns of the engine that had to be ended
    handshake_timeouts: int = 0
    late_fields: int = 0  # clock "real" only


class Bt878:
    """One chip.

    :param set_intx: told the level of the interrupt line, when it changes.
    :param norm: of the signal on the board's inputs: "PAL", "NTSC" or "SECAM".
    :param clock: mode of the clock, see :mod:`vcapdev.bt878.clock`.
    :param drain: handles the guest's pending messages; by default the bus master's.
    :param handling: told when the driver reads the causes of a pending interrupt (True), and when it has
        cleared some and others are left (False).
    :raise UsageError: no such norm or mode.
    """

    def __init__(
        self,
        bus: BusMaster,
        set_intx: Callable[[bool], None],
        scheduler: Scheduler,
        board: Board,
        *,
        norm: str = "PAL",
        clock: str = "paced",
        drain: Callable[[], None] | None = None,
        handling: Callable[[bool], None] = lambda begun: None,
    ) -> None:
        self.bus = bus
        if drain is not None:
            bus.on_drain = drain
        self.registers = RegisterFile(REGISTERS, self)
        self.decoder = Decoder(self.registers, board, norm, self.latch)
        self.i2c = I2cController(self.registers, I2cBus(board.i2c_devices()), self.latch)
        self.gpio = Gpio(self.registers, board.gpio_levels, self.latch)
        self.fifo = Fifo()
        self.engine = Engine(bus, self.fifo, self.latch)
        self.frame = 0
        self._stats = Stats()
        self.drive = set_intx
        """Gets the level of the interrupt line, when it changes; a fault may stand in its place."""
        self.spoil: Callable[[list[Block]], list[Block]] | None = None
        """A fault that takes lines out of fields."""
        self._handling, self._level = handling, False
        self._stat, self._mask = self.registers.cell("INT_STAT"), self.registers.cell("INT_MASK")
        self._control = self.registers.cell("GPIO_DMA_CTL")
        self._switches = 0  # RISC_ENABLE and FIFO_ENABLE as they were
        self._was_running = False
        # A field's VSYNC and the interrupt behind its lines raise the line together, when the lines are in
        # memory; INT_STAT shows VSYNC at once. bttv only counts it, and does so before it looks at RISCI, so
        # it sees the same either way; with VSYNC apart each field would cost a second interrupt.
        self._holding = False
        self._in_field = False  # between a field's beginning and its end
        self._field = 1  # so that the first to begin is odd
        self.last_moved: tuple[int, Moved] | None = None  # number and parts of the last frame
        self.engine.may_interrupt = self._may_interrupt
        self.clock = Clock(
            scheduler, self._begin, self._end, self._period, lambda: self.engine.running, clock,
            held=lambda: self.engine.held and self._may_interrupt(), resume=self._resume,
        )  # fmt: skip

    # What the PCI function sees.

    def bar_read(self, offset: int, size: int) -> int:
        """A read of BAR0. :raise vcapdev.regs.AccessError: not 1, 2 or 4 aligned bytes of it."""
        value = self.registers.read(offset, size)
        if offset & ~3 == IntStat.OFFSET:
            if self._pending():
                self._handling(True)
            else:
                self.clock.handler_done()  # the last access of bttv's interrupt handler
        return value

    def bar_write(self, offset: int, size: int, value: int) -> None:
        """A write to BAR0. :raise vcapdev.regs.AccessError: not 1, 2 or 4 aligned bytes of it."""
        self.registers.write(offset, size, value)
        if offset & ~3 in _TURNS:
            self.bus.checkpoint(Checkpoint.REGISTER_WRITE)

    def reset(self) -> None:
        """As after power-on, but time goes on: frames are not counted from 1 again."""
        self.engine.reset()
        self.fifo.flush()
        self.registers.reset()
        for part in (self.decoder, self.i2c, self.gpio):
            part.reset()
        self._switches = 0
        self._was_running = False
        self.last_moved = None
        self._show_interrupt()
        self.clock.handler_done()
        self.bus.checkpoint(Checkpoint.RESET)

    # What others may ask.

    @property
    def dma_running(self) -> bool:
        """Whether the engine may read and write memory now."""
        return self.engine.running and self.bus.enabled()

    @property
    def stats(self) -> Stats:
        """Counters, as they are now."""
        self._stats.runaways = self.engine.runaways
        self._stats.handshake_timeouts = self.clock.timeouts
        self._stats.late_fields = self.clock.late
        return self._stats

    def describe(self, origin: int) -> Origin:
        """Explain an origin, while its batch is being moved (:class:`vcapdev.dma.Describe`)."""
        return self.engine.describe(origin, self.frame, "even" if self._field else "odd")

    def last_frame(self) -> SentFrame | None:
        """The last frame of which anything was moved, once its second field has ended."""
        return None if self.last_moved is None else sent_frame(*self.last_moved)

    def inject_parity_error(self) -> None:
        """The engine's next fetch fails: RIPERR, and RISC_ENABLE is reset."""
        self.engine.fetch_error = IntStat.RIPERR.mask | IntStat.PPERR.mask

    # Interrupts.

    def latch(self, bits: int) -> None:
        """Set bits of INT_STAT, whatever the mask is, and look at the interrupt line again."""
        self._stat.value |= bits
        if bits & self._mask.value & _FIELD_CAUSES:
            self.clock.expect_handler()
        if bits & _STOPPING:
            self._control.value &= ~_RISC
            self._switches &= ~_RISC
            self._stats.aborted_fields += bool(bits & IntStat.PABORT.mask)
        if not self._holding:
            self._show_interrupt()

    def _may_interrupt(self) -> bool:
        """Whether an instruction's interrupt would be seen.

        RISCS is not latched: while an earlier one waits for the guest's handler, another would hide its
        flags. On the real chip a field's time lies between bttv's two, here its lines take no time. At the
        field's end nothing waits any longer, as on the chip: who never handles interrupts loses flags.
        """
        return not (self._in_field and self._stat.value & self._mask.value & IntStat.RISCI.mask)

    def _pending(self) -> int:
        return self._stat.value & self._mask.value & IntStat.LATCHED

    def _show_interrupt(self) -> None:
        level = bool(self._pending())
        if level != self._level:
            self._level = level
            self._stats.interrupts += level
            self.drive(level)

    @property
    def interrupting(self) -> bool:
        """Whether an unmasked cause is pending, and the line is up for it."""
        return self._level

    def forget_interrupt(self) -> None:
        """For faults: the line has not risen after all; the next cause raises it."""
        self._level = False

    def look_at_interrupts(self) -> None:
        """For faults: raise the line now if a cause is pending."""
        self._show_interrupt()

    def read_INT_STAT(self) -> int:
        """Latched bits, and the engine's flags."""
        value = IntStat.RISCS.put(self._stat.value, self.engine.riscs)
        return IntStat.RISC_EN.put(value, self.engine.running)

    def write_INT_STAT(self, value: int) -> None:
        """Bits were cleared; a GPIO level that is still active is set again."""
        self.gpio.refresh()
        self._show_interrupt()
        if self._level:
            self._handling(False)

    def write_INT_MASK(self, value: int) -> None:
        """What is masked now will not be handled."""
        self._show_interrupt()
        if not self._stat.value & value & _FIELD_CAUSES and not self._pending():
            self.clock.handler_done()

    # DMA.

    def read_RISC_COUNT(self) -> int:
        """Address of the instruction that is executed or waits."""
        return self.engine.pc

    def write_GPIO_DMA_CTL(self, value: int) -> None:
        """FIFO_ENABLE and RISC_ENABLE act when they change."""
        changed, self._switches = (value ^ self._switches) & (_RISC | _FIFO), value & (_RISC | _FIFO)
        cut_short = self.engine.running and self.fifo.head() is not None
        self.gpio.refresh()
        if changed & _FIFO and not value & _FIFO:
            self.fifo.flush()
            self.engine.flushed()
        if not changed & _RISC:
            return
        if value & _RISC:
            self.engine.start(self.registers.get("RISC_STRT_ADD"))
            self._watch_dma()
            self.engine.run()
            self.clock.kick()
        else:
            if cut_short:
                self._stats.stopped_fields += 1
                self.engine.moved = []
            self.engine.stop()
        self._watch_dma()

    def _watch_dma(self) -> None:
        if self.engine.running != self._was_running:
            self._was_running = self.engine.running
            self.bus.checkpoint(Checkpoint.DMA_START if self._was_running else Checkpoint.DMA_STOP)

    # Fields.

    def _period(self) -> float:
        return self.decoder.norm.field_seconds

    def _begin(self) -> None:
        """A field begins: FIELD, VSYNC, and at once all its lines."""
        self._field ^= 1
        if not self._field:
            self.frame += 1
            self.engine.moved = []
        self._holding = self._in_field = True
        try:
            self.decoder.start_field(bool(self._field))
            if self._control.value & _FIFO:
                setup = self.decoder.setup(bool(self._field))
                blocks = field_blocks(setup, self.decoder.norm, self.frame, self._field)
                self.fifo.load(blocks if self.spoil is None else self.spoil(blocks))
            self.engine.run()
        finally:
            self._holding = False
            self._watch_dma()
            self._show_interrupt()

    def _resume(self) -> None:
        """The interrupt that another one was held back for has been handled."""
        self.engine.run()
        self._watch_dma()

    def _end(self) -> None:
        """A field's time is over: VRO or VRE."""
        self._in_field = False
        if self._control.value & _FIFO:
            lost = self.fifo.end(Status.VRE if self._field else Status.VRO)
            if lost and self.engine.running:
                self._stats.lost_fields += 1
                self.latch(IntStat.FBUS.mask)
            self.engine.run()
            self._watch_dma()
        self._stats.fields += 1
        if self._field and self.engine.moved:
            self._stats.frames += 1
            self.last_moved = self.frame, self.engine.moved
        self.bus.checkpoint(Checkpoint.FIELD)
