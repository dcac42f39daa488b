# SPDX-License-Identifier: GPL-2.0-or-later
"""A PCI function as a vfio-user device: regions, interrupts, reset (``vcapdev.vfiouser.device.Device``).

The function has one BAR. Wiring::

    config = ConfigSpace(identity)
    intx = Intx(config, server.interrupts.set_level)
    chip = Bt878(BusMaster(memory, lambda: config.bus_master, ...), intx.set_level, ...)
    function = PciFunction(config, chip.bar_read, chip.bar_write, chip.reset)
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence

from vcapdev.pci.capabilities import PowerManagement
from vcapdev.pci.config import SIZE, ConfigSpace
from vcapdev.vfiouser.device import BAR0, CONFIG, NUM_IRQS, NUM_REGIONS, Irq, Region
from vcapdev.vfiouser.wire import IRQ_INFO_AUTOMASKED, IRQ_INFO_EVENTFD, IRQ_INFO_MASKABLE

_INTX_FLAGS = IRQ_INFO_EVENTFD | IRQ_INFO_MASKABLE | IRQ_INFO_AUTOMASKED


class PciFunction:
    """Serves configuration space and BAR0 of one function.

    :param bar_read: ``(offset, size) -> value`` for 1, 2 or 4 aligned bytes; any other access is split.
    :param bar_write: ``(offset, size, value)``, likewise.
    :param reset: the chip's reset, called after that of configuration space.
    """

    def __init__(
        self,
        config: ConfigSpace,
        bar_read: Callable[[int, int], int],
        bar_write: Callable[[int, int, int], None],
        reset: Callable[[], None],
    ) -> None:
        self.config = config
        self._bar_read, self._bar_write, self._reset = bar_read, bar_write, reset
        self._bar_size = config.identity.bar0_size
        sizes = {BAR0: self._bar_size, CONFIG: SIZE}
        self.regions: Sequence[Region] = tuple(
            Region(sizes.get(index, 0), index in sizes, index in sizes) for index in range(NUM_REGIONS)
        )
        pin = 1 if config.identity.interrupt_pin else 0
        self.irqs: Sequence[Irq] = (Irq(pin, _INTX_FLAGS * pin), *[Irq(0, 0)] * (NUM_IRQS - 1))
        for capability in config.identity.capabilities:
            if isinstance(capability, PowerManagement):
                capability.on_reset = self.reset

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Bytes of a region. While memory is disabled or the function sleeps, BAR0 reads all ones.

        :raise OSError: EINVAL when the region or the range does not exist.
        """
        if region == BAR0:
            self._check(offset, count, self._bar_size)
            if not self.config.memory_enabled:
                return b"\xff" * count
            if count == 4 and not offset & 3:
                return self._bar_read(offset, 4).to_bytes(4, "little")
            return b"".join(
                self._bar_read(at, size).to_bytes(size, "little") for at, size in _aligned(offset, count)
            )
        self._check(offset, count, SIZE if region == CONFIG else 0)
        return self.config.read(offset, count)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """Write bytes of a region. While memory is disabled or the function sleeps, BAR0 ignores them.

        :raise OSError: EINVAL when the region or the range does not exist.
        """
        if region == BAR0:
            self._check(offset, len(data), self._bar_size)
            if not self.config.memory_enabled:
                return
            if len(data) == 4 and not offset & 3:
                self._bar_write(offset, 4, int.from_bytes(data, "little"))
                return
            for at, size in _aligned(offset, len(data)):
                value = int.from_bytes(data[at - offset : at - offset + size], "little")
                self._bar_write(at, size, value)
            return
        self._check(offset, len(data), SIZE if region == CONFIG else 0)
        self.config.write(offset, data)

    def reset(self) -> None:
        """Reset of the function: configuration space first, so that the chip's DMA is off, then the chip."""
        self.config.reset()
        self._reset()

    @staticmethod
    def _check(offset: int, count: int, size: int) -> None:
        if count <= 0 or offset < 0 or offset + count > size:
            raise OSError(errno.EINVAL, f"no {count} bytes at {offset:#x} of a region of {size} bytes")


def _aligned(offset: int, count: int) -> Iterator[tuple[int, int]]:
    """Cut a range into naturally aligned pieces of 4, 2 or 1 bytes: (offset, size)."""
    end = offset + count
    while offset < end:
        size = next(size for size in (4, 2, 1) if not offset & (size - 1) and offset + size <= end)
        yield offset, size
        offset += size
