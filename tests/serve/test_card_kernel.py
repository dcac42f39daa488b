# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects following the kernel: one that switched bus mastering off may not be the one that goes on."""

from __future__ import annotations

import struct

from vcapdev.dmacheck.checker import Checker
from vcapdev.serve.card import Card
from vcapdev.serve.options import ServeOptions
from vcapdev.vfiouser.reactor import Reactor

COMMAND, BUS_MASTER = 4, 1 << 2  # PCI Local Bus 3.0, section 6.2.2


class Heard(Checker):
    """Notes what it is told instead of looking for a kernel."""

    def listen(self) -> list[str]:
        self.told: list[str] = []
        return self.told

    def doubt(self) -> None:
        self.told.append("doubt")

    def attach(self, *, restored: bool = False) -> bool:
        self.told.append("attach to a restored one" if restored else "attach")
        return False


def test_a_kernel_is_doubted_while_bus_mastering_is_off_and_looked_for_once_it_is_on() -> None:
    reactor = Reactor()
    card = Card(ServeOptions(clock="step"), reactor, lambda verdict: None, lambda: None)
    card.checker.__class__ = Heard
    told = card.checker.listen()  # type: ignore[attr-defined]
    try:
        card._poll()
        assert told == ["doubt"]
        card.config.write(COMMAND, struct.pack("<H", BUS_MASTER))
        assert card.config.bus_master
        card._poll()
        assert told == ["doubt", "attach"]
    finally:
        card.close()


def test_the_kernel_of_a_restored_guest_is_trusted_until_it_has_found_the_card() -> None:
    now = [100.0]
    reactor = Reactor()
    card = Card(ServeOptions(clock="step"), reactor, lambda verdict: None, lambda: None)
    card.checker.__class__ = Heard
    told = card.checker.listen()  # type: ignore[attr-defined]
    reactor.now = lambda: now[0]  # type: ignore[method-assign]
    try:
        card.attach(restored=True)
        now[0] += 1
        card._poll()
        assert told == ["attach to a restored one"]
        now[0] += 10
        card._poll()
        assert told == ["attach to a restored one", "doubt"]
    finally:
        card.close()
