# SPDX-License-Identifier: GPL-2.0-or-later
"""The card's place on the guest's PCI bus: which driver has it, and whether it is plugged in at all."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from vcapdev.errors import GuestError, UsageError
from vcapdev.vm.commandline import has_slot
from vcapdev.vm.machine import CARD

if TYPE_CHECKING:
    from vcapdev.testing.guest import Guest
    from vcapdev.vm.machine import Vm

_BIND = 60.0  # seconds for a driver's probe or remove; below 1 on an idle machine
_GONE = 60.0  # seconds for the guest to let go of a card
_PLUG = 10.0
#: Prints the directories of all cards: function 0 of a Bt878 (or its brothers), by vendor and device id.
_FIND = (
    "for d in /sys/bus/pci/devices/*; do"
    " [ $(cat $d/vendor) = 0x109e ] && [ $(cat $d/class) = 0x040000 ] && echo ${d##*/}; done; true"
)


class BusError(GuestError):
    """The guest refuses to bind or unbind, or there is no card."""


class Bus:
    """A guest has it as ``guest.bus``."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def cards(self) -> list[str]:
        """PCI addresses of the cards that the guest sees, such as ``0000:01:00.0``."""
        return self._guest.run(_FIND, check=True).lines

    def driver(self, card: str | None = None) -> str:
        """Name of the driver that has a card (the first by default), "" where none has it."""
        address = card or self._first()
        link = f"/sys/bus/pci/devices/{address}/driver"
        return self._guest.run(f"[ -e {link} ] && basename $(readlink {link}); true").stdout.strip()

    def unbind(self, driver: str = "bttv", card: str | None = None, *, timeout: float = _BIND) -> None:
        """Take a card from its driver, as ``echo ADDRESS > .../unbind`` does.

        :raise BusError: the kernel refuses.
        :raise GuestTimeoutError: the driver's remove() does not end.
        """
        self._write(driver, "unbind", card, timeout)

    def bind(self, driver: str = "bttv", card: str | None = None, *, timeout: float = _BIND) -> None:
        """Give a card to a driver. Raises as :meth:`unbind` does."""
        self._write(driver, "bind", card, timeout)

    def unplug(self, *, timeout: float = _GONE) -> None:
        """Ask for the card as the button beside a slot does, and wait until it has gone.

        :raise UsageError: the card is not in a slot.
        :raise GuestTimeoutError: the guest does not let go of it.
        """
        vm = self._in_slot()
        vm.qmp.execute("device_del", {"id": CARD}, timeout=_PLUG)
        self._guest.wait(lambda: not self._present(vm), timeout, "the guest to let go of its card")
        self._guest.card.there = False

    def plug(self, *, timeout: float = _GONE) -> None:
        """Put the card in again, and wait until the guest sees it.

        :raise GuestError: QEMU refuses, or the guest does not find it.
        """
        self._vm.plug_card()
        self._guest.card.there = True
        self._guest.wait(lambda: bool(self.cards()), timeout, "the guest to find its card")

    def replace_device(self, *, timeout: float = _GONE) -> None:
        """Kill the card's device process and plug the card of another one; until its driver has found it.

        The vCPUs stand while it is killed, so that no read is outstanding: a read of a dead card gives
        all-ones at once, one that waits for an answer would hold stock QEMU for as long as its time-out.

        :raise UsageError: the card is not in a slot.
        :raise GuestTimeoutError: the guest does not let go of the dead card, or the driver not find the new.
        """
        vm, device = self._in_slot(), self._guest.device
        vm.qmp.execute("stop", timeout=_PLUG)
        self._guest.card.dma.device_ends()  # its findings go with it
        if device.pid is not None:
            os.kill(device.pid, signal.SIGKILL)
        device.stop()
        for path in device.sockets:
            path.unlink(missing_ok=True)
        device.start()
        self._guest.card.dma.device_begins()
        vm.qmp.execute("cont", timeout=_PLUG)
        self.unplug(timeout=timeout)
        self.plug(timeout=timeout)
        self._guest.wait(self._guest.has_device_files, timeout, "the driver to find its card")

    def _present(self, vm: Vm) -> bool:
        """Whether QEMU still has the card: it lets go of it when the guest has."""
        there = vm.qmp.execute("qom-list", {"path": "/machine/peripheral"}, timeout=_PLUG)
        return any(entry.get("name") == CARD for entry in there)

    def _write(self, driver: str, what: str, card: str | None, timeout: float) -> None:
        address = card or self._first()
        path = f"/sys/bus/pci/drivers/{driver}/{what}"
        result = self._guest.run(f"echo -n {address} > {path}", timeout=timeout)
        if not result.ok:
            said = (result.stderr.strip().splitlines() or [f"status {result.status}"])[-1]
            raise BusError(f"{what} {address} ({driver}) in the guest: {said}")

    def _first(self) -> str:
        cards = self.cards()
        if not cards:
            raise BusError("there is no card on the guest's PCI bus")
        return cards[0]

    def _in_slot(self) -> Vm:
        if not has_slot(self._vm.config):
            raise UsageError("the card of this guest is not in a slot, it was booted with it (cold)")
        return self._vm

    @property
    def _vm(self) -> Vm:
        return self._guest._vm
