# SPDX-License-Identifier: GPL-2.0-or-later
"""A server and its client in one thread, joined by a socketpair, and the device that is served."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from client import Client

from vcapdev.vfiouser import Irq, Limits, Reactor, Region, Server, wire
from vcapdev.vfiouser.device import BAR0, CONFIG

__all__ = ["CONFIG", "READ_ONLY_BAR", "REFUSED_OFFSET", "RecordingDevice", "Served", "resources", "serve_one"]

BAR_SIZE = 4096
CONFIG_SIZE = 256
READ_ONLY_BAR = 2
REFUSED_OFFSET = 0xF00  # of BAR 0: the device itself refuses here
ABSENT = Region(0, False, False)


class RecordingDevice:
    """Registers that keep what is written, and a record of all that was asked."""

    def __init__(self) -> None:
        bar, config = Region(BAR_SIZE, True, True), Region(CONFIG_SIZE, True, True)
        self.regions = [bar, ABSENT, Region(16, True, False), *[ABSENT] * 4, config, ABSENT]
        intx = wire.IRQ_INFO_EVENTFD | wire.IRQ_INFO_MASKABLE | wire.IRQ_INFO_AUTOMASKED
        edge = wire.IRQ_INFO_EVENTFD | wire.IRQ_INFO_NORESIZE
        self.irqs = [Irq(1, intx), Irq(0, 0), Irq(0, 0), Irq(1, edge), Irq(3, edge)]
        self.memory = {index: bytearray(region.size) for index, region in enumerate(self.regions)}
        self.writes: list[tuple[int, int, bytes]] = []
        self.resets = 0
        self.on_write: Callable[[], None] = lambda: None

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        if region == BAR0 and offset == REFUSED_OFFSET:
            raise OSError(errno.ENXIO, "nothing here")
        return bytes(self.memory[region][offset : offset + count])

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if region == BAR0 and offset == REFUSED_OFFSET:
            raise OSError(errno.ENXIO, "nothing here")
        self.memory[region][offset : offset + len(data)] = data
        self.writes.append((region, offset, data))
        self.on_write()

    def reset(self) -> None:
        self.resets += 1


@dataclass
class Served:
    """A server, what it serves, and a client that has agreed on the version."""

    server: Server
    reactor: Reactor
    device: RecordingDevice
    client: Client
    log: list[str]
    disconnects: list[None] = field(default_factory=list)

    def pump(self) -> None:
        """Let the server handle everything that has been sent."""
        self.server.drain()
        self.reactor.run_once()
        self.server.drain()  # of a client that was just accepted

    def reconnect(self) -> Client:
        """Another client after the first has gone; it has not agreed on the version yet."""
        ours, theirs = socket.socketpair()
        self.server.serve_connected(theirs)
        self.client = Client(ours, self.pump)
        return self.client


def serve_one(limits: Limits | None) -> Served:
    reactor, device, log = Reactor(), RecordingDevice(), []
    server = Server(device, reactor, limits=limits, log=log.append)
    ours, theirs = socket.socketpair()
    server.serve_connected(theirs)
    served = Served(server, reactor, device, Client(ours), log)
    served.client.pump = served.pump
    server.on_disconnect = lambda: served.disconnects.append(None)
    return served


def resources() -> tuple[int, int]:
    """How many descriptors are open, and how many mappings of memfds there are."""
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")), sum("memfd:" in line for line in maps)
