# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole path with a guest: frames per second, what the device process costs, and whether it grows.

Every page of every write is checked in all of them. On the fast clock every tenth frame is compared in full,
the others by their tags. Those runs are judged by MMAP, so that the card is measured and not the guest's
pinning (a USERPTR buffer is pinned anew, page by page, whenever the program hands over another one); what
USERPTR makes of it is told beside them. At the real rate both ways are judged: by MMAP programs and pages
come again, by USERPTR every frame brings new ones. These runs are as long as it takes for what happens once
(the driver's books are found, each buffer of the pool is seen for the first time) to count for what it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_KINDS = (
    # name, clock, format, io, frames
    ("paced_yuyv", "paced", "YUYV", "userptr", 750),
    ("paced_rgb4", "paced", "RGB4", "userptr", 750),
    ("paced_yuyv_mmap", "paced", "YUYV", "mmap", 250),
    ("paced_rgb4_mmap", "paced", "RGB4", "mmap", 250),
    ("fast_yuyv", "fast", "YUYV", "mmap", 1500),
    ("fast_rgb4", "fast", "RGB4", "mmap", 1500),
    ("fast_yuyv_userptr", "fast", "YUYV", "userptr", 1500),
    ("fast_rgb4_userptr", "fast", "RGB4", "userptr", 1500),
)


def measure() -> dict[str, float]:
    """Twelve runs of ``vcapdev run`` without memory pressure."""
    figures: dict[str, float] = {"bad_frames": 0}
    for name, clock, fourcc, io, frames in _KINDS:
        report = _run(clock, fourcc, frames, io)
        seen = report["frames"]
        figures["bad_frames"] += seen["damaged"] + seen["torn"]
        figures[f"{name}_fps"] = seen["per_second"]
        figures[f"{name}_cpu"] = report["device"]["cpu_share"]
    # Caches fill up during the first few thousand frames; from then on nothing may grow.
    for fourcc in ("YUYV", "RGB4"):
        short, long = (
            _run("fast", fourcc, frames, "userptr")["device"]["memory_mb"] for frames in (10_000, 20_000)
        )
        figures[f"memory_{fourcc.lower()}_mb"] = long
        figures[f"memory_{fourcc.lower()}_growth_mb"] = long - short
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
    dma = report["dma"]
    if report["exit_status"] or report["verdicts"] or dma["unchecked"] or not dma["pages_checked"]:
        raise RuntimeError(f"a figure of a run that is not clean: {report['sentence']}")
    return report


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:18} {value:10.2f}")
