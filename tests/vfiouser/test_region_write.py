# SPDX-License-Identifier: GPL-2.0-or-later
"""REGION_WRITE: posted or answered, within writable regions only, in order with reads."""

from __future__ import annotations

import errno

import pytest
from served import CONFIG, READ_ONLY_BAR, REFUSED_OFFSET

from vcapdev.vfiouser import Limits, wire
from vcapdev.vfiouser.wire import Command


@pytest.mark.parametrize("count", [1, 2, 4, 8, 200])
def test_answered(served, count):
    data = bytes(range(count))
    served.client.write(CONFIG, 4, data)
    assert served.device.writes == [(CONFIG, 4, data)]


def test_posted_writes_are_done_before_a_later_read(served):
    for value in range(50):
        served.client.post(0, 0x100, bytes([value]))
    assert served.client.read(0, 0x100, 1) == b"\x31"
    assert len(served.device.writes) == 50


def test_posted_is_silent_even_when_refused(served):
    served.client.post(READ_ONLY_BAR, 0, b"\1")
    served.client.post(0, REFUSED_OFFSET, b"\1")
    assert served.client.silent()
    assert served.server.refusals == 2
    assert not served.device.writes


@pytest.mark.parametrize(
    ("region", "offset", "count", "expect"),
    [(0, 0, 0, errno.EINVAL), (0, 4093, 4, errno.EINVAL), (0, (1 << 64) - 4, 4, errno.EINVAL),
     (1, 0, 4, errno.EINVAL), (9, 0, 4, errno.EINVAL), (READ_ONLY_BAR, 0, 4, errno.EACCES),
     (0, REFUSED_OFFSET, 4, errno.ENXIO)],
)  # fmt: skip
def test_refused(served, region, offset, count, expect):
    served.client.write(region, offset, bytes(count), expect=expect)
    assert not served.device.writes


@pytest.mark.parametrize(("declared", "sent"), [(4, 3), (4, 5), (4, 0), (0xFFFFFFFF, 4), (0, 4)])
def test_count_must_match_the_data(served, declared, sent):
    request = wire.REGION_ACCESS.pack(0, 0, declared) + bytes(sent)
    served.client.call(Command.REGION_WRITE, request, expect=errno.EINVAL)
    assert not served.device.writes


def test_short(served):
    served.client.call(Command.REGION_WRITE, bytes(15), expect=errno.EINVAL)


def test_limit(serve):
    served = serve(Limits(max_transfer=8))
    served.client.version()
    served.client.write(0, 0, bytes(8))
    served.client.write(0, 0, bytes(9), expect=errno.EINVAL)


def test_with_descriptor(served, ram):
    request = wire.REGION_ACCESS.pack(0, 0, 4) + bytes(4)
    served.client.call(Command.REGION_WRITE, request, fds=[ram], expect=errno.EINVAL)


def posted(data: bytes) -> bytes:
    """A posted write of ``data`` to offset 8 of BAR0, as bytes on the wire."""
    message = wire.REGION_ACCESS.pack(8, 0, len(data)) + data
    head = wire.HEADER.pack(7, Command.REGION_WRITE, wire.HEADER.size + len(message), wire.FLAG_NO_REPLY, 0)
    return head + message


@pytest.mark.parametrize("cut", [1, 16, 31, 32, 33, 35])
def test_a_posted_write_in_two_parts(served, cut):
    message = posted(b"abcd")
    served.client.send_bytes(message[:cut])
    served.client.pump()
    assert not served.device.writes
    served.client.send_bytes(message[cut:])
    assert served.client.silent()
    assert served.device.writes == [(0, 8, b"abcd")]


def test_descriptors_with_the_data_of_a_posted_write(served, ram):
    message = posted(b"abcd")
    served.client.send_bytes(message[:32])
    served.client.send_bytes(message[32:], [ram])
    assert served.client.silent()
    assert served.server.refusals == 1
    assert not served.device.writes
    assert served.client.read(0, 8, 4) == bytes(4)


def test_a_posted_write_costs_one_system_call(served, monkeypatch):
    """It is the message that comes most often: thirty for each frame that a driver captures."""
    calls = []

    class Counted:
        def __init__(self, sock):
            self.sock = sock

        def recvmsg_into(self, *args):
            calls.append(args)
            return self.sock.recvmsg_into(*args)

        def __getattr__(self, name):
            return getattr(self.sock, name)

    monkeypatch.setattr(served.server._connection, "_sock", Counted(served.server._connection._sock))
    for _ in range(20):
        served.client.send_bytes(posted(b"abcd"))
    served.server._connection.drain()
    assert len(served.device.writes) == 20
    assert len(calls) == 21, "twenty messages, and nothing more"
