# SPDX-License-Identifier: GPL-2.0-or-later
"""DEVICE_GET_REGION_INFO: size and access of each region; none can be mapped."""

from __future__ import annotations

import errno

import pytest

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command


def request(index, argsz=32, flags=0):
    return wire.REGION_INFO.pack(argsz, flags, index, 0, 0, 0)


@pytest.mark.parametrize(
    ("index", "flags", "size"), [(0, 3, 4096), (1, 0, 0), (2, 1, 16), (6, 0, 0), (7, 3, 256), (8, 0, 0)]
)
def test_reply(served, index, flags, size):
    answer = served.client.call(Command.DEVICE_GET_REGION_INFO, request(index))
    assert wire.REGION_INFO.unpack(answer) == (32, flags, index, 0, size, 0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        request(0)[:-1],
        request(0) + b"\0",
        request(9),
        request(0xFFFFFFFF),
        request(0, 31),
        request(0, 32, 4),
    ],
    ids=["empty", "short", "long", "index", "huge index", "argsz", "flags"],
)
def test_refusals(served, payload):
    served.client.call(Command.DEVICE_GET_REGION_INFO, payload, expect=errno.EINVAL)


def test_with_descriptor(served, ram):
    served.client.call(Command.DEVICE_GET_REGION_INFO, request(0), fds=[ram], expect=errno.EINVAL)
