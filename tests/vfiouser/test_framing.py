# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages on a stream: each with its own descriptors, in any number of pieces, of any claimed size."""

from __future__ import annotations

import errno
import os

import pytest
from client import Disconnected, memfd

from vcapdev.vfiouser import Limits, wire
from vcapdev.vfiouser.wire import Command


def message(command, payload=b"", ident=1, flags=0):
    return wire.HEADER.pack(ident, command, 16 + len(payload), flags, 0) + payload


def dma_map(address, size=4096):
    return message(Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0, address, size))


READ = message(Command.REGION_READ, wire.REGION_ACCESS.pack(0, 0, 4))
RESET = message(Command.DEVICE_RESET)


def inodes(served):
    return [os.fstat(segment.fd).st_ino for segment in served.server.memory.segments]


def test_descriptors_stay_with_their_messages(served, new_fd):
    """Many maps are waiting at once, with others without descriptors between them."""
    fds = [new_fd(memfd(4096)) for _ in range(10)]
    for number, fd in enumerate(fds):
        served.client.send_bytes(RESET)
        served.client.send_bytes(dma_map(number * 0x10000), [fd])
        served.client.send_bytes(READ)
    for _ in fds:
        assert [served.client.receive().errno for _ in range(3)] == [0, 0, 0]
    assert inodes(served) == [os.fstat(fd).st_ino for fd in fds]


@pytest.mark.parametrize("cut", [1, 8, 15, 16, 17, 31, 32, 33, 47])
def test_descriptor_of_a_message_in_pieces(served, ram, cut):
    data = dma_map(0)
    served.client.send_bytes(data[:cut], [ram])
    served.client.pump()
    served.client.send_bytes(data[cut:])
    assert served.client.receive().errno == 0
    assert inodes(served) == [os.fstat(ram).st_ino]


@pytest.mark.parametrize("cut", [1, 15, 16, 20])
def test_descriptor_with_a_later_piece(served, ram, cut):
    data = dma_map(0)
    served.client.send_bytes(data[:cut])
    served.client.pump()
    served.client.send_bytes(data[cut:], [ram])
    assert served.client.receive().errno == 0
    assert inodes(served) == [os.fstat(ram).st_ino]


def test_byte_by_byte(served):
    for value in READ + RESET:
        served.client.send_bytes(bytes([value]))
        served.client.pump()
    assert [served.client.receive().command for _ in range(2)] == [Command.REGION_READ, Command.DEVICE_RESET]


def test_many_in_one_piece(served):
    served.client.send_bytes((RESET + READ + RESET + RESET) * 20)
    replies = [served.client.receive() for _ in range(80)]
    assert [reply.command for reply in replies] == [13, 9, 13, 13] * 20
    assert served.device.resets == 60


def test_descriptors_in_many_pieces_are_counted_together(served, ram):
    data = dma_map(0)
    for position in range(48):
        served.client.send_bytes(data[position : position + 1], [ram, ram])
        served.client.pump()
    assert served.client.receive().errno == errno.EMFILE
    served.client.dma_map(0, 4096, ram)


@pytest.mark.parametrize("size", [0, 1, 15])
def test_size_below_a_header(served, size):
    served.client.send(Command.REGION_READ, size=size)
    assert served.client.receive().errno == errno.EINVAL
    with pytest.raises(Disconnected):
        served.client.receive()


@pytest.mark.parametrize("size", [(1 << 20) + 33, 0x7FFFFFFF, 0xFFFFFFFF])
def test_size_beyond_the_limit(served, size):
    served.client.send(Command.REGION_WRITE, bytes(16), size=size)
    assert served.client.receive().errno == errno.EMSGSIZE
    with pytest.raises(Disconnected):
        served.client.receive()
    assert len(served.disconnects) == 1


def test_largest_message(serve):
    served = serve(Limits(max_transfer=1 << 16))
    served.client.version()
    served.client.sock.setsockopt(1, 7, 1 << 18)  # SOL_SOCKET, SO_SNDBUF
    payload = wire.REGION_ACCESS.pack(0, 0, 1 << 16) + bytes(1 << 16)
    served.client.call(Command.REGION_WRITE, payload, expect=errno.EINVAL)
    assert served.client.read(0, 0, 4) == bytes(4)


@pytest.mark.parametrize(
    ("command", "expect"),
    [(0, errno.ENOSYS), (11, errno.ENOTSUP), (12, errno.ENOTSUP), (14, errno.ENOTSUP), (16, errno.ENOTSUP),
     (17, errno.ENOTSUP), (18, errno.ENOTSUP), (19, errno.ENOSYS), (0xFFFF, errno.ENOSYS)],
)  # fmt: skip
def test_unknown_commands(served, command, expect):
    ident = served.client.send(command, bytes(20))
    reply = served.client.receive()
    assert (reply.ident, reply.command, reply.flags, reply.errno) == (ident, command, 0x21, expect)


def test_a_reply_to_nothing_is_not_answered(served):
    served.client.send(Command.DMA_READ, bytes(16), flags=wire.TYPE_REPLY)
    assert served.client.silent()
    assert served.client.read(0, 0, 4) == bytes(4)


def test_a_client_that_does_not_read_its_replies(served):
    """What waits for it is bounded: when the socket is full nothing more is read; and nothing gets lost."""
    config = message(Command.REGION_READ, wire.REGION_ACCESS.pack(0, 0, 4096))
    sent = 0
    served.client.sock.settimeout(0)
    for _ in range(20):
        try:
            for _ in range(20):
                served.client.send_bytes(config)
                sent += 1
        except BlockingIOError:
            pass
        served.pump()
    assert not served.client.sock.getblocking()
    assert len(served.server._connection._out) <= 2 * 4128
    served.client.sock.settimeout(10)
    assert [len(served.client.receive().payload) for _ in range(sent)] == [4112] * sent


def test_the_log_is_bounded(serve):
    served = serve(Limits(max_log_lines=5))
    served.client.version()
    for size in range(1, 21):
        served.client.call(Command.DEVICE_RESET, bytes(size), expect=errno.EINVAL)
    assert len(served.log) == 6
    assert "not shown" in served.log[-1]
    assert served.server.refusals == 20


def test_the_same_refusal_is_logged_once_for_each_client(served):
    """QEMU maps video memory anew whenever the guest's firmware or driver moves it."""
    for clients in (1, 2):
        for _ in range(3):
            served.client.call(Command.DEVICE_RESET, b"x", expect=errno.EINVAL)
        assert len([line for line in served.log if "DEVICE_RESET" in line]) == clients
        served.client.close()
        served.reconnect().version()
    assert served.server.refusals == 6


def test_drain_in_a_handler_does_nothing(served):
    """A device may call it anywhere; a message must not be handled inside another."""
    depth = []

    def on_write():
        depth.append(len(served.device.writes))
        served.server.drain()
        assert len(served.device.writes) == depth[-1]

    served.device.on_write = on_write
    for value in range(5):
        served.client.post(0, 0, bytes([value]))
    assert served.client.read(0, 0, 1) == b"\4"
    assert depth == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("before", [READ, RESET, RESET + READ, READ + RESET, b""], ids=len)
def test_the_shortest_message_with_a_descriptor_behind_others(served, new_fd, before):
    """DEVICE_SET_IRQS is as long as a first read: whatever lies before it, the eventfd is its own."""
    eventfd = new_fd(os.eventfd(0, os.EFD_CLOEXEC))
    flags = wire.IRQ_DATA_EVENTFD | wire.IRQ_ACTION_TRIGGER
    if before:
        served.client.send_bytes(before)
    served.client.send_bytes(
        message(Command.DEVICE_SET_IRQS, wire.IRQ_SET.pack(20, flags, 0, 0, 1)), [eventfd]
    )
    served.client.send_bytes(READ + posted_write(b"abcd") + READ)
    replies = [served.client.receive() for _ in range((before.count(READ) + before.count(RESET)) + 3)]
    assert {reply.errno for reply in replies} == {0}
    assert replies[-1].payload[-4:] == b"abcd"
    served.server.interrupts.set_level(True)
    assert os.eventfd_read(eventfd) == 1


def posted_write(data):
    return message(
        Command.REGION_WRITE, wire.REGION_ACCESS.pack(0, 0, len(data)) + data, flags=wire.FLAG_NO_REPLY
    )


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("cut", [None, 20, 31, 32, 33, 35, 36, 37, 70])
def test_reads_and_writes_run_together(served, size, cut):
    """Whatever the first read of a message takes of the next one, each is carried out once, in order."""
    data = bytes(range(1, size + 1))
    stream = READ + posted_write(data) + posted_write(data) + READ + posted_write(data) + READ
    served.client.send_bytes(stream[:cut])
    if cut is not None:
        served.client.pump()
        served.client.send_bytes(stream[cut:])
    replies = [served.client.receive() for _ in range(3)]
    assert [reply.payload[-4:] for reply in replies] == [bytes(4), *[data[:4].ljust(4, b"\0")] * 2]
    assert served.device.writes == [(0, 0, data)] * 3


@pytest.mark.parametrize("cut", range(1, 104))
def test_a_descriptor_in_a_stream_cut_anywhere(served, new_fd, cut):
    """A read, a posted write and the shortest message with a descriptor: it finds its own at every split."""
    eventfd = new_fd(os.eventfd(0, os.EFD_CLOEXEC))
    flags = wire.IRQ_DATA_EVENTFD | wire.IRQ_ACTION_TRIGGER
    before = READ + posted_write(b"abcd")
    install = message(Command.DEVICE_SET_IRQS, wire.IRQ_SET.pack(20, flags, 0, 0, 1))
    pieces = [(before[:cut], []), (before[cut:], []), (install, [eventfd])]
    if cut > len(before):
        inside = cut - len(before)
        pieces = [(before, []), (install[:inside], [eventfd]), (install[inside:], [])]
    for data, fds in pieces:
        if data:
            served.client.send_bytes(data, fds)
            served.client.pump()
    assert [served.client.receive().errno for _ in range(2)] == [0, 0]
    assert served.device.writes == [(0, 0, b"abcd")]
    served.server.interrupts.set_level(True)
    assert os.eventfd_read(eventfd) == 1
