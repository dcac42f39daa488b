# SPDX-License-Identifier: GPL-2.0-or-later
"""REGION_WRITE_MULTI: what QEMU makes of posted writes when its queue is long. All or nothing, in order."""

from __future__ import annotations

import errno

import pytest
from served import READ_ONLY_BAR

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command


def multi(*writes, number=None):
    records = b"".join(
        wire.WRITE_MULTI_ONE.pack(offset, region, count, data) for offset, region, count, data in writes
    )
    return wire.WRITE_MULTI.pack(len(writes) if number is None else number) + records


GOOD = (0x10, 0, 4, b"abcd"), (0x20, 0, 1, b"x"), (0x10, 0, 2, b"zz")


def test_in_order(served):
    answer = served.client.call(Command.REGION_WRITE_MULTI, multi(*GOOD))
    assert answer == wire.WRITE_MULTI.pack(3)
    assert served.device.writes == [(0, 0x10, b"abcd"), (0, 0x20, b"x"), (0, 0x10, b"zz")]


def test_as_qemu_sends_it(served):
    writes = [(4 * i, 0, 4, i.to_bytes(4, "little")) for i in range(wire.WRITE_MULTI_MAX)]
    served.client.send(Command.REGION_WRITE_MULTI, multi(*writes), flags=wire.FLAG_NO_REPLY)
    assert served.client.silent()
    assert len(served.device.writes) == 200


def test_none_at_all(served):
    assert served.client.call(Command.REGION_WRITE_MULTI, multi()) == wire.WRITE_MULTI.pack(0)


@pytest.mark.parametrize(
    ("payload", "expect"),
    [(b"", errno.EINVAL), (multi(*GOOD)[:-1], errno.EINVAL), (multi(*GOOD) + b"\0", errno.EINVAL),
     (multi(*GOOD, number=2), errno.EINVAL), (multi(*GOOD, number=4), errno.EINVAL),
     (multi(*GOOD, number=201), errno.E2BIG), (multi(number=(1 << 64) - 1), errno.E2BIG),
     (multi(GOOD[0], (0, 0, 9, b"")), errno.EINVAL), (multi(GOOD[0], (0, 0, 0, b"")), errno.EINVAL),
     (multi(GOOD[0], (4093, 0, 4, b"")), errno.EINVAL), (multi(GOOD[0], (0, 9, 4, b"")), errno.EINVAL),
     (multi(GOOD[0], (0, READ_ONLY_BAR, 4, b"")), errno.EACCES)],
)  # fmt: skip
def test_refused_as_a_whole(served, payload, expect):
    served.client.call(Command.REGION_WRITE_MULTI, payload, expect=expect)
    assert not served.device.writes


def test_with_descriptor(served, ram):
    served.client.call(Command.REGION_WRITE_MULTI, multi(*GOOD), fds=[ram], expect=errno.EINVAL)
