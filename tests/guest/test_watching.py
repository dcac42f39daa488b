# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev watch`` with the real compiler and a guest: a bug is red moments after it was saved."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vcapdev.image.cache import Cache
from vcapdev.image.mutants import find_mutant
from vcapdev.image.parts import prepare_build
from vcapdev.image.recipe import load_recipe
from vcapdev.image.sources import driver_sources, kernel_version
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare

pytestmark = pytest.mark.guest

KERNEL = "bookworm-6.1"
DEADLINE = 240.0  # seconds for one round; 4 on an idle machine


def wait_for_round(output: Path, process: subprocess.Popen[bytes], number: int) -> str:
    """What was shown of a round."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        rounds = re.split(r"watching \d+ files.*\n", output.read_text())
        if len(rounds) > number:
            return rounds[number - 1]
        assert process.poll() is None, output.read_text()
        time.sleep(0.1)
    raise AssertionError(f"no end of round {number} within {DEADLINE:g} s: {output.read_text()}")


def test_a_bug_is_red_moments_after_it_was_saved(tmp_path: Path) -> None:
    kernel = kernel_version(prepare(RunOptions(kernel=KERNEL), Silent()).guest)
    source = driver_sources(load_recipe(KERNEL), kernel, Silent(), Cache())
    own, output = tmp_path / "own", tmp_path / "output"
    prepare_build(source, own, ["videobuf-dma-sg"])
    diff = find_mutant("early-unpin").diff
    assert diff is not None
    words = ["watch", "--module", str(own), "--kernel", KERNEL, "-k", "=capture-mmap"]
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "vcapdev", *words], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        assert "\nok    capture-mmap" in wait_for_round(output, process, 1)
        subprocess.run(["patch", "-s", "-p4", "-i", str(diff.absolute())], cwd=own, check=True)
        red = wait_for_round(output, process, 2)
        assert "\nFAIL  capture-mmap" in red
        assert "not-pinned (V3)" in red
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 10, "the status is that of the last round"
        assert sorted(path.name for path in own.iterdir()) == ["Kbuild", "videobuf-dma-sg.c"], (
            "left as it was"
        )
    finally:
        process.terminate()
        process.wait(DEADLINE)
