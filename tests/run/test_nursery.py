# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects forked device processes: they are what a started one is, and end with whoever asked for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.run.device import DeviceProcess
from vcapdev.run.nursery import Nursery, NurseryError
from vcapdev.serve.options import ServeOptions

DEADLINE = 60.0


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    one = Nursery()
    yield one
    one.close()


def wait_until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, f"waited {DEADLINE:.0f} s for {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended, buried or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_child_has_its_own_log_status_and_environment(
    nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "elsewhere"))
    well = nursery.spawn(["cache", "list"], tmp_path / "well")
    ill = nursery.spawn(["serve", "--socket-path", str(tmp_path / "s"), "--board", "none"], tmp_path / "ill")
    assert (ill.wait(DEADLINE), well.wait(DEADLINE)) == (2, 0)
    assert f"in {tmp_path / 'elsewhere'}" in (tmp_path / "well").read_text()
    assert (tmp_path / "ill").read_text().startswith("vcapdev: ")


def test_a_child_is_a_leader_of_its_own_session_and_can_be_signalled(
    nursery: Nursery, tmp_path: Path
) -> None:
    child = nursery.spawn(["serve", "--socket-path", str(tmp_path / "s")], tmp_path / "log")
    wait_until(lambda: (tmp_path / "s").exists(), "its socket")
    assert os.getsid(child.pid) == child.pid
    assert child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait(DEADLINE) == -signal.SIGKILL
    child.send_signal(signal.SIGKILL)  # whoever has its number now is not meant


def test_a_forked_device_answers_and_complains_as_a_started_one(tmp_path: Path) -> None:
    options = ServeOptions(socket_path=tmp_path / "card", control=tmp_path / "control", with_parent=True)
    with DeviceProcess(options, tmp_path / "log", forked=True) as device:
        device.start()
        assert device.call("hello")["pid"] == device.pid
    assert not device.running
    wrong = ServeOptions(socket_path=tmp_path / "card", control=tmp_path / "control", board="no-such-board")
    with (
        pytest.raises(UsageError, match="no-such-board"),
        DeviceProcess(wrong, tmp_path / "log", forked=True) as device,
    ):
        device.start()


def test_a_killed_nursery_takes_its_children_along_and_is_noticed(tmp_path: Path) -> None:
    nursery = Nursery()
    child = nursery.spawn(["serve", "--socket-path", str(tmp_path / "s"), "--with-parent"], tmp_path / "log")
    wait_until(lambda: (tmp_path / "s").exists(), "its socket")
    nursery._process.kill()
    assert child.wait(DEADLINE) == -signal.SIGTERM
    wait_until(lambda: gone(child.pid), "the child's end")
    with pytest.raises(NurseryError):
        nursery.spawn(["version"], tmp_path / "log")
    nursery.close()


def test_everything_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import time; from pathlib import Path; from vcapdev.run import nursery\n"
        f"words = ['serve', '--socket-path', {str(tmp_path / 's')!r}, '--with-parent']\n"
        f"child = nursery.spawn(words, Path({str(tmp_path / 'log')!r}))\n"
        "print(nursery.warm()._process.pid, child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        wait_until(lambda: (tmp_path / "s").exists(), "the child's socket")
        parent.kill()
    for pid in pids:
        wait_until(lambda pid=pid: gone(pid), "the end of all")  # type: ignore[misc]
