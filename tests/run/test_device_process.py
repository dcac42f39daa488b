# SPDX-License-Identifier: GPL-2.0-or-later
"""The device process as a child of a run: started, asked, ended; and its death told as it was."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.run.device import DeviceProcess
from vcapdev.serve.client import DeviceGoneError
from vcapdev.serve.options import ServeOptions


def make(directory: Path, **options: str) -> DeviceProcess:
    sockets = {"socket_path": directory / "card", "control": directory / "control"}
    return DeviceProcess(ServeOptions(**sockets, with_parent=True, **options), directory / "log")  # type: ignore[arg-type]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[DeviceProcess]:
    with make(tmp_path) as device:
        device.start()
        yield device


def test_it_answers_and_ends(device: DeviceProcess, tmp_path: Path) -> None:
    assert device.call("hello")["pid"] == device.pid
    assert device.running
    cpu, memory = device.usage()
    assert cpu > 0
    assert memory > 1 << 20
    device.stop()
    device.stop()
    assert not device.running
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_its_violent_death_is_named(device: DeviceProcess) -> None:
    assert device.pid is not None
    os.kill(device.pid, signal.SIGKILL)
    with pytest.raises(DeviceGoneError, match="the device process was killed by SIGKILL"):
        device.call("hello")
    with pytest.raises(DeviceGoneError, match="was killed by SIGKILL"):
        device.events()
    with pytest.raises(DeviceGoneError, match="was killed by SIGKILL"):
        device.check()
    device.stop()
    assert device.usage() == (0.0, 0)


def test_what_it_refuses_at_its_start_is_our_error(tmp_path: Path) -> None:
    with make(tmp_path, board="pv999") as device, pytest.raises(UsageError, match="no board is called"):
        device.start()


def test_a_process_that_never_opens_its_channel_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vcapdev.run.device._START", 0.2)
    monkeypatch.setattr(
        DeviceProcess, "command_line", lambda self: [sys.executable, "-c", "import time; time.sleep(600)"]
    )
    with make(tmp_path) as device:
        with pytest.raises(DeviceGoneError, match="did not open"):
            device.start()
        assert device.running
    assert not device.running


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import signal, socket, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); c, _ = s.accept()\n"
        'c.recv(1000); c.sendall(b\'{"id":1,"ok":true,"result":{}}\\n\'); time.sleep(600)\n'
    )
    monkeypatch.setattr("vcapdev.run.device._QUIT", 0.2)
    monkeypatch.setattr(
        DeviceProcess, "command_line", lambda self: [sys.executable, "-c", script, str(tmp_path / "control")]
    )
    with make(tmp_path) as device:
        device.start()
        assert device.running
    assert not device.running
