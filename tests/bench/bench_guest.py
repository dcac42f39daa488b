# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole path with a guest: frames per second, what the device process costs, and whether it grows.

Every page of every write is checked in all of them. On the fast clock every tenth frame is compared in full,
the others by their tags. Those runs capture by MMAP, so that the card is measured and not the guest's pinning
(a USERPTR buffer is pinned anew, page by page, whenever the program hands over another one).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def measure() -> dict[str, float]:
    """Six runs of ``vcapdev run`` without memory pressure."""
    figures: dict[str, float] = {"bad_frames": 0}
    for clock, fourcc in (("paced", "YUYV"), ("paced", "RGB4"), ("fast", "YUYV"), ("fast", "RGB4")):
        report = _run(
            clock, fourcc, 250 if clock == "paced" else 1000, "userptr" if clock == "paced" else "mmap"
        )
        seen = report["frames"]
        figures["bad_frames"] += seen["damaged"] + (seen["torn"] if clock == "fast" else 0)
        figures[f"{clock}_{fourcc.lower()}_fps"] = seen["per_second"]
        figures[f"{clock}_{fourcc.lower()}_cpu"] = report["device"]["cpu_share"]
    short, long = (
        _run("fast", "YUYV", frames, "userptr")["device"]["memory_mb"] for frames in (5000, 10_000)
    )
    figures["memory_mb"], figures["memory_growth_mb"] = long, long - short
    return figures


def _run(clock: str, fourcc: str, frames: int, io: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vcapdev-bench-") as name:
        directory = Path(name) / "report"
        command = [sys.executable, "-m", "vcapdev", "run", "--clock", clock, "--format", fourcc, "--io", io]
        command += ["--frames", str(frames), "--swap", "none", "--report", str(directory)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (directory / "report.json").is_file():
            raise RuntimeError(f"no report: {result.stderr}")
        report: dict[str, Any] = json.loads((directory / "report.json").read_text("utf-8"))
        return report


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:18} {value:10.2f}")
