# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what written results say of where they come from: no other commit, no path of one machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vcapdev.gallery.provenance import command, commit, made, told


def git(where: Path, *words: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    done = subprocess.run(["git", *identity, *words], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_commit_is_told_with_the_changes_on_top_of_it(tmp_path: Path) -> None:
    assert commit(tmp_path) == "not from a git checkout"
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head[:12]
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{head[:12]}+changes"


def test_a_command_names_no_directory_of_one_machine() -> None:
    words = ["mutants", "-k", "a b", "--report", "/one/machine"]
    assert command(words) == "vcapdev mutants -k 'a b' --report machine"


def test_what_is_not_known_is_left_out() -> None:
    assert told({}) == ""
    line = told({"when": "2026-01-02", "commit": "abc", "release": "6.1.0", "qemu": "11.1", "command": "c",
                 "seconds": 61.5, "seed": 0})  # fmt: skip
    assert line == "2026-01-02, commit abc, Linux 6.1.0, QEMU 11.1, `c`, 61.5 s in all, seed 0"
    assert set(made()) == {"when", "commit", "command"}
