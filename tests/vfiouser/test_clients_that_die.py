# SPDX-License-Identifier: GPL-2.0-or-later
"""A client may vanish in any state: its memory goes, the device stays, the next one is served."""

from __future__ import annotations

import os
import socket

import pytest
from client import Client, Disconnected

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command


def gone(served):
    served.client.close()
    served.pump()
    assert not served.server.connected
    assert not served.server.memory.segments
    assert served.server.memory.count == 0
    assert not served.server.interrupts.installed


def test_before_a_byte(fresh):
    """Nobody was connected who could be disconnected; yet whoever serves this one connection must hear."""
    closes = []
    fresh.server.on_close = lambda: closes.append(1)
    gone(fresh)
    assert not fresh.disconnects
    assert closes == [1]
    assert not fresh.log


@pytest.mark.parametrize("count", [1, 15, 16, 17, 31])
def test_inside_a_message(served, count):
    data = wire.REGION_MESSAGE.pack(1, Command.REGION_READ, 32, 0, 0, 0, 0, 4)
    served.client.send_bytes(data[:count])
    served.pump()
    gone(served)
    assert len(served.disconnects) == 1
    assert "in the middle of a message" in served.log[-1]


def test_inside_a_message_with_descriptors(served, ram):
    served.client.send_bytes(wire.HEADER.pack(1, Command.DMA_MAP, 48, 0, 0), [ram] * 8)
    gone(served)


def test_with_maps_and_interrupts(served, ram, new_fd):
    served.client.dma_map(0, 1 << 20, ram)
    served.client.dma_map(0xC0000000, 0x1000, flags=wire.DMA_MAP_READ)
    trigger, unmask = new_fd(os.eventfd(0)), new_fd(os.eventfd(0))
    served.client.install_intx(trigger)
    served.client.set_irqs(wire.IRQ_DATA_EVENTFD | wire.IRQ_ACTION_UNMASK, fds=[unmask])
    gone(served)
    served.server.interrupts.set_level(True)
    assert len(served.disconnects) == 1


def test_before_it_reads_its_reply(served):
    served.client.send(Command.REGION_READ, wire.REGION_ACCESS.pack(0, 0, 4))
    gone(served)


def test_with_unread_replies_in_the_queue(served):
    for _ in range(30):
        served.client.send(Command.REGION_READ, wire.REGION_ACCESS.pack(0, 0, 4096))
    served.server.drain()
    gone(served)


def test_only_its_writing_half(served):
    served.client.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(Disconnected):
        served.client.receive()
    assert len(served.disconnects) == 1


def test_the_next_one_finds_the_device_as_it_was(served, new_fd):
    served.client.write(0, 0x10, b"kept")
    served.server.interrupts.set_level(True)
    gone(served)
    client = served.reconnect()
    client.version()
    assert client.read(0, 0x10, 4) == b"kept"
    trigger = new_fd(os.eventfd(0, os.EFD_NONBLOCK))
    client.install_intx(trigger)
    assert os.eventfd_read(trigger) == 1, "the level is still high"


def test_inside_a_drain(served):
    """A device in its field slice learns of it through the map's generation."""
    served.client.sock.close()
    served.server.drain()
    assert not served.server.connected
    served.server.drain()


@pytest.fixture
def listener(fresh, tmp_path):
    gone(fresh)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    fresh.server.serve(sock)
    yield str(tmp_path / "s")
    fresh.server.close()
    sock.close()


def connect(served, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return Client(sock, served.pump)


def test_one_after_another(fresh, listener):
    for _ in range(3):
        client = connect(fresh, listener)
        client.version()
        client.close()
    fresh.pump()
    assert len(fresh.disconnects) == 3


def test_a_second_one_is_turned_away(fresh, listener):
    first, second = connect(fresh, listener), connect(fresh, listener)
    first.version()
    with pytest.raises(Disconnected):
        second.receive()
    assert first.read(0, 0, 4) == bytes(4)
    assert "one at a time" in fresh.log[-1]
    first.close()
    second.close()


def test_a_new_one_right_after_the_old(fresh, listener):
    """Both events wait when the server looks; the new client must not be taken for a second one."""
    first = connect(fresh, listener)
    first.version()
    first.sock.close()
    second = connect(fresh, listener)
    second.version()
    second.close()
