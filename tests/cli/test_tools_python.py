# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/python on a machine that lacks something: one line each, with what to do, and nothing left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "python"
ALWAYS_THERE = (
    *("bash", "sh", "cat", "cut", "date", "dirname", "du", "flock", "grep", "ln", "mkdir", "mv", "rm", "sed"),
    *("sha256sum", "tail", "touch"),
)
PIP = {
    "network": """echo "WARNING: Retrying (total=0) after connection broken by 'NewError('<pip.C at 0x1>: \
Failed to establish a new connection: [Errno -3] No name')': /simple/numpy/" >&2
echo 'ERROR: No matching distribution found for numpy' >&2""",
    "disk": "echo 'ERROR: Could not install due to an OSError: [Errno 28] No space left on device' >&2",
    "other": "echo 'WARNING: many' >&2; echo 'ERROR: no such version' >&2",
}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory for PATH with the tools of the smallest Debian, and nothing else."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in ALWAYS_THERE:
        found = shutil.which(name)
        assert found is not None
        (path / name).symlink_to(found)
    return path


def run(path: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), "HOME": str(path.parent), "VCAPDEV_CACHE": str(path.parent / "cache")}
    return subprocess.run(
        ["bash", SCRIPT, "-c", "pass"], env=environment, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL, executable=shutil.which("bash"),
    )  # fmt: skip


def script(path: Path, text: str = "") -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def fake_machine(path: Path, pip: str) -> None:
    """All tools, and a Python whose virtual environments hold a pip that fails."""
    for name in ("make", "patch", "apt-get", "dpkg-deb"):
        script(path / name)
    script(path / "gcc", "cat > /dev/null")  # it is given a program, and the pipe must not break
    script(path.parent / "pip", f': > "$TMPDIR/left"; {pip}\nexit 1')
    venv = f'mkdir -p "$3/bin"; ln -s {path.parent}/pip "$3/bin/python"'
    script(path / "python3", f'case $1 in -) exec {sys.executable} "$@" ;; -m) {venv} ;; esac')


@pytest.mark.parametrize(
    ("user", "sudo", "command"),
    [
        (0, True, "apt install {}"),
        (0, False, "apt install {}"),
        (1000, True, "sudo apt install {}"),
        (1000, False, "su -c 'apt install {}'"),
    ],
)
def test_all_that_is_missing_is_named_in_one_command(bare: Path, user: int, sudo: bool, command: str) -> None:
    script(bare / "id", f"echo {user}")
    if sudo:
        script(bare / "sudo")
    result = run(bare)
    assert result.returncode == 20
    wanted = "python3 python3-venv gcc libc6-dev make patch apt dpkg"
    assert result.stderr == f"vcapdev: this machine lacks {wanted}; install with: {command.format(wanted)}\n"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("network", "(Failed to establish a new connection: [Errno -3] No name); check network"),
        ("disk", "no space left for the cache at "),
        ("other", "(no such version); check network"),
    ],
)
def test_a_pip_that_fails_is_explained_in_one_line(bare: Path, what: str, said: str) -> None:
    fake_machine(bare, PIP[what])
    result = run(bare)
    assert result.returncode == 20
    first, last = result.stderr.splitlines()
    assert "setting up Python packages" in first
    assert said in last
    assert list((bare.parent / "cache" / "venv").iterdir()) == []
