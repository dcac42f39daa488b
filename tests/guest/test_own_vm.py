# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects docs/howto/own-vm.md: its commands, as they stand there, put the card into one's own machine."""

from __future__ import annotations

import re
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.run.prepare import Prepared
from vcapdev.serve.client import ControlClient

pytestmark = pytest.mark.guest

DEADLINE = 240.0  # seconds for any step; the boot takes 5 on an idle machine
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/howto/own-vm.md"
CONNECTED = "03"  # SS_CONNECTED in /proc/net/unix


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the page says /tmp: others may be there at the same time."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def documented(place: Path) -> tuple[str, str]:
    """The page's commands: of the card, and of QEMU."""
    serve, qemu = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[:2]
    assert serve.startswith("tools/python -m vcapdev serve ")
    assert qemu.startswith("qemu-system-x86_64 ... ")
    return serve.replace("/tmp/", f"{place}/"), qemu.replace("/tmp/", f"{place}/")


def start(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=ROOT, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def read_until(process: subprocess.Popen[bytes], text: bytes) -> None:
    """:raise AssertionError: it does not come."""
    assert process.stdout is not None
    seen, end = b"", time.monotonic() + DEADLINE
    while text not in seen:
        assert select.select([process.stdout], [], [], max(0, end - time.monotonic()))[0], seen
        more = process.stdout.read1(1 << 16)
        assert more, seen
        seen += more


def test_the_documented_commands_capture_and_end_cleanly(place: Path, prepared: Prepared) -> None:
    """The dots of QEMU's command are a stock kernel with our userland, and a console to type at.

    There is a graphics card, which most people's machines have.
    """
    serve, qemu = documented(place)
    own = [
        "-accel",
        prepared.accel.name,
        "-cpu",
        "qemu64,+rdrand",
        "-display",
        "none",
        "-vga",
        "std",
        "-serial",
        "stdio",
    ]
    own += ["-kernel", str(prepared.kernel), "-initrd", str(prepared.initrd)]
    own += ["-append", "console=ttyS0 vcap.shell"]
    qemu = qemu.replace("qemu-system-x86_64 ...", shlex.join([*prepared.qemu.argv, *own]))
    card = start(serve)
    running = [card]
    try:
        control = ControlClient.connect(place / "control", DEADLINE, lambda: card.poll() is None)
        machine = start(qemu)
        running.append(machine)
        assert machine.stdin is not None
        read_until(machine, b"~ # ")
        machine.stdin.write(b"v4l2-ctl --stream-mmap --stream-count=5 && echo well' 'done\n")
        machine.stdin.flush()
        read_until(machine, b"well done")
        checker = control.call("check-status")
        assert checker["attached"], checker
        assert checker["pages_checked"] > 0
        assert not checker["unchecked_writes"]
        sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        assert [CONNECTED, str(place / "qmp")] in [[each[5], each[-1]] for each in sockets]
        machine.stdin.write(b"exit\n")
        machine.stdin.flush()
        read_until(machine, b"reboot: Power down")
        assert machine.wait(DEADLINE) == 0
        end = time.monotonic() + DEADLINE
        while control.call("hello")["connected"]:
            assert time.monotonic() < end, "the card has not noticed that QEMU is gone"
            time.sleep(0.05)
        control.close()
        card.send_signal(signal.SIGTERM)
        said, _ = card.communicate(timeout=DEADLINE)
        assert card.returncode == ExitStatus.CLEAN
        (line,) = said.decode().splitlines()
        assert "comes without a descriptor: for video memory use -vga none" in line, "as the page says"
        assert list(place.iterdir()) == []
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()
