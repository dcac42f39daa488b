# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the runner's QMP client (deadlines, late answers, events) and the checker's pause (no block)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vcapdev.errors import GuestError
from vcapdev.vm.pause import VcpuPause
from vcapdev.vm.qmp import Qmp, QmpError

GREETING = {"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}}, "capabilities": []}}
Reaction = Callable[[dict[str, Any]], list[dict[str, Any]]]


class FakeQemu(threading.Thread):
    """A QMP server for one client; ``react`` gives the messages that answer a command."""

    def __init__(self, path: Path, react: Reaction, greeting: dict[str, Any] | None = None) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.react, self.greeting = react, greeting or GREETING
        self.commands: list[str] = []
        self.connection: socket.socket | None = None

    def run(self) -> None:
        try:
            self.connection, _ = self.listener.accept()
        except OSError:
            return
        with self.connection:
            self.send(self.greeting)
            for command in self.received(self.connection):
                if command["execute"] == "qmp_capabilities":
                    self.send({"return": {}, **({"id": command["id"]} if "id" in command else {})})
                    continue
                self.commands.append(command["execute"])
                for answer in self.react(command):
                    self.send(answer if "event" in answer else {"id": command.get("id"), **answer})

    @staticmethod
    def received(connection: socket.socket) -> Iterator[dict[str, Any]]:
        """Commands, which need not end with a newline."""
        text = ""
        while True:
            data = b""
            with contextlib.suppress(ConnectionResetError):  # the other side has gone with answers unread
                data = connection.recv(65536)
            if not data:
                return
            text += data.decode()
            while text := text.lstrip():
                try:
                    command, end = json.JSONDecoder().raw_decode(text)
                except ValueError:
                    break
                text = text[end:]
                yield command

    def send(self, message: dict[str, Any]) -> None:
        assert self.connection is not None
        with contextlib.suppress(OSError):  # a client may go at any time
            self.connection.sendall(json.dumps(message).encode() + b"\r\n")

    def end(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        if self.connection is not None:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        self.join(10)


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Callable[..., tuple[Path, FakeQemu]]]:
    made: list[FakeQemu] = []

    def make(react: Reaction, **options: Any) -> tuple[Path, FakeQemu]:
        path = tmp_path / "qmp"
        fake = FakeQemu(path, react, **options)
        fake.start()
        made.append(fake)
        return path, fake

    yield make
    for fake in made:
        fake.end()


def soon() -> float:
    return time.monotonic() + 10


def test_a_command_and_the_events_around_it(qemu) -> None:
    path, _ = qemu(lambda command: [{"event": "STOP"}, {"return": {"status": "paused"}}, {"event": "RESUME"}])
    client = Qmp.connect(path, soon())
    assert client.execute("query-status") == {"status": "paused"}
    while len(client.events) < 2:
        client.poll()
    assert [event["event"] for event in client.events] == ["STOP", "RESUME"]
    client.close()


def test_a_refusal_says_why(qemu) -> None:
    path, _ = qemu(lambda command: [{"error": {"class": "GenericError", "desc": "no such thing"}}])
    client = Qmp.connect(path, soon())
    with pytest.raises(QmpError, match="QEMU refused quit: no such thing"):
        client.execute("quit")
    client.close()


def test_silence_ends_at_the_deadline_and_the_late_answer_is_not_mistaken(qemu) -> None:
    held: list[dict[str, Any]] = []

    def react(command: dict[str, Any]) -> list[dict[str, Any]]:
        if command["execute"] == "stop":
            held.append({"id": command["id"], "return": "late"})
            return []
        return [*held, {"return": "right"}]

    path, _ = qemu(react)
    client = Qmp.connect(path, soon())
    with pytest.raises(QmpError, match="did not answer stop in time"):
        client.execute("stop", timeout=0.05)
    assert client.execute("query-status") == "right"
    client.close()


def test_a_peer_that_goes_away(qemu) -> None:
    path, fake = qemu(lambda command: [])
    client = Qmp.connect(path, soon())
    assert fake.connection is not None
    fake.connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(QmpError, match=r"closed its control socket|is gone"):
        client.execute("stop", timeout=10)


def test_a_peer_that_is_no_qmp_server(qemu) -> None:
    path, _ = qemu(lambda command: [], greeting={"hello": "world"})
    with pytest.raises(QmpError, match="does not speak QMP"):
        Qmp.connect(path, soon())


def test_no_socket_and_a_qemu_that_died(tmp_path: Path) -> None:
    with pytest.raises(QmpError, match="does not answer"):
        Qmp.connect(tmp_path / "none", soon(), alive=lambda: False)


class Machine:
    """A run state that stop and cont change."""

    def __init__(self) -> None:
        self.state = "running"
        self.may_stop = threading.Event()
        self.may_stop.set()

    def react(self, command: dict[str, Any]) -> list[dict[str, Any]]:
        if command["execute"] == "query-status":
            return [{"return": {"status": self.state, "running": self.state == "running"}}]
        if command["execute"] == "stop":
            assert self.may_stop.wait(10)
            self.state = "paused"
        if command["execute"] == "cont":
            self.state = "running"
        return [{"return": {}}]


@pytest.fixture
def paused(qemu) -> Iterator[Callable[..., tuple[VcpuPause, Machine, FakeQemu]]]:
    made: list[VcpuPause] = []

    def make(machine: Machine, deadline: float = 10.0) -> tuple[VcpuPause, Machine, FakeQemu]:
        path, fake = qemu(machine.react)
        pause = VcpuPause(path, deadline=deadline)
        pause.start()
        made.append(pause)
        return pause, machine, fake

    yield make
    for pause in made:
        pause.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = soon()
    while not condition():
        assert time.monotonic() < deadline, f"waited 10 s for {what}"
        time.sleep(0.005)


def test_the_vcpus_stand_inside_and_run_again_after(paused) -> None:
    pause, machine, fake = paused(Machine())
    with pause.pause(lambda: None) as standing:
        assert standing
        assert machine.state == "paused"
        with pause.pause(lambda: None) as nested:
            assert nested
    until(lambda: machine.state == "running", "the guest to go on")
    assert fake.commands == ["query-status", "stop", "cont"]


def test_the_device_is_served_while_qemu_is_blocked(paused) -> None:
    """A vCPU waits for our answer to a register read, so QEMU can stop only after we served it."""
    machine = Machine()
    machine.may_stop.clear()
    pause, _, fake = paused(machine)
    served = []

    def serve() -> None:
        served.append(1)
        if "stop" in fake.commands:
            machine.may_stop.set()

    with pause.pause(serve) as standing:
        assert standing
    assert served


def test_a_stop_that_does_not_come_is_given_up_and_taken_back(paused) -> None:
    machine = Machine()
    machine.may_stop.clear()
    pause, _, fake = paused(machine, deadline=0.05)
    with pause.pause(lambda: None) as standing:
        assert standing is False
    assert pause.given_up == 1
    machine.may_stop.set()
    until(lambda: fake.commands[-1] == "cont" and machine.state == "running", "the late stop to be undone")


def test_a_guest_that_stands_already_is_not_set_going(paused) -> None:
    """After a panic its memory is to be kept as it is."""
    machine = Machine()
    machine.state = "shutdown"
    pause, _, fake = paused(machine)
    with pause.pause(lambda: None) as standing:
        assert standing
    with pause.pause(lambda: None):
        pass
    assert fake.commands == ["query-status", "query-status"]


def test_qemus_death_is_a_pause_that_did_not_come(paused) -> None:
    pause, _, fake = paused(Machine(), deadline=0.5)
    assert fake.connection is not None
    fake.connection.shutdown(socket.SHUT_RDWR)
    with pause.pause(lambda: None) as standing:
        assert standing is False


def test_no_qemu_to_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vcapdev.vm.pause._CONNECT", 0.1)
    pause = VcpuPause(tmp_path / "none")
    with pytest.raises(GuestError, match="cannot pause the guest: no QMP at"):
        pause.start()


def test_a_guest_that_is_kept_stands_until_told_to_go_on(paused) -> None:
    """For somebody to look at it; pauses meanwhile do not set it going."""
    pause, machine, fake = paused(Machine())
    with pause.pause(lambda: None):
        assert pause.active
        pause.keep()
    assert not pause.active
    with pause.pause(lambda: None) as standing:
        assert standing
    assert machine.state == "paused"
    assert fake.commands == ["query-status", "stop", "query-status"]
    pause.go_on()
    until(lambda: machine.state == "running", "the guest to go on")
    pause.go_on()
    with pause.pause(lambda: None):
        assert machine.state == "paused"
    until(lambda: machine.state == "running", "a later pause to end as ever")
    assert fake.commands.count("cont") == 2
