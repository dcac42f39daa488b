# SPDX-License-Identifier: GPL-2.0-or-later
"""DEVICE_GET_REGION_IO_FDS: understood and refused, since every access must reach the device as a message."""

from __future__ import annotations

import errno

import pytest

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command

GOOD = wire.REGION_IO_FDS.pack(16, 0, 0, 0)


def test_not_supported(served):
    served.client.call(Command.DEVICE_GET_REGION_IO_FDS, GOOD, expect=errno.ENOTSUP)


@pytest.mark.parametrize(
    "payload",
    [GOOD[:-1], GOOD + b"\0", wire.REGION_IO_FDS.pack(15, 0, 0, 0), wire.REGION_IO_FDS.pack(16, 1, 0, 0),
     wire.REGION_IO_FDS.pack(16, 0, 9, 0)],
    ids=["short", "long", "argsz", "flags", "index"],
)  # fmt: skip
def test_refusals(served, payload):
    served.client.call(Command.DEVICE_GET_REGION_IO_FDS, payload, expect=errno.EINVAL)
