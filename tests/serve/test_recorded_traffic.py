# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects older QEMUs than the one that all other tests start: what they said is answered as it was then.

Recorded by tests/guest/record_traffic.py with guests that captured. Both versions say the same, to the byte,
up to the driver's first interrupts; 10.1, the first with vfio-user, and 11.0 were never to be had.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vcapdev.serve.card import Card
from vcapdev.serve.options import ServeOptions
from vcapdev.vfiouser import wire
from vcapdev.vfiouser.device import CONFIG
from vcapdev.vfiouser.reactor import Reactor
from vcapdev.vfiouser.wire import Command

RECORDED = sorted((Path(__file__).parent / "recorded").glob("qemu-*.jsonl"))
DEADLINE = 10.0  # seconds for any reply
RAM = 128 << 20  # of the recorded guest; nothing writes to it
EXPECTED = {"qemu-10.2.2", "qemu-11.1.3"}


class Replay:
    """A card, and the recorded client's end of its connection, in one thread."""

    def __init__(self) -> None:
        self._reactor = Reactor()
        self.card = Card(ServeOptions(clock="step"), self._reactor, lambda verdict: None, lambda: None)
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(DEADLINE)
        self.card.server.serve_connected(theirs)
        self._ram = os.memfd_create("ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._ram, RAM)
        fcntl.fcntl(self._ram, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._event = os.eventfd(0)

    def say(self, message: bytes, kinds: list[str]) -> bytes:
        """Send a message; its reply, if it wants one."""
        fds = array.array("i", [{"ram": self._ram, "event": self._event}[kind] for kind in kinds])
        self._sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
        self.card.server.drain()
        self._reactor.run_once()
        if wire.HEADER.unpack_from(message)[3] & wire.FLAG_NO_REPLY:
            return b""
        head = self._sock.recv(wire.HEADER.size, socket.MSG_WAITALL)
        rest = wire.HEADER.unpack(head)[2] - len(head)
        return head + (self._sock.recv(rest, socket.MSG_WAITALL) if rest else b"")

    def hang_up(self) -> None:
        self._sock.close()
        self._reactor.run_once()

    def close(self) -> None:
        self._sock.close()
        self.card.close()
        self._reactor.close()
        os.close(self._ram)
        os.close(self._event)


@pytest.fixture
def replay() -> Iterator[Replay]:
    made = Replay()
    yield made
    made.close()


def conversation(path: Path) -> Iterator[tuple[bytes, list[str], bytes]]:
    """Each message of QEMU's, its descriptors, and the reply that it got, empty for none."""
    notes: list[list[Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    replies: dict[int, list[bytes]] = {}
    for who, text, *_ in notes:
        if who == "card":
            replies.setdefault(wire.HEADER.unpack_from(bytes.fromhex(text))[0], []).append(
                bytes.fromhex(text)
            )
    for who, text, *kinds in notes:
        if who == "qemu":
            message = bytes.fromhex(text)
            ident, _, _, flags, _ = wire.HEADER.unpack_from(message)
            yield message, kinds, b"" if flags & wire.FLAG_NO_REPLY else replies[ident].pop(0)


def of_the_bar(message: bytes) -> bool:
    """Whether the reply depends on the moment: a register of the chip's."""
    command = wire.HEADER.unpack_from(message)[1]
    region = (
        wire.REGION_ACCESS.unpack_from(message, wire.HEADER.size)[1]
        if command == Command.REGION_READ
        else CONFIG
    )
    return region != CONFIG


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_what_a_real_qemu_said_is_answered_as_it_was_then(path: Path, replay: Replay) -> None:
    served: dict[int, int] = {}
    for number, (message, kinds, reply) in enumerate(conversation(path)):
        command = wire.HEADER.unpack_from(message)[1]
        served[command] = served.get(command, 0) + 1
        answer = replay.say(message, kinds)
        if of_the_bar(message):
            answer, reply = (each[: wire.REGION_MESSAGE.size] for each in (answer, reply))
        assert answer == reply, f"message {number}, {wire.command_name(command)}: {message.hex()}"
    assert replay.card.server.refusals == 0
    assert set(served) == {
        Command.VERSION, Command.DMA_MAP, Command.DMA_UNMAP, Command.DEVICE_GET_INFO,
        Command.DEVICE_GET_REGION_INFO, Command.DEVICE_GET_IRQ_INFO, Command.DEVICE_SET_IRQS,
        Command.REGION_READ, Command.REGION_WRITE, Command.DEVICE_RESET,
    }  # fmt: skip
    assert min(served[Command.DMA_MAP], served[Command.DMA_UNMAP]) >= 10
    replay.hang_up()
    assert not replay.card.server.connected


def test_the_recordings_are_there_and_say_the_same_until_the_driver_is_at_work() -> None:
    assert {path.stem for path in RECORDED} >= EXPECTED
    told = [[(message[2:], kinds) for message, kinds, _ in conversation(path)] for path in RECORDED]
    registers = [
        [each for each in one if each[0][0] in (Command.REGION_READ, Command.REGION_WRITE)] for one in told
    ]
    others = [
        [each for each in one if each[0][0] not in (Command.REGION_READ, Command.REGION_WRITE)]
        for one in told
    ]
    for kind in (registers, others):
        shortest = min(map(len, kind))
        assert shortest > 50
        assert all(one[:shortest] == kind[0][:shortest] for one in kind)
