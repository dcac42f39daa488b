# SPDX-License-Identifier: GPL-2.0-or-later
"""DEVICE_GET_IRQ_INFO: count and flags of each interrupt index."""

from __future__ import annotations

import errno

import pytest

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command


def request(index, argsz=16, flags=0):
    return wire.IRQ_INFO.pack(argsz, flags, index, 0)


@pytest.mark.parametrize(("index", "flags", "count"), [(0, 7, 1), (1, 0, 0), (2, 0, 0), (3, 9, 1), (4, 9, 3)])
def test_reply(served, index, flags, count):
    answer = served.client.call(Command.DEVICE_GET_IRQ_INFO, request(index))
    assert wire.IRQ_INFO.unpack(answer) == (16, flags, index, count)


@pytest.mark.parametrize(
    "payload",
    [b"", request(0)[:-1], request(0) + b"\0", request(5), request(0, 15), request(0, 16, 1)],
    ids=["empty", "short", "long", "index", "argsz", "flags"],
)
def test_refusals(served, payload):
    served.client.call(Command.DEVICE_GET_IRQ_INFO, payload, expect=errno.EINVAL)


def test_with_descriptor(served, ram):
    served.client.call(Command.DEVICE_GET_IRQ_INFO, request(0), fds=[ram], expect=errno.EINVAL)
