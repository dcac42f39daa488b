# SPDX-License-Identifier: GPL-2.0-or-later
""".ci/run: the tests run whatever fails before them, what failed is named, and is the status in the end."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("lint", "scenarios", "tests", "status"),
    [(0, 0, 0, 0), (2, 0, 0, 2), (0, 10, 0, 10), (2, 10, 0, 10), (0, 0, 1, 1), (2, 0, 1, 1)],
)
def test_every_failure_counts_and_hides_nothing(
    tmp_path: Path, lint: int, scenarios: int, tests: int, status: int
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    stubs = {
        "bin/make": f'echo "make $1"; if [ "$1" = lint ]; then exit {lint}; else exit {tests}; fi',
        "tools/python": f"echo scenarios; exit {scenarios}",
    }
    for path, text in stubs.items():
        stub = tmp_path / path
        stub.parent.mkdir()
        stub.write_text(f"#!/bin/sh\n{text}\n")
        stub.chmod(0o755)
    done = subprocess.run(
        [tmp_path / ".ci/run"], env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, text=True, capture_output=True,
        timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == status
    assert done.stdout.split("\n") == ["make lint", "scenarios", "make test", ""], "the tests come last"
    steps = (("make lint", lint), ("scenarios", scenarios))
    named = [f"{name} (status {code})" for name, code in steps if code]
    assert done.stderr.splitlines() == [f".ci/run: failed, see above: {each}" for each in named]
