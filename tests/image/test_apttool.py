# SPDX-License-Identifier: GPL-2.0-or-later
"""Tools of apt and dpkg end with us, children included, and what they say becomes one line."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from vcapdev.image.apttool import end_group, explain, run_tool
from vcapdev.image.cache import remove_tree

_DEADLINE = 30.0  # seconds


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has, whoever is to reap it)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def wait_for(pids: Path) -> list[int]:
    end = time.monotonic() + _DEADLINE
    while not (pids.is_file() and len(pids.read_text().split()) == 2):
        assert time.monotonic() < end, "the tool did not start"
        time.sleep(0.01)
    return [int(word) for word in pids.read_text().split()]


def tool(pids: Path) -> list[str]:
    """A tool that dies of SIGTERM, unlike its child, as dpkg-deb does."""
    return ["sh", "-c", f"(trap '' TERM; exec sleep 600) & echo $$ $! > {pids}; wait"]


def test_a_group_ends_with_those_that_ignore_sigterm(tmp_path: Path) -> None:
    process = subprocess.Popen(tool(tmp_path / "pids"), start_new_session=True)
    both = wait_for(tmp_path / "pids")
    end_group(process)
    end = time.monotonic() + _DEADLINE
    while not all(map(gone, both)):
        assert time.monotonic() < end, "a process was left running"
        time.sleep(0.01)
    end_group(process)  # harmless when repeated


def test_an_interrupted_tool_leaves_nothing_running(tmp_path: Path) -> None:
    both: list[int] = []

    def interrupt() -> None:
        both.extend(wait_for(tmp_path / "pids"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tool(tool(tmp_path / "pids"), os.environ, tmp_path, interrupt)
    end = time.monotonic() + _DEADLINE
    while not all(map(gone, both)):
        assert time.monotonic() < end, "a process was left running"
        time.sleep(0.01)


def test_a_tree_that_still_grows_is_removed(tmp_path: Path) -> None:
    """As after kill -9 of vcapdev, whose unpacking goes on for a moment."""
    tree = tmp_path / "tree"
    tree.mkdir()
    script = "i=0; while [ $i -lt 400 ]; do mkdir -p $0/$i 2> /dev/null; : > $0/$i/file; i=$((i+1)); done"
    with subprocess.Popen(["sh", "-c", script, str(tree)], stderr=subprocess.DEVNULL) as unpacking:
        remove_tree(tree)
        unpacking.wait(_DEADLINE)
    remove_tree(tree)
    assert not tree.exists()


def test_no_route_is_no_missing_suite(tmp_path: Path) -> None:
    """apt's error output alone reads as if the mirror had no such suite."""
    err = "E: The repository 'http://192.0.2.1/debian bookworm Release' does not have a Release file.\n"
    out = "Err:2 http://192.0.2.1/debian bookworm Release\n  Cannot initiate the connection to 192.0.2.1:80"
    out += " (192.0.2.1). - connect (101: Network is unreachable)\n"
    assert "no network" in str(explain(err + out, tmp_path, "the package indexes"))
    assert "lacks a suite" in str(explain(err + "Err:2 http://a b\n  404  Not Found", tmp_path, "it"))
