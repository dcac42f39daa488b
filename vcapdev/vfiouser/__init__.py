# SPDX-License-Identifier: GPL-2.0-or-later
"""A vfio-user server: the protocol by which QEMU 10.1 and later uses a PCI device in another process.

A package of its own, which knows nothing of any card. A device is anything that satisfies
:class:`~vcapdev.vfiouser.device.Device`; a :class:`~vcapdev.vfiouser.server.Server` serves it to one client
at a time from a :class:`~vcapdev.vfiouser.reactor.Reactor`. Source of the formats: the "vfio-user Protocol
Specification" of QEMU's documentation (docs/interop/vfio-user.rst) and, where it is silent,
``include/uapi/linux/vfio.h``.
"""

from __future__ import annotations

from vcapdev.vfiouser.device import Device, Irq, Region
from vcapdev.vfiouser.dmamap import DmaMap, Segment
from vcapdev.vfiouser.interrupts import IntxTrigger
from vcapdev.vfiouser.limits import Limits
from vcapdev.vfiouser.reactor import Reactor, Timer
from vcapdev.vfiouser.server import Server
from vcapdev.vfiouser.sockets import adopt_socket, is_listening, listening_socket

__all__ = [
    "Device",
    "DmaMap",
    "IntxTrigger",
    "Irq",
    "Limits",
    "Reactor",
    "Region",
    "Segment",
    "Server",
    "Timer",
    "adopt_socket",
    "is_listening",
    "listening_socket",
]
