# SPDX-License-Identifier: GPL-2.0-or-later
"""A second card for a guest: a device process of its own, with a checker of its own, in a slot of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vcapdev.errors import UsageError
from vcapdev.run.device import DeviceProcess
from vcapdev.serve.options import ServeOptions
from vcapdev.testing.card import Card
from vcapdev.vm.commandline import card_device

if TYPE_CHECKING:
    from vcapdev.run.pair import WatchedVm
    from vcapdev.testing.guest import Guest

SLOT = "anotherslot"
#: Words for QEMU: ``@vcapdev.guest(qemu_opts=ANOTHER_SLOT)``.
ANOTHER_SLOT = ("-device", f"pcie-root-port,id={SLOT},chassis=2")
_PLUG = 10.0  # seconds for QEMU to take the card
_PROBE = 60.0  # seconds for the driver to find it; below 1 on an idle machine
_ATTACH = 30.0


class AnotherCard:
    """The second card of a guest.

    :ivar card: as ``guest.card`` is the first.
    """

    def __init__(self, guest: Guest, work: Path, board: str | None, norm: str) -> None:
        self._guest = guest
        self._socket = work / "card2"
        options = ServeOptions(
            socket_path=self._socket, control=work / "control2", board=board, norm=norm, with_parent=True
        )
        self._device = DeviceProcess(options, work / "device2.log")
        self.card = Card(lambda: self._device, guest.turn)

    def plug(self) -> None:
        """Start the device and put the card in; until its driver has it and its checker knows the kernel.

        :raise UsageError: the guest has no second slot.
        :raise GuestError: QEMU refuses, or the driver does not find it.
        """
        if SLOT not in " ".join(self._guest.config.qemu_opts):
            raise UsageError("a second card needs a second slot: ask for qemu_opts=ANOTHER_SLOT")
        self._device.start()
        device = card_device(self._socket) | {"id": "card2", "bus": SLOT}
        before = len(self._nodes())
        self._vm.qmp.execute("device_add", device, timeout=_PLUG)
        self._device.call("attach", timeout=_ATTACH)
        self._guest.wait(lambda: len(self._nodes()) > before, _PROBE, "the driver to find the second card")

    def close(self) -> None:
        """End the device process; the guest has gone by then."""
        self._device.stop()

    @property
    def _vm(self) -> WatchedVm:
        return self._guest._vm

    def _nodes(self) -> list[str]:
        return [name for name in self._guest.run("ls /dev").lines if name.startswith("vbi")]
