# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the device process from its guest's patience: 20 000 random messages leave no memory behind."""

from __future__ import annotations

import os
import random
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "vfiouser"))  # for client.py

from client import Client, Disconnected, memfd
from test_serve_process import Running, wait_until

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command

MESSAGES = 20_000
WARM = 5_000  # of them: by then every buffer, cache and log has been as long as it gets
GROWTH = 1 << 10  # KiB that it may have grown by after that: 60 were seen; 100 bytes a message would be 1464
RAM = 1 << 20  # bytes of a mapping
BAR, CONFIG = 0, 7


class Traffic:
    """Messages of all commands, mostly well-formed, in an order that a seed decides."""

    def __init__(self, device: Running, seed: int) -> None:
        self._device, self._random = device, random.Random(seed)
        self._ram, self._event = memfd(RAM), os.eventfd(0, os.EFD_NONBLOCK)
        self.connections = 0
        self.refused = 0

    def close(self) -> None:
        os.close(self._ram)
        os.close(self._event)

    def send(self, count: int) -> None:
        """So many messages, each with its reply; a server that hangs up is called again."""
        client = self._connect()
        for _ in range(count):
            command, payload, fds = self._message()
            try:
                client.send(command, payload, fds=fds)
                self.refused += client.receive().errno != 0
            except (Disconnected, BrokenPipeError, ConnectionResetError):
                client.sock.close()
                client = self._connect()
        client.sock.close()

    def _connect(self) -> Client:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self._device.card))
        client = Client(sock)
        client.version()
        self.connections += 1
        return client

    def _message(self) -> tuple[int, bytes, list[int]]:
        pick = self._random
        kind = pick.choice(("write", "write", "write", "read", "map", "unmap", "irq", "many", "info", "junk"))
        if kind == "write":
            region, offset, data = self._access()
            return Command.REGION_WRITE, wire.REGION_ACCESS.pack(offset, region, len(data)) + data, []
        if kind == "read":
            region, offset, data = self._access()
            return Command.REGION_READ, wire.REGION_ACCESS.pack(offset, region, len(data)), []
        if kind == "map":
            size = pick.choice((4096, 65536, RAM))
            return Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0, self._address(), size), [self._ram]
        if kind == "unmap":
            everything = pick.random() < 0.02
            place = (0, 0) if everything else (self._address(), pick.choice((4096, 65536, RAM)))
            return Command.DMA_UNMAP, wire.DMA_UNMAP.pack(24, 2 if everything else 0, *place), []
        if kind == "irq":
            header = wire.IRQ_SET.pack(20, pick.choice((0x21, 0x24, 0x0A, 0x12, 0x14)), 0, 0, 1)
            return Command.DEVICE_SET_IRQS, header, [self._event][: pick.randrange(2)]
        if kind == "many":
            writes = [
                (BAR, pick.randrange(0, 0x1000, 4), pick.randrange(1 << 32)) for _ in range(pick.randrange(9))
            ]
            parts = (struct.pack("<QIIQ", offset, region, 4, value) for region, offset, value in writes)
            return Command.REGION_WRITE_MULTI, wire.WRITE_MULTI.pack(len(writes)) + b"".join(parts), []
        if kind == "info":
            command = pick.choice(
                (Command.DEVICE_GET_INFO, Command.DEVICE_GET_REGION_INFO, Command.DEVICE_RESET)
            )
            return command, bytes(pick.choice((0, 16, 32))), []
        return pick.randrange(20), pick.randbytes(pick.randrange(64)), []

    def _access(self) -> tuple[int, int, bytes]:
        pick = self._random
        size = pick.choice((1, 2, 4, 4, 4, 8))
        if pick.random() < 0.1:
            return CONFIG, pick.randrange(0, 256, size), pick.randbytes(size)
        offset = pick.choice(
            (0x10C, 0x114, 0x100, 0x104, pick.randrange(0, 0x1000, size))
        )  # DMA control, RISC
        value = pick.choice((3, self._address(), pick.randrange(1 << 32)))
        return BAR, offset, struct.pack("<Q", value)[:size]

    def _address(self) -> int:
        return self._random.randrange(64) << 16


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path, clock="fast")
    yield running
    running.control.close()
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def traffic(busy: Running) -> Iterator[Traffic]:
    made = Traffic(busy, seed=11)
    yield made
    made.close()


def held(pid: int) -> tuple[int, int, int]:
    """What a process holds: KiB of memory of its own, descriptors, mappings."""
    status = Path(f"/proc/{pid}/status").read_text()
    anonymous = re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)
    assert anonymous is not None
    with open(f"/proc/{pid}/maps") as maps:
        return int(anonymous[1]), len(os.listdir(f"/proc/{pid}/fd")), sum("memfd:" in line for line in maps)


def test_20000_random_messages_leave_nothing_behind(busy: Running, traffic: Traffic) -> None:
    assert busy.process.pid is not None
    traffic.send(WARM)
    wait_until(lambda: not busy.control.call("hello")["connected"], "the end of the connection")
    before = held(busy.process.pid)
    traffic.send(MESSAGES - WARM)
    wait_until(lambda: not busy.control.call("hello")["connected"], "the end of the connection")
    stats = busy.control.call("stats")
    after = held(busy.process.pid)
    assert after[0] - before[0] < GROWTH, f"{after[0] - before[0]} KiB more after {MESSAGES - WARM} messages"
    assert after[1:] == before[1:], "descriptors and mappings are as many as before"
    assert stats["fields"] > 0, "the clock went on"
    assert MESSAGES // 10 < traffic.refused < MESSAGES // 10 * 9, (
        "of what was sent, much was served and much refused"
    )
    assert busy.end() == 0
