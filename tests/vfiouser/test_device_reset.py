# SPDX-License-Identifier: GPL-2.0-or-later
"""DEVICE_RESET: reaches the device, leaves maps and interrupts alone, takes no payload."""

from __future__ import annotations

import errno
import os

from vcapdev.vfiouser.wire import Command


def test_reset(served, ram, new_fd):
    served.client.dma_map(0, 1 << 20, ram)
    trigger = new_fd(os.eventfd(0, os.EFD_NONBLOCK))
    served.client.install_intx(trigger)
    assert served.client.call(Command.DEVICE_RESET) == b""
    assert served.device.resets == 1
    assert len(served.server.memory.segments) == 1
    served.server.interrupts.set_level(True)
    assert os.eventfd_read(trigger) == 1


def test_long(served):
    served.client.call(Command.DEVICE_RESET, b"\0", expect=errno.EINVAL)
    assert not served.device.resets


def test_wrong_flags(served):
    served.client.call(Command.DEVICE_RESET, flags=0x20, expect=errno.EINVAL)
    served.client.call(Command.DEVICE_RESET, flags=0x40, expect=errno.EINVAL)
    served.client.call(Command.DEVICE_RESET, flags=0x2, expect=errno.EINVAL)
    assert not served.device.resets


def test_with_descriptor(served, ram):
    served.client.call(Command.DEVICE_RESET, fds=[ram], expect=errno.EINVAL)
    assert not served.device.resets
