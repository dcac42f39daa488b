# SPDX-License-Identifier: GPL-2.0-or-later
"""DEVICE_GET_INFO: a PCI device with nine regions and five interrupt indexes that can be reset."""

from __future__ import annotations

import errno

import pytest

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command

GOOD = wire.DEVICE_INFO.pack(16, 0, 0, 0)


def test_reply(served):
    assert wire.DEVICE_INFO.unpack(served.client.call(Command.DEVICE_GET_INFO, GOOD)) == (16, 3, 9, 5)


@pytest.mark.parametrize("argsz", [16, 32])
def test_room_for_more_is_harmless(served, argsz):
    answer = served.client.call(Command.DEVICE_GET_INFO, wire.DEVICE_INFO.pack(argsz, 0, 0, 0))
    assert wire.DEVICE_INFO.unpack(answer)[0] == 16


@pytest.mark.parametrize(
    "payload",
    [b"", GOOD[:-1], GOOD + b"\0", wire.DEVICE_INFO.pack(15, 0, 0, 0), wire.DEVICE_INFO.pack(16, 1, 0, 0)],
    ids=["empty", "short", "long", "argsz", "flags"],
)
def test_refusals(served, payload):
    served.client.call(Command.DEVICE_GET_INFO, payload, expect=errno.EINVAL)


def test_with_descriptor(served, ram):
    served.client.call(Command.DEVICE_GET_INFO, GOOD, fds=[ram], expect=errno.EINVAL)
