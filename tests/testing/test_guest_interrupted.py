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


def gone(tag: str) -> list[int]:
    """What is left behind, once all has had its time to go."""
    end = time.monotonic() + DEADLINE
    while left_behind(tag) and time.monotonic() < end:
        time.sleep(0.05)
    return left_behind(tag)


def environment_with(tag: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), tag.split("=")[0]: tag.split("=")[1]}


@pytest.mark.parametrize(
    ("number", "more"),
    [(signal.SIGINT, []), (signal.SIGKILL, []), (signal.SIGINT, ["-n2"])],
)
def test_nothing_is_left_running(number: signal.Signals, more: list[str], tmp_path: Path) -> None:
    tag = f"VCAPDEV_TEST_TAG={uuid.uuid4()}"
    (tmp_path / "test_endless.py").write_text(TEST)
    environment = environment_with(tag)
    options = ["-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider", *more, "test_endless.py"]
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
    assert gone(tag) == []


SIDE_BY_SIDE = """
import time
from pathlib import Path
import pytest

@pytest.mark.parametrize(("own", "other"), [("a", "b"), ("b", "a")])
def test_one_of_two(guest, card, own, other, worker_id):
    guest.run(f"echo {own} > /tmp/name", check=True)
    Path(own).write_text(f"{worker_id} {guest.device.pid}")
    end = time.monotonic() + 120
    while not Path(other).exists():
        assert time.monotonic() < end, f"{other} is not there beside {own}"
        time.sleep(0.01)
    assert guest.capture(frames=4, size="320x240").intact == 4
    assert guest.pull("/tmp/name").decode().strip() == own
    card.dma.assert_clean()
"""


def test_two_workers_have_guests_of_their_own_at_the_same_time(tmp_path: Path) -> None:
    tag = f"VCAPDEV_TEST_TAG={uuid.uuid4()}"
    (tmp_path / "test_both.py").write_text(SIDE_BY_SIDE)
    words = ["-m", "pytest", "-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider", "-n2", "test_both.py"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment_with(tag), text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    (one, two) = ((tmp_path / name).read_text().split() for name in "ab")
    assert {one[0], two[0]} == {"gw0", "gw1"}
    assert one[1] != two[1]
    assert gone(tag) == []
