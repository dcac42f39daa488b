# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what a person does by hand: in an interactive guest, and with the lines that ``--show`` prints."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.vm.qmp import Qmp

pytestmark = pytest.mark.guest

DEADLINE = 240.0  # seconds for any step; a boot takes 5 on an idle machine
ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "vcapdev", "run"]
PROMPT = "~ # "
BT878 = 0x109E, 0x036E


class Terminal:
    """``vcapdev run --shell`` at a terminal of its own, with somebody who types."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*RUN, "--shell", "--swap", "none", "--memory", "128"], cwd=ROOT, start_new_session=True,
            stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    def wait_for(self, text: str) -> None:
        """Read until ``text`` comes; what came so far is forgotten."""
        end = time.monotonic() + DEADLINE
        while text not in self.seen:
            assert self._read(end), f"it ended before {text!r}: {self.seen}"
        self.seen = self.seen.partition(text)[2]

    def end(self) -> tuple[int, list[str]]:
        """Read until the end: exit status, and the lines since what was waited for."""
        end = time.monotonic() + DEADLINE
        while self._read(end):
            pass
        return self.process.wait(DEADLINE), self.seen.strip().splitlines()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(DEADLINE)
        os.close(self._ours)

    def _read(self, end: float) -> bool:
        """Whether there was more."""
        assert select.select([self._ours], [], [], max(0, end - time.monotonic()))[0], f"stuck: {self.seen}"
        try:
            self.seen += os.read(self._ours, 1 << 16).decode("utf-8", "replace")
        except OSError:  # nobody has the other end any more
            return False
        return True


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_a_person_captures_and_leaves(terminal: Terminal) -> None:
    terminal.wait_for(PROMPT)
    terminal.type("v4l2-ctl --stream-mmap --stream-count=5 && echo well' 'done")
    terminal.wait_for("well done")
    terminal.type("exit")
    status, lines = terminal.end()
    assert status == ExitStatus.CLEAN
    assert re.fullmatch(r"[1-9]\d+ pages checked, no findings", lines[-1]), lines


def test_a_panic_is_told_though_qemu_ends_as_if_switched_off(terminal: Terminal) -> None:
    terminal.wait_for(PROMPT)
    terminal.type("echo c > /proc/sysrq-trigger")
    status, lines = terminal.end()
    assert status == ExitStatus.GUEST
    panic = "Kernel panic - not syncing: sysrq triggered crash"
    assert lines[-1] == f"vcapdev: the guest's kernel failed (panic): {panic}"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A place whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_the_lines_that_show_prints_start_guest_and_card(scratch: Path) -> None:
    """Of a run that goes on from a snapshot. QEMU stands at the first instruction: others show boots."""
    run = subprocess.run(
        [*RUN, "--show", "--frames", "3", "--pressure", "none"], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)}, timeout=DEADLINE, check=True,
    )  # fmt: skip
    printed = run.stderr.partition("# the same by hand")[2]
    lines = re.search(r"^mkdir .*; kill \$!.*?$", printed, re.DOTALL | re.MULTILINE)
    assert lines, run.stderr
    assert list(scratch.iterdir()) == [], "the run's own directory is gone"
    script, stops = re.subn(r"(qemu-system.*)(; kill )", r"\1 -S\2", lines[0])
    assert stops == 1
    place = Path(lines[0].splitlines()[0].split()[-1])
    shell = subprocess.Popen(["bash", "-ec", script], cwd="/", start_new_session=True)
    try:
        end = time.monotonic() + DEADLINE
        while not (place / "qmp").exists():
            assert shell.poll() is None, "the lines ended before QEMU was there"
            assert time.monotonic() < end, "QEMU did not open its sockets"
            time.sleep(0.05)
        qmp = Qmp.connect(place / "qmp", end, lambda: shell.poll() is None)
        assert qmp.execute("query-status")["status"] == "prelaunch"
        (bus,) = qmp.execute("query-pci")
        identities = [(each["id"]["vendor"], each["id"]["device"]) for each in bus["devices"]]
        assert BT878 in identities, "QEMU has the card"
        qmp.execute("quit")
        qmp.close()
        shell.wait(DEADLINE)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    assert list(scratch.iterdir()) == [], "the lines clean up"
