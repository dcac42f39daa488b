# SPDX-License-Identifier: GPL-2.0-or-later
"""The control channel over real sockets: answers, refusals, events, and clients that misbehave."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vcapdev.serve import control
from vcapdev.serve.client import ControlClient, ControlError, DeviceGoneError
from vcapdev.serve.control import CommandError, ControlServer, ControlSession
from vcapdev.serve.sockets import listening
from vcapdev.vfiouser.reactor import Reactor

Json = dict[str, Any]


class Host:
    """A control server whose loop turns in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reactor = Reactor()
        self.server: ControlServer | None = None
        self.turns = 0
        self._ready = threading.Event()
        self.thread = threading.Thread(target=self._main, daemon=True)
        self.thread.start()
        assert self._ready.wait(10), "the control server did not start"

    def _main(self) -> None:
        with listening(self.path, "--control") as listener:
            self.server = ControlServer(self.reactor, listener, self.dispatch)
            self._ready.set()
            self.reactor.run()
            self.server.close()
        self.reactor.close()

    def dispatch(self, command: str, arguments: Json, session: ControlSession) -> Json:
        if command == "echo":
            return arguments
        if command == "subscribe":
            session.subscribed = True
            return {}
        if command == "count-turns":
            self.count_turns()
            return {}
        if command == "shout":
            assert self.server is not None
            for number in range(arguments["times"]):
                self.server.broadcast({"event": "shout", "number": number, "pad": "x" * arguments["pad"]})
            return {}
        if command == "turn":  # how many turns of the loop have passed
            return {"turn": self.turns}
        raise CommandError(f"no command {command!r}")

    def count_turns(self) -> None:
        self.turns += 1
        self.reactor.call_later(0, self.count_turns)

    def stop(self) -> None:
        self.reactor.stop()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the loop did not stop"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path / "control")
    yield host
    if host.thread.is_alive():
        host.stop()


@pytest.fixture
def client(host: Host) -> Iterator[ControlClient]:
    client = ControlClient.connect(host.path, 10, lambda: True)
    yield client
    client.close()


@pytest.fixture
def raw(host: Host) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(host.path))
        yield raw


def test_a_command_is_answered(client: ControlClient) -> None:
    assert client.call("echo", word="field", number=3) == {"word": "field", "number": 3}


def test_a_refusal_says_why(client: ControlClient) -> None:
    with pytest.raises(ControlError, match="no command 'dance'"):
        client.call("dance")
    assert client.call("echo", still="there") == {"still": "there"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"GET / HTTP/1.0", "not JSON"),
        (b"[1]", "JSON object"),
        (b'{"id": 5}', 'needs "cmd"'),
        (b'{"id": 5, "cmd": 7}', 'needs "cmd"'),
        (b"[" * 60000, "not JSON"),
        (b'{"id": ' + b"[" * 900 + b"]" * 900 + b', "cmd": "echo"}', "a number or a string"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_nonsense_is_refused_on_one_line(raw: socket.socket, line: bytes, complaint: str) -> None:
    raw.sendall(line + b"\n")
    answer = json.loads(raw.makefile("rb").readline())
    assert answer["ok"] is False
    assert complaint in answer["error"]


def test_a_request_without_end_is_cut_off(raw: socket.socket) -> None:
    raw.sendall(b"x" * (control.MAX_LINE + 1))
    lines = raw.makefile("rb").read().splitlines()
    assert "longer than" in json.loads(lines[0])["error"]


def test_requests_in_one_packet_are_all_answered_in_order(raw: socket.socket) -> None:
    raw.sendall(b"".join(b'{"id":%d,"cmd":"echo"}\n' % number for number in range(50)))
    reader = raw.makefile("rb")
    assert [json.loads(reader.readline())["id"] for _ in range(50)] == list(range(50))


def test_many_requests_in_one_packet_leave_others_their_turn(raw: socket.socket) -> None:
    """The loop that answers here answers QEMU too: no two requests are handled in the same turn of it."""
    raw.sendall(b'{"cmd":"count-turns"}\n' + b'{"cmd":"turn"}\n' * 200)
    reader = raw.makefile("rb")
    reader.readline()
    turns = [json.loads(reader.readline())["result"]["turn"] for _ in range(200)]
    assert len(set(turns)) == 200


def test_events_reach_who_subscribed_and_nobody_else(host: Host, client: ControlClient) -> None:
    other = ControlClient.connect(host.path, 10, lambda: True)
    client.call("subscribe")
    other.call("shout", times=3, pad=0)
    client.call("echo")
    assert [event["number"] for event in client.events] == [0, 1, 2]
    other.call("echo")
    assert not other.events
    other.close()


def test_a_large_backlog_arrives_whole(client: ControlClient) -> None:
    client.call("subscribe")
    client.call("shout", times=40, pad=50_000)
    assert [event["number"] for event in client.events] == list(range(40))


def test_a_client_that_never_reads_is_let_go_and_others_live(host: Host, raw: socket.socket) -> None:
    raw.sendall(b'{"id":1,"cmd":"subscribe"}\n')
    assert json.loads(raw.makefile("rb").readline())["ok"]
    client = ControlClient.connect(host.path, 10, lambda: True)
    client.call("shout", times=control.MAX_BACKLOG // 50_000 + 10, pad=50_000)
    assert client.call("echo", fine=True) == {"fine": True}
    received = 0
    while data := raw.recv(1 << 20):
        received += len(data)
    assert received < control.MAX_BACKLOG + (1 << 20)
    client.close()


def test_no_more_clients_than_a_limit(host: Host) -> None:
    clients = [ControlClient.connect(host.path, 10, lambda: True) for _ in range(control.MAX_CLIENTS)]
    for client in clients:
        client.call("echo")
    extra = ControlClient.connect(host.path, 10, lambda: True)
    with pytest.raises(DeviceGoneError):
        extra.call("echo")
    clients[0].close()
    clients[1].call("echo")
    replacement = ControlClient.connect(host.path, 10, lambda: True)
    assert replacement.call("echo", now=1) == {"now": 1}
    for client in [*clients[1:], replacement, extra]:
        client.close()


def test_the_end_of_the_server_is_an_error_with_a_name(host: Host, client: ControlClient) -> None:
    client.call("echo")
    host.stop()
    with pytest.raises(DeviceGoneError, match="closed its control channel"):
        client.poll()
    with pytest.raises(DeviceGoneError):
        client.call("echo")


def test_connecting_ends_when_the_process_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DeviceGoneError, match="before it could be reached"):
        ControlClient.connect(tmp_path / "nobody", 60, lambda: False)
