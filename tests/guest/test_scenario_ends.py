# SPDX-License-Identifier: GPL-2.0-or-later
"""However scenarios end, Ctrl-C included: one line, the right status, nothing left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
DEADLINE = 240.0  # seconds for guests to come up, or for a command to end
LISTENING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job of a shell may not
)
ENDLESS = "title: no end\nsteps: [{run: sleep 1000, timeout: 900}]\n"


def tagged(tag: str) -> list[Path]:
    """What runs with the tag in its environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if tag.encode() in (entry / "environ").read_bytes():
                found.append(entry)
        except OSError:
            continue
    return found


def guests(tag: str) -> int:
    """How many of them are QEMU."""
    return sum(b"vfio-user-pci" in _words(entry) or b"-qmp" in _words(entry) for entry in tagged(tag))


def _words(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def begin(words: list[str], tag: str, where: Path) -> subprocess.Popen[str]:
    main = f"{LISTENING}; import sys; from vcapdev.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", main, *words], cwd=where, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "VCAPDEV_TEST_TAG": tag}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["scenario", "--kernel", "bookworm-6.1"], 1),
        (["scenario", "-j", "2", "--kernel", "bookworm-6.1"], 2),
        (["matrix", "-j", "2", "--kernel", "bookworm-6.1", "--kernel", "trixie-6.12"], 2),
    ],
)
def test_an_interrupt_leaves_nothing(words: list[str], count: int, tmp_path: Path) -> None:
    tag = str(uuid.uuid4())
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(ENDLESS)
    outputs = [f"--{kind}={tmp_path / 'out'}.{kind}" for kind in ("junit", "json", "html", "ktap")]
    process = begin([*words, *outputs, "one.yaml", "two.yaml"], tag, tmp_path)
    try:
        end = time.monotonic() + DEADLINE
        while guests(tag) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, f"there are {guests(tag)} guests, not {count}"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == ExitStatus.GUEST
    assert complaint.strip().splitlines()[-1].startswith("vcapdev: interrupted; nothing was left running")
    assert "Traceback" not in complaint
    end = time.monotonic() + DEADLINE
    while tagged(tag) and time.monotonic() < end:
        time.sleep(0.05)
    assert tagged(tag) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.yaml", "two.yaml"]


def test_a_kernel_that_panics_at_boot_is_told_once_and_is_no_red_driver(tmp_path: Path) -> None:
    """The driver is not loaded yet. ``vcapdev run`` ends with the same status."""
    tag = str(uuid.uuid4())
    (tmp_path / "one.yaml").write_text(
        "title: no beginning\nappend: rdinit=/no/such\nsteps: [{run: 'true'}]\n"
    )
    process = begin(["scenario", "--kernel", "bookworm-6.1", "one.yaml"], tag, tmp_path)
    try:
        said, complaint = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == ExitStatus.GUEST, said + complaint
    assert said.startswith("ERROR one@bookworm-6.1")
    key = "key: infrastructure: the guest's kernel failed (panic): Kernel panic - not syncing: VFS: Unable to"
    assert said.count(key) == 1
    assert "before the driver was loaded" in said
    assert "Traceback" not in complaint
    assert tagged(tag) == []
