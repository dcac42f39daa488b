# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the end of a run of which a part is killed mid-stream: its status, its one line, and nothing left.

The command runs as a process of its own, under the pressure that is its default, and writes a report.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.serve.client import ControlClient

pytestmark = pytest.mark.guest

DEADLINE = 240.0  # seconds for anything that a run does
ROOT = Path(__file__).parents[2]
FRAMES = 5000
REPORT = {"report.json", "packages.lock", "kernel.log", "console.log", "qemu.log", "device.log"}
# The command, which kills the capture program once ten frames have come: nobody else reaches into the guest.
KILLS_CAPTURE = """
import sys
from vcapdev.cli import main
from vcapdev.run.session import Session

look = Session.show_events

def show_events(session):
    if session.capture.frames.captured >= 10:
        Session.show_events = look
        session.vm.agent.run(["killall", "-9", "vcap-capture"])
    look(session)

Session.show_events = show_events
sys.exit(main())
"""


class Running:
    """A ``vcapdev run`` whose temporary files are all in one place, and whose processes bear a mark."""

    def __init__(self, place: Path, *python: str) -> None:
        self.scratch, self.report = place / "s", place / "report"
        self.scratch.mkdir()
        self._mark = f"VCAPDEV_TEST={uuid.uuid4()}"
        name, value = self._mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, *(python or ("-m", "vcapdev")), "run", "--frames", str(FRAMES), "--report",
             str(self.report)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.scratch), name: value},
        )  # fmt: skip

    def processes(self) -> dict[int, str]:
        """All that bear the mark, by their command lines; a zombie bears none."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended meanwhile
                continue
        return found

    def pid_of(self, part: str) -> int:
        (pid,) = (pid for pid, command in self.processes().items() if part in command)
        return pid

    def wait_for_stream(self) -> None:
        """Until the card has written some frames."""
        wait_until(lambda: any(self.scratch.glob("vcapdev-*/control")) or not self.alive, "the device")
        (path,) = self.scratch.glob("vcapdev-*/control")
        control = ControlClient.connect(path, DEADLINE, lambda: self.alive)
        wait_until(lambda: not self.alive or control.call("check-status")["writes"] >= 20, "the stream")
        control.close()
        assert self.alive, self.process.communicate()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> tuple[int, str, str]:
        """Wait for the end: status and outputs; nothing of it may be left."""
        out, complaints = self.process.communicate(timeout=DEADLINE)
        wait_until(lambda: not self.processes(), "all of the run's processes to end")
        assert list(self.scratch.iterdir()) == []
        assert "Traceback" not in out + complaints
        return self.process.returncode, out, complaints


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    begun: list[Running] = []

    def begin(*python: str) -> Running:
        begun.append(Running(tmp_path, *python))
        return begun[0]

    yield begin
    for running in begun:
        if running.alive:
            running.process.kill()
            running.process.communicate()


def wait_until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < end, f"waited {DEADLINE:.0f} s for {what}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("vcapdev serve", "the device process was killed by SIGKILL"),
        ("-name vcapdev", "QEMU was killed by SIGKILL"),
        ("capture", "the capture program was killed by SIGKILL after"),
    ],
    ids=["device", "qemu", "capture"],
)
def test_a_killed_part_is_named(part: str, words: str, start: Callable[..., Running]) -> None:
    if part == "capture":
        running = start("-c", KILLS_CAPTURE)
    else:
        running = start()
        running.wait_for_stream()
        os.kill(running.pid_of(part), signal.SIGKILL)
    status, out, _ = running.end()
    assert status == ExitStatus.GUEST
    (line,) = (line for line in out.splitlines() if line.startswith("Failed: "))
    assert line.startswith(f"Failed: {words}")
    assert line.endswith("(exit status 30)")
    files = {path.name for path in running.report.iterdir()}
    assert files - {"frame.png", "frame-pages.png"} == REPORT
    told = json.loads((running.report / "report.json").read_text())
    assert told["exit_status"] == ExitStatus.GUEST
    assert told["sentence"] in line
    if part == "capture":
        assert told["frames"]["captured"] >= 10
    assert {path.name for path in running.report.parent.iterdir()} == {"s", "report"}


def test_ctrl_c_leaves_nothing(start: Callable[..., Running]) -> None:
    running = start()
    running.wait_for_stream()
    assert len(running.processes()) == 3, "the run, device and QEMU"
    os.kill(running.process.pid, signal.SIGINT)
    status, _, complaints = running.end()
    assert status == ExitStatus.GUEST
    assert complaints.strip().splitlines()[-1].startswith("vcapdev: interrupted")
    assert not running.report.exists()
