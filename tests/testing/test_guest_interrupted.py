# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the machine: whatever ends a session of pytest, nothing of its guests and cards stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest

# Where these tests are a shell's background job, an interrupt is ignored unless somebody wants it.
LISTENING = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
ROOT = Path(__file__).parents[2]
DEADLINE = 240.0  # seconds for a session to come up, or to end
TEST = """
from pathlib import Path
import vcapdev

def test_endless(guest):
    Path("up").touch()
    guest.run("sleep 1000", timeout=1000)
"""


def left_behind(tag: str) -> list[int]:
    """Processes that have the tag in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if tag.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running(number: signal.Signals, tmp_path: Path) -> None:
    tag = f"VCAPDEV_TEST_TAG={uuid.uuid4()}"
    (tmp_path / "test_endless.py").write_text(TEST)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), tag.split("=")[0]: tag.split("=")[1]}
    options = ["-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider", "test_endless.py"]
    words = ["-c", f"{LISTENING}; import pytest; sys.exit(pytest.main({options!r}))"]
    session = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + DEADLINE
        while not (tmp_path / "up").exists():
            assert session.poll() is None, session.communicate()[0]
            assert time.monotonic() < end, "the session did not come up"
            time.sleep(0.05)
        assert len(left_behind(tag)) > 1
        session.send_signal(number)
        said = session.communicate(timeout=DEADLINE)[0]
    finally:
        session.kill()
    if number == signal.SIGINT:
        assert session.returncode == pytest.ExitCode.INTERRUPTED, said
        assert "KeyboardInterrupt" in said
    end = time.monotonic() + DEADLINE
    while left_behind(tag) and time.monotonic() < end:
        time.sleep(0.05)
    assert left_behind(tag) == []
