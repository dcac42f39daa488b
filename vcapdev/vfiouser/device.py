# SPDX-License-Identifier: GPL-2.0-or-later
"""What a server serves: a PCI device seen as regions, interrupts and a reset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

# Region indexes of a PCI device (linux/vfio.h, VFIO_PCI_*_REGION_INDEX).
BAR0, BAR1, BAR2, BAR3, BAR4, BAR5, ROM, CONFIG, VGA = range(9)
NUM_REGIONS = 9

# Interrupt indexes of a PCI device (linux/vfio.h, VFIO_PCI_*_IRQ_INDEX).
IRQ_INTX, IRQ_MSI, IRQ_MSIX, IRQ_ERR, IRQ_REQ = range(5)
NUM_IRQS = 5


class Region(NamedTuple):
    """One region; size 0 when the device lacks it."""

    size: int  # bytes
    readable: bool
    writable: bool


@dataclass(frozen=True, slots=True)
class Irq:
    """One kind of interrupt; count 0 when the device lacks it."""

    count: int
    flags: int  # wire.IRQ_INFO_* bits


class Device(Protocol):
    """A PCI device, called from the reactor's thread only."""

    @property
    def regions(self) -> Sequence[Region]:
        """The nine regions in vfio's order; they never change in the life of a server."""

    @property
    def irqs(self) -> Sequence[Irq]:
        """The five interrupt indexes in vfio's order; they never change either."""

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes; the range was checked to lie within the region.

        :raise OSError: with the errno that the client shall see.
        """

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """Write ``data``; the range was checked to lie within the region.

        :raise OSError: with the errno that the client shall see (posted writes drop it).
        """

    def reset(self) -> None:
        """Return to the state after power-on; must not fail."""
