# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects temporary directories: gone after any end, and nothing else ever taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vcapdev.workdir import MARK, sweep, workdir

HOLDER = """
from vcapdev.workdir import workdir
with workdir("test") as work:
    (work / "swap").write_text("x")
    print(work, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def holder() -> tuple[subprocess.Popen[str], Path]:
    """Another process that has a directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_gone_after_its_time(place: Path) -> None:
    with workdir("test") as work:
        assert work.parent == place
        assert work.name.startswith("vcaptest-")
        assert work.stat().st_mode & 0o777 == 0o700
        (work / "deep").mkdir()
    with pytest.raises(KeyError), workdir():
        raise KeyError
    assert list(place.iterdir()) == []


def test_what_a_killed_process_has_left_goes_with_the_next(place: Path) -> None:
    process, left = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]
    assert (left / "swap").exists()
    with workdir() as work:
        assert list(place.iterdir()) == [work]


def test_what_lives_stays(place: Path) -> None:
    """Directories of this process, of others, and any that are none of ours, however they are called."""
    (place / "vcapdev-notes").mkdir()
    (place / "vcapdev-notes" / "diary").touch()
    (place / "mine").mkdir()
    (place / "mine" / MARK).touch()
    process, theirs = holder()
    with workdir() as work:
        sweep()
        assert {path.name for path in place.iterdir()} == {theirs.name, work.name, "mine", "vcapdev-notes"}
    process.communicate("\n")
    assert process.returncode == 0
    assert {path.name for path in place.iterdir()} == {"mine", "vcapdev-notes"}


def test_a_mark_that_is_a_link_is_not_followed(place: Path) -> None:
    (place / "vcapdev-1").mkdir()
    (place / "vcapdev-1" / MARK).symlink_to(place / "precious")
    (place / "precious").touch()
    sweep()
    assert (place / "vcapdev-1").exists()


def test_those_of_other_users_are_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "vcapdev-1").mkdir()
    (place / "vcapdev-1" / MARK).touch()
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    sweep()
    assert (place / "vcapdev-1").exists()
