# SPDX-License-Identifier: GPL-2.0-or-later
"""Random messages and random bytes: whatever comes, the server stays up, answers, and leaks nothing."""

from __future__ import annotations

import contextlib
import os

import pytest
from client import Disconnected, memfd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import resources

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command

EXAMPLES = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

u32 = st.one_of(
    st.integers(0, 40), st.sampled_from([0x1000, 0x7FFFFFFF, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF)
)
u64 = st.one_of(
    st.integers(0, 8).map(lambda page: page * 4096),
    st.sampled_from([0, 1, (1 << 64) - 1, (1 << 64) - 4096, 1 << 63]),
    st.integers(0, (1 << 64) - 1),
)
flags = st.one_of(st.just(0), st.sampled_from([0x10, 0x1, 0x20, 0x21]), u32)
bits = st.one_of(st.integers(0, 0x3F), u32)
junk = st.binary(max_size=80)


def packed(layout, *fields):
    return st.tuples(*fields).map(lambda values: layout.pack(*values))


payloads = {
    Command.VERSION: st.one_of(junk, packed(wire.VERSION, st.integers(0, 2), st.integers(0, 2))),
    Command.DMA_MAP: packed(
        wire.DMA_MAP, st.one_of(st.just(32), u32), st.one_of(st.just(3), bits), u64, u64, u64
    ),
    Command.DMA_UNMAP: packed(wire.DMA_UNMAP, st.one_of(st.just(24), u32), bits, u64, u64),
    Command.DEVICE_GET_INFO: packed(wire.DEVICE_INFO, u32, bits, u32, u32),
    Command.DEVICE_GET_REGION_INFO: packed(wire.REGION_INFO, u32, bits, u32, u32, u64, u64),
    Command.DEVICE_GET_REGION_IO_FDS: packed(wire.REGION_IO_FDS, u32, bits, u32, u32),
    Command.DEVICE_GET_IRQ_INFO: packed(wire.IRQ_INFO, u32, bits, u32, u32),
    Command.DEVICE_SET_IRQS: packed(wire.IRQ_SET, st.one_of(st.just(20), u32), bits, u32, u32, u32),
    Command.REGION_READ: packed(wire.REGION_ACCESS, u64, u32, u32),
    Command.REGION_WRITE: st.tuples(packed(wire.REGION_ACCESS, u64, u32, u32), junk).map(b"".join),
    Command.REGION_WRITE_MULTI: st.tuples(packed(wire.WRITE_MULTI, u64), junk).map(b"".join),
}
commands = st.one_of(st.sampled_from(list(Command)), st.integers(0, 0xFFFF))
messages = st.tuples(
    commands.flatmap(
        lambda command: st.tuples(st.just(command), st.one_of(payloads.get(command, junk), junk))
    ),
    flags,
    st.one_of(st.just(None), st.just(None), st.just(None), u32),  # size in the header, when a lie
    st.lists(st.sampled_from(["ram", "unsealed", "eventfd", "null"]), max_size=10),
)


@pytest.fixture
def offered(new_fd):
    return {
        "ram": new_fd(memfd(1 << 16)),
        "unsealed": new_fd(memfd(1 << 16, seals=0)),
        "eventfd": new_fd(os.eventfd(0, os.EFD_NONBLOCK)),
        "null": new_fd(os.open("/dev/null", os.O_RDWR)),
    }


def still_serves(served):
    """Whatever the last client did, the server takes another, and holds nothing of the last one's."""
    served.client.close()
    served.pump()
    assert served.server.memory.count == 0
    served.log.clear()
    before = resources()
    client = served.reconnect()
    client.version()
    assert client.read(0, 0x40, 4) == bytes(served.device.memory[0][0x40:0x44])
    client.close()
    served.pump()
    assert resources()[0] <= before[0], "no descriptor stays"
    assert resources()[1] <= before[1], "no mapping stays"


def read_replies(served):
    """Take all replies; each must be well-formed."""
    with contextlib.suppress(Disconnected):
        while not served.client.silent():
            reply = served.client.receive()
            assert reply.flags in (wire.TYPE_REPLY, wire.TYPE_REPLY | wire.FLAG_ERROR)
            assert bool(reply.errno) == (reply.flags != wire.TYPE_REPLY)
            assert not (reply.errno and reply.payload)


@EXAMPLES
@given(batch=st.lists(messages, min_size=1, max_size=12), agreed=st.booleans())
def test_random_messages(fresh, offered, batch, agreed):
    client = fresh.reconnect() if fresh.server._connection is None else fresh.client
    if agreed:
        client.version()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for (command, payload), flag, size, names in batch:
            client.send(command, payload, flags=flag, size=size, fds=[offered[name] for name in names])
            read_replies(fresh)
    still_serves(fresh)


@EXAMPLES
@given(chunks=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=10), agreed=st.booleans())
def test_random_bytes(fresh, offered, chunks, agreed):
    client = fresh.reconnect() if fresh.server._connection is None else fresh.client
    if agreed:
        client.version()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for chunk in chunks:
            client.send_bytes(chunk, [offered["ram"]] if chunk[0] & 1 else [])
            read_replies(fresh)
    still_serves(fresh)


@EXAMPLES
@given(
    batch=st.lists(messages.filter(lambda m: m[2] is None), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=20),
)
def test_pieces_make_no_difference(fresh, batch, cuts):
    """The same stream, cut differently, gets the same replies."""
    stream = b"".join(
        wire.HEADER.pack(number, command, 16 + len(payload), flag, 0) + payload
        for number, ((command, payload), flag, _, _) in enumerate(batch)
    )
    whole = replies_to(fresh, [stream])
    pieces, position = [], 0
    for cut in cuts * (len(stream) // sum(cuts) + 1):
        pieces.append(stream[position : position + cut])
        position += cut
    assert replies_to(fresh, [piece for piece in pieces if piece]) == whole
    still_serves(fresh)


def replies_to(served, pieces):
    for index in served.device.memory:
        served.device.memory[index][:] = bytes(len(served.device.memory[index]))
    if served.server._connection is not None:
        served.client.close()
        served.pump()
    client = served.reconnect()
    client.version()
    replies = []
    with contextlib.suppress(Disconnected, BrokenPipeError, ConnectionResetError):
        for piece in pieces:
            client.send_bytes(piece)
            while not client.silent():
                replies.append(client.receive())
    with contextlib.suppress(Disconnected):
        while not client.silent():
            replies.append(client.receive())
    return replies
