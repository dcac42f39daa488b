# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev serve`` as a process: its sockets, its commands, and every way in which it ends."""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.serve.client import ControlClient, ControlError
from vcapdev.serve.options import ServeOptions
from vcapdev.vfiouser import wire

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0  # seconds for anything a healthy process does


def start(options: ServeOptions, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vcapdev", "serve", *options.command_line()]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, **more)  # type: ignore[call-overload,no-any-return]


class Running:
    """A device process with its two sockets."""

    def __init__(self, directory: Path, **options: str) -> None:
        self.card, self.control_path = directory / "card", directory / "control"
        self.process = start(ServeOptions(socket_path=self.card, control=self.control_path, **options))  # type: ignore[arg-type]
        self.control = ControlClient.connect(self.control_path, DEADLINE, lambda: self.process.poll() is None)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path, clock="step")
    yield running
    running.control.close()
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_its_sockets(device: Running, number: signal.Signals) -> None:
    for path in (device.card, device.control_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert device.end(number) == ExitStatus.CLEAN
    assert not device.card.exists()
    assert not device.control_path.exists()


def test_quit_ends_it(device: Running) -> None:
    assert device.control.call("quit") == {}
    assert device.process.wait(DEADLINE) == ExitStatus.CLEAN
    assert not device.card.exists()


def test_hello_tells_who_is_there(device: Running) -> None:
    hello = device.control.call("hello")
    assert hello["pid"] == device.process.pid
    assert (hello["board"], hello["norm"], hello["clock"]) == ("ProVideo PV143", "PAL", "step")
    assert hello["connected"] is False


def test_registers_are_read_and_written_by_name(device: Running) -> None:
    call = device.control.call
    assert call("register-write", name="INT_MASK", value=0x802)["value"] == 0x802
    assert call("register-read", name="INT_MASK") == {"name": "INT_MASK", "value": 0x802}
    assert call("registers")["registers"]["INT_MASK"] == 0x802
    assert any("INT_MASK" in line for line in call("access-log", last=5)["lines"])
    with pytest.raises(ControlError, match="no register 'INT_MUSK'"):
        call("register-read", name="INT_MUSK")
    with pytest.raises(ControlError, match='"value" must be a number'):
        call("register-write", name="INT_MASK", value=-1)


def test_the_clock_is_set_and_stepped(device: Running) -> None:
    call = device.control.call
    before = call("stats")["fields"]
    call("step", fields=5)
    assert call("stats")["fields"] - before in (4, 5)  # the last of them has begun, not ended
    assert call("clock", mode="fast")["mode"] == "fast"
    with pytest.raises(ControlError, match="set it to step"):
        call("step")
    with pytest.raises(ControlError, match="no mode 'swift'"):
        call("clock", mode="swift")


def test_without_a_guest_the_checker_says_so(device: Running) -> None:
    call = device.control.call
    status = call("check-status")
    assert status["attached"] is False
    assert status["why_not"]
    assert call("settle")["settled"] is False
    assert call("verdicts") == {"verdicts": []}
    assert call("dma-log") == {"lines": []}
    with pytest.raises(ControlError, match="no frame"):
        call("frame")


def test_faults_are_injected_by_name(device: Running) -> None:
    assert device.control.call("inject", fault="parity-error") == {}
    with pytest.raises(ControlError, match="no fault 'meteor'"):
        device.control.call("inject", fault="meteor")


def test_faults_are_armed_at_a_counted_point_and_taken_back(device: Running) -> None:
    call = device.control.call
    assert call("fault") == {}
    armed = {"fault": "signal-lost", "at": 3, "lasts": 7, "fired": False, "seen": 0}
    assert call("fault", fault="signal-lost", at=3, lasts=7) == armed
    assert call("fault") == armed
    assert call("fault", fault=None) == {}
    for wrong, said in (({"fault": "meteor"}, "no fault 'meteor'; there are interrupt-lost"),
                        ({"fault": "unplug", "at": 0}, '"at" must be a number from 1')):  # fmt: skip
        with pytest.raises(ControlError, match=said):
            call("fault", **wrong)
    faults = call("faults")["faults"]
    assert faults["interrupt-lost"]["point"] == "interrupt"
    assert len(faults) == 16


def test_the_signal_can_change_and_the_program_be_listed(device: Running) -> None:
    call = device.control.call
    assert call("signal") == {"norm": "PAL", "connected": True}
    assert call("signal", norm="NTSC", connected=False) == {"norm": "NTSC", "connected": False}
    assert call("register-read", name="DSTATUS")["value"] & 0xD0 == 0
    with pytest.raises(ControlError, match="no television norm is called 'FRENCH'"):
        call("signal", norm="FRENCH")
    assert call("program") == {"running": False, "pc": 0, "instructions": []}


def test_where_memory_lies_and_whether_a_finding_holds_the_guest(device: Running) -> None:
    call = device.control.call
    assert call("memory") == {"pid": device.process.pid, "vmcoreinfo": "", "segments": []}
    assert call("hold") == {"held": False, "next": False}
    assert call("hold", next=True) == {"held": False, "next": True}
    assert call("resume", hold=True) == {"held": False, "next": True}
    assert call("resume") == {"held": False, "next": False}


def test_an_unknown_command_is_answered_with_those_that_exist(device: Running) -> None:
    with pytest.raises(ControlError, match="there are access-log, attach, check-status, clock"):
        device.control.call("make-coffee")


def handshake(sock: socket.socket) -> bytes:
    """Agree on the version, then read vendor and device of configuration space."""
    sock.settimeout(DEADLINE)
    version = struct.pack("<HH", 0, 0) + b'{"capabilities":{}}\0'
    sock.sendall(wire.HEADER.pack(1, wire.Command.VERSION, 16 + len(version), 0, 0) + version)
    receive(sock)
    access = wire.REGION_ACCESS.pack(0, 7, 4)
    sock.sendall(wire.HEADER.pack(2, wire.Command.REGION_READ, 16 + len(access), 0, 0) + access)
    return receive(sock)[-4:]


def receive(sock: socket.socket) -> bytes:
    header = sock.recv(wire.HEADER.size, socket.MSG_WAITALL)
    size = wire.HEADER.unpack(header)[2]
    return sock.recv(size - wire.HEADER.size, socket.MSG_WAITALL)


def test_a_client_finds_the_card_and_another_after_it(device: Running) -> None:
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(device.card))
            assert handshake(client) == bytes.fromhex("9e106e03")
            assert device.control.call("hello")["connected"] is True
    assert device.end() == ExitStatus.CLEAN


def test_a_connected_descriptor_is_served_until_its_other_end_closes() -> None:
    ours, theirs = socket.socketpair()
    process = start(ServeOptions(fd=theirs.fileno()), pass_fds=[theirs.fileno()])
    theirs.close()
    with ours:
        assert handshake(ours) == bytes.fromhex("9e106e03")
    assert process.wait(DEADLINE) == ExitStatus.CLEAN


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.0\r\n\r\n", bytes(20)])
def test_a_connected_descriptor_that_never_agrees_ends_it_in_one_line(said: bytes) -> None:
    """Nobody else can ever come: an orphan would wait for ever."""
    ours, theirs = socket.socketpair()
    process = start(ServeOptions(fd=theirs.fileno()), pass_fds=[theirs.fileno()])
    theirs.close()
    with ours:
        ours.sendall(said)
    _, complaints = process.communicate(timeout=DEADLINE)
    assert process.returncode == ExitStatus.GUEST
    assert "the other end went before it agreed" in complaints.splitlines()[-1]
    assert "Traceback" not in complaints


def test_nobody_reading_its_complaints_does_not_end_it(tmp_path: Path) -> None:
    """A refusal is logged to standard error, which may be a pipe whose reader has gone."""
    reading, writing = os.pipe()
    options = ServeOptions(socket_path=tmp_path / "card", control=tmp_path / "control")
    command = [sys.executable, "-m", "vcapdev", "serve", *options.command_line()]
    process = subprocess.Popen(command, stderr=writing, cwd=ROOT)
    os.close(writing)
    os.close(reading)
    control = ControlClient.connect(tmp_path / "control", DEADLINE, lambda: process.poll() is None)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "card"))
        handshake(client)
        client.sendall(wire.HEADER.pack(3, 99, 16, 0, 0))
        assert struct.unpack("<HHIII", client.recv(16, socket.MSG_WAITALL))[3] & wire.FLAG_ERROR
    assert control.call("stats")["refused_messages"] == 1
    control.close()
    process.terminate()
    assert process.wait(DEADLINE) == ExitStatus.CLEAN


def test_a_listening_descriptor_is_served(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "card"))
        listener.listen()
        process = start(ServeOptions(fd=listener.fileno()), pass_fds=[listener.fileno()])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "card"))
        assert handshake(client) == bytes.fromhex("9e106e03")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == ExitStatus.CLEAN


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    options = ServeOptions(socket_path=tmp_path / "card", control=tmp_path / "control", with_parent=True)
    script = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'vcapdev', 'serve', *{options.command_line()!r}])\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    ControlClient.connect(tmp_path / "control", DEADLINE, lambda: alive(pid)).close()
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(pid), "the orphan to end")
    assert list(tmp_path.iterdir()) == []


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < end, f"waited {DEADLINE:.0f} s for {what}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (
            ServeOptions(socket_path=Path("card"), board="pv999"),
            ExitStatus.USAGE,
            "no board is called 'pv999'",
        ),
        (ServeOptions(socket_path=Path("no/such/dir/card")), ExitStatus.ENVIRONMENT, "--socket-path"),
        (ServeOptions(fd=99), ExitStatus.USAGE, "--fd 99"),
        (ServeOptions(fd=-1), ExitStatus.USAGE, "--fd -1"),
        (ServeOptions(fd=1 << 70), ExitStatus.USAGE, "is no socket"),
    ],
)
def test_it_refuses_in_one_line(
    options: ServeOptions, status: ExitStatus, words: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vcapdev", "serve", *options.command_line()]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=DEADLINE, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == status
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
