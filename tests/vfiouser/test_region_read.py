# SPDX-License-Identifier: GPL-2.0-or-later
"""REGION_READ: exactly the bytes asked for, within readable regions only; on both paths."""

from __future__ import annotations

import errno

import pytest
from served import CONFIG, READ_ONLY_BAR, REFUSED_OFFSET

from vcapdev.vfiouser import Limits, wire
from vcapdev.vfiouser.wire import Command


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 64])
def test_read(served, count):
    served.device.memory[0][0x40 : 0x40 + count] = bytes(range(1, count + 1))
    assert served.client.read(0, 0x40, count) == bytes(range(1, count + 1))


def test_whole_config_space_at_once(served):
    served.device.memory[CONFIG][:] = bytes(range(256))
    assert served.client.read(CONFIG, 0, 256) == bytes(range(256))


def test_to_the_last_byte(served):
    assert served.client.read(0, 4092, 4) == bytes(4)
    assert served.client.read(READ_ONLY_BAR, 0, 16) == bytes(16)


@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [(0, 0, 0), (0, 4093, 4), (0, 4096, 1), (0, 1 << 63, 4), (0, (1 << 64) - 4, 4), (0, 0, 0xFFFFFFFF),
     (1, 0, 4), (8, 0, 1), (9, 0, 4), (0xFFFFFFFF, 0, 4)],
)  # fmt: skip
def test_out_of_range(served, region, offset, count):
    served.client.read(region, offset, count, expect=errno.EINVAL)


def test_general_path_refuses_alike(served):
    """A read that comes in two pieces misses the fast path; both must agree."""
    for offset, expect in [(0x40, 0), (4093, errno.EINVAL), (REFUSED_OFFSET, errno.ENXIO)]:
        message = wire.REGION_MESSAGE.pack(77, Command.REGION_READ, 32, 0, 0, offset, 0, 4)
        served.client.send_bytes(message[:20])
        assert served.client.silent()
        served.client.send_bytes(message[20:])
        reply = served.client.receive()
        assert (reply.ident, reply.errno) == (77, expect)
        assert expect or reply.payload == message[16:] + bytes(4)


def test_limit(serve):
    served = serve(Limits(max_transfer=8))
    served.client.version()
    assert served.client.read(0, 0, 8) == bytes(8)
    served.client.read(0, 0, 9, expect=errno.EINVAL)


def test_the_device_refuses(served):
    served.client.read(0, REFUSED_OFFSET, 4, expect=errno.ENXIO)


@pytest.mark.parametrize("size", [0, 15, 17, 20])
def test_short_and_long(served, size):
    request = (wire.REGION_ACCESS.pack(0, 0, 4) + bytes(8))[:size]
    served.client.call(Command.REGION_READ, request, expect=errno.EINVAL)


def test_wrong_flags(served):
    request = wire.REGION_ACCESS.pack(0, 0, 4)
    for flags in (0x20, 0x2, 0x40, 0x80000000):
        served.client.call(Command.REGION_READ, request, flags=flags, expect=errno.EINVAL)


def test_no_reply_wanted(served):
    served.client.send(Command.REGION_READ, wire.REGION_ACCESS.pack(0, 0, 4), flags=wire.FLAG_NO_REPLY)
    assert served.client.silent()


def test_with_descriptor(served, ram):
    request = wire.REGION_ACCESS.pack(0, 0, 4)
    served.client.call(Command.REGION_READ, request, fds=[ram], expect=errno.EINVAL)


@pytest.mark.parametrize("count", [4, 64])
def test_a_device_that_answers_the_wrong_length_is_a_defect(fresh, count):
    fresh.server._device_read = lambda region, offset, count: b"\0"
    fresh.client.version()
    fresh.client.send(Command.REGION_READ, wire.REGION_ACCESS.pack(0, 0, count))
    with pytest.raises(RuntimeError, match=f"answered 1 bytes to a read of {count}"):
        fresh.pump()
