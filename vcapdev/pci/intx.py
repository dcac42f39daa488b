# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt line of a PCI function: a level, gated by configuration space.

::

    chip: status & mask ----+---------------> status register, bit INTX
                            |
                            +--[ & ]--------> drive(level): INTA#
    command, power ------------'
"""

from __future__ import annotations

from collections.abc import Callable

from vcapdev.pci.config import ConfigSpace


class Intx:
    """Combines what the chip wants with what configuration space allows; tells ``drive`` about changes only.

    ``drive`` is the transport's ``set_level``; the first call comes with the first rise.
    """

    def __init__(self, config: ConfigSpace, drive: Callable[[bool], None]) -> None:
        self._config = config
        self._drive = drive
        self._wanted = False
        self._driven = False
        config.subscribe(self._update)

    @property
    def asserted(self) -> bool:
        """Whether the line is driven now."""
        return self._driven

    def set_level(self, level: bool) -> None:
        """The chip's side: whether an unmasked interrupt is pending."""
        if level != self._wanted:
            self._wanted = level
            self._update()

    def _update(self) -> None:
        self._config.set_intx_status(self._wanted)
        level = self._wanted and self._config.intx_enabled
        if level != self._driven:
            self._driven = level
            self._drive(level)
