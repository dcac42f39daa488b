# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects that a QEMU is always ended and leaves nothing behind, with a program that plays QEMU.

The stand-in is a Python script that opens the sockets of its command line, and misbehaves as it is told.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from vcapdev.errors import GuestError, SetupError
from vcapdev.vm.commandline import VmConfig
from vcapdev.vm.machine import Vm
from vcapdev.vm.watch import GuestCrash

STAND_IN = textwrap.dedent(
    """
    import json, os, selectors, signal, socket, sys
    behaviour, words = sys.argv[1], sys.argv[2:]
    if behaviour == "dies":
        sys.exit("qemu: no such machine")
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    def listen(path):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen(1)
        return sock
    paths = [w.split("path=")[1].split(",")[0] for w in words if w.startswith("socket,id=agent")]
    paths += [w[5:].split(",")[0] for w in words if w.startswith("unix:")]
    agent, qmp, _ = [listen(path) for path in paths]
    control, _ = qmp.accept()
    control.sendall(b'{"QMP": {}}\\n')
    for line in control.makefile():
        command = json.loads(line)
        if command["execute"] == "quit" and behaviour in ("deaf", "silent"):
            continue
        control.sendall(json.dumps({"return": {}, "id": command["id"]}).encode() + b"\\n")
        if command["execute"] == "quit":
            break
        if behaviour == "panics":
            event = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}
            control.sendall(json.dumps(event).encode() + b"\\n")
        if behaviour == "vanishes":
            os.kill(os.getpid(), signal.SIGKILL)
    """
)


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Vm]]:
    monkeypatch.setattr("vcapdev.vm.machine._QUIT", 0.3)
    script = tmp_path / "qemu.py"
    script.write_text(STAND_IN)
    made: list[Vm] = []

    def make(behaviour: str) -> Vm:
        work = tmp_path / "w"
        work.mkdir()
        qemu = SimpleNamespace(argv=[sys.executable, str(script), behaviour])
        made.append(
            Vm(
                VmConfig(
                    qemu=qemu,
                    accel="tcg",
                    kernel=Path("k"),
                    initrd=Path("i"),
                    workdir=work,
                    swap="disk",
                    swap_disk=work / "swap",
                )
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.stop()


def gone(pid: int | None) -> bool:
    return pid is not None and not Path(f"/proc/{pid}").exists()


def left_behind(vm: Vm) -> set[str]:
    return {path.name for path in vm.config.workdir.iterdir()}


@pytest.mark.parametrize("behaviour", ["obeys", "silent", "deaf"])
@pytest.mark.parametrize("ask", [True, False])
def test_stop_ends_every_qemu(vm, behaviour: str, ask: bool) -> None:
    guest = vm(behaviour)
    guest.start()
    assert guest.state == "booting"
    assert guest.config.swap_disk.stat().st_size == guest.config.swap_disk_mib << 20
    guest.stop(ask=ask)
    assert gone(guest.pid)
    assert guest.state == "stopped"
    assert left_behind(guest) == {"qemu.log"}
    guest.stop()


def test_a_qemu_that_ends_at_once_is_told_with_its_last_words(vm) -> None:
    guest = vm("dies")
    with pytest.raises(GuestError, match="QEMU ended with status 1 at its start; qemu: no such machine"):
        guest.start()
    assert left_behind(guest) == {"qemu.log"}


def test_a_qemu_that_is_killed_ends_the_wait(vm) -> None:
    guest = vm("vanishes")
    with pytest.raises(GuestError, match=r"QEMU was killed by SIGKILL|closed the channel"):
        _run_until_error(guest)


def test_a_guest_that_resets_itself_is_crashed(vm) -> None:
    guest = vm("panics")
    with pytest.raises(GuestCrash, match="rebooted by itself"):
        _run_until_error(guest)
    assert guest.state == "crashed"


def _run_until_error(guest: Vm) -> None:
    guest.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        guest.check()
        time.sleep(0.01)
    pytest.fail("nothing was noticed within 20 s")


def test_a_program_that_is_not_there(vm) -> None:
    guest = vm("obeys")
    guest.config.qemu = SimpleNamespace(argv=["/nonexistent/qemu"])
    with pytest.raises(SetupError, match=r"cannot run QEMU \(/nonexistent/qemu\): No such file"):
        guest.start()


def test_a_swap_disk_of_the_users_own_is_left_alone(vm) -> None:
    guest = vm("obeys")
    guest.config.swap_disk.write_bytes(b"mine")
    guest.start()
    guest.stop()
    assert guest.config.swap_disk.read_bytes() == b"mine"


def test_qemu_dies_with_the_process_that_started_it(vm, tmp_path: Path) -> None:
    guest = vm("deaf")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        guest.start()
        os.write(write_end, str(guest.pid).encode())
        os.kill(os.getpid(), 9)
    os.close(write_end)
    pid = int(os.read(read_end, 32))
    os.close(read_end)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 10
    while not (gone(pid) or "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]):
        assert time.monotonic() < deadline, "QEMU outlived its parent"
        time.sleep(0.01)
