# SPDX-License-Identifier: GPL-2.0-or-later
"""The GPIO port: 24 pins, each driven by the chip or by the board.

Source: Fusion 878A data sheet (100600B), page 3-11. A pin that is driven reads back the latch, one that is
not reads the board's level; writes to a bit that is not driven are lost. Pin 8 can interrupt (GPINT).
"""

from __future__ import annotations

from collections.abc import Callable

from vcapdev.bt878.registers import GpioDmaCtl, IntStat
from vcapdev.regs import RegisterFile

PINS = 0xFF_FFFF
INTERRUPT_PIN = 8


class Gpio:
    """Hooks ``read_GPIO_DATA`` and ``write_GPIO_DATA``, bound at construction.

    :param board_levels: what the board puts on pins that the chip does not drive, 24 bits.
    :param latch: the chip's way to latch INT_STAT bits and to look at its interrupt line again.
    """

    def __init__(self, registers: RegisterFile, board_levels: int, latch: Callable[[int], None]) -> None:
        self._enable = registers.cell("GPIO_OUT_EN")
        self._data = registers.cell("GPIO_DATA")
        self._control = registers.cell("GPIO_DMA_CTL")
        self._latch = latch
        self._power_on = self._board = board_levels & PINS
        self._outputs = 0
        registers.bind(self)
        self._level = self._interrupt_level()

    @property
    def pins(self) -> int:
        """The levels on all pins."""
        enable = self._enable.value
        return (self._outputs & enable) | (self._board & ~enable)

    def reset(self) -> None:
        """All pins are inputs again, and the board's levels those of power-on."""
        self._outputs = 0
        self._board = self._power_on
        self._level = self._interrupt_level()

    def drive(self, mask: int, levels: int) -> None:
        """The board changes the levels of the pins in ``mask``; GPINT follows."""
        self._board = (self._board & ~mask) | (levels & mask & PINS)
        self.refresh()

    def refresh(self) -> None:
        """Look at the interrupt pin: an edge to active, or (GPINTC=0) an active level, latches GPINT.

        With GPINTC=0 whoever clears GPINT while the pin is active calls this to have it set again.
        """
        before, self._level = self._level, self._interrupt_level()
        control = self._control.value
        active = self._level != bool(control & GpioDmaCtl.GPINTI.mask)
        if active and not (control & GpioDmaCtl.GPINTC.mask and before == self._level):
            self._latch(IntStat.GPINT.mask)

    def _interrupt_level(self) -> bool:
        return bool(self.pins >> INTERRUPT_PIN & 1)

    def read_GPIO_DATA(self) -> int:
        """The pins."""
        return self.pins

    def write_GPIO_DATA(self, value: int) -> None:
        """Set the latch of the pins that are driven; the others keep theirs."""
        enable = self._enable.value
        self._outputs = (self._outputs & ~enable) | (value & enable)
        self._data.value = self._outputs
