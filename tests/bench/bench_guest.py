# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole path with a guest: frames per second, what the device process costs, and whether it grows.

Every page of every write is checked in all of them. On the fast clock every tenth frame is compared in full,
the others by their tags.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def measure() -> dict[str, float]:
    """Five runs of ``vcapdev run`` without memory pressure."""
    figures: dict[str, float] = {"bad_frames": 0}
    for clock, fourcc, frames in (
        ("real", "YUYV", 250),
        ("real", "RGB4", 250),
        ("fast", "YUYV", 1000),
        ("fast", "RGB4", 1000),
        ("fast", "YUYV", 10_000),
    ):
        report = _run(clock, fourcc, frames)
        seen = report["frames"]
        figures["bad_frames"] += seen["torn"] + seen["damaged"]
        if frames == 10_000:
            figures["memory_growth_mb"] = report["device"]["memory_mb"] - figures["memory_mb"]
            continue
        figures[f"{clock}_{fourcc.lower()}_fps"] = seen["per_second"]
        figures[f"{clock}_{fourcc.lower()}_cpu"] = report["device"]["cpu_share"]
        if (clock, fourcc) == ("fast", "YUYV"):
            figures["memory_mb"] = report["device"]["memory_mb"]
    return figures


def _run(clock: str, fourcc: str, frames: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vcapdev-bench-") as name:
        directory = Path(name) / "report"
        command = [sys.executable, "-m", "vcapdev", "run", "--clock", clock, "--format", fourcc]
        command += ["--frames", str(frames), "--swap", "none", "--report", str(directory)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (directory / "report.json").is_file():
            raise RuntimeError(f"no report: {result.stderr}")
        report: dict[str, Any] = json.loads((directory / "report.json").read_text("utf-8"))
        return report


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:18} {value:10.2f}")
