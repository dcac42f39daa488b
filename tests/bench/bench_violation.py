# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon a violation is on the terminal.

The driver that unpins too early makes the very first transfer a bad one, so it is less than from the end of
the boot, when the capture program is started, to the first line of the finding.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

_RUNS = 3
_FRAMES = "10"
_FOUND = "vcapdev: not-pinned (V3)"


def measure() -> dict[str, float]:
    """Median of a few runs, in seconds."""
    return {"seconds": statistics.median(_one() for _ in range(_RUNS))}


def _one() -> float:
    command = [sys.executable, "-m", "vcapdev", "run", "--mutant", "early-unpin", "--frames", _FRAMES]
    command += ["--swap", "none"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        booted = found = 0.0
        for line in process.stderr:
            if line.startswith("boot "):
                booted = time.monotonic()
            elif line.startswith(_FOUND) and not found:
                found = time.monotonic()
    if not booted or not found:
        raise RuntimeError(f"the altered driver was not caught: exit status {process.returncode}")
    return found - booted


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:18} {value:10.2f}")
