# SPDX-License-Identifier: GPL-2.0-or-later
"""``make bench``: every ``measure()`` of tests/bench/bench_*.py, beside the figures to reach.

Ratios are against a floor that the same benchmark takes in the same run, so that they mean the same on any
machine. With names as arguments (``bar_read field``), only those.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent

# (benchmark, figure): what to compare with, and the figure to reach.
GOALS: dict[tuple[str, str], tuple[str, float]] = {
    ("bar_read", "ratio"): ("at most", 1.3),
    # Against the same bytes copied into the same places; bench_field.py tells the other floor, too.
    ("field", "field_ratio"): ("at most", 4.0),
    # stirred_ratio has no goal, as bench_check.py says.
    ("check", "quiet_ratio"): ("at most", 0.7),
    ("attach", "first_bullseye-5.10"): ("at most", 1.5),
    ("attach", "first_bookworm-6.1"): ("at most", 1.5),
    ("attach", "first_trixie-6.12"): ("at most", 1.5),
    ("attach", "first_trixie-7.3"): ("at most", 1.5),
    ("attach", "again_bullseye-5.10"): ("at most", 0.3),
    ("attach", "again_bookworm-6.1"): ("at most", 0.3),
    ("attach", "again_trixie-6.12"): ("at most", 0.3),
    ("attach", "again_trixie-7.3"): ("at most", 0.3),
    ("layouts", "ratio_5.10"): ("at most", 2.5),
    ("layouts", "ratio_6.1"): ("at most", 2.5),
    ("layouts", "ratio_6.12"): ("at most", 2.5),
    ("layouts", "ratio_7.2"): ("at most", 2.5),
    # With the fetches of the program, and the look for released pins that ends a field: nobody's goal, but it
    # shall not grow. Two gathers take 3 us, in which Python makes thirty calls.
    ("layouts", "full_5.10"): ("at most", 6.0),
    ("layouts", "full_6.1"): ("at most", 6.0),
    ("layouts", "full_6.12"): ("at most", 6.0),
    ("layouts", "full_7.2"): ("at most", 6.0),
    ("guest", "paced_yuyv_fps"): ("at least", 24.9),
    ("guest", "paced_rgb4_fps"): ("at least", 24.9),
    ("guest", "paced_yuyv_cpu"): ("at most", 0.15),
    ("guest", "paced_rgb4_cpu"): ("at most", 0.15),
    ("guest", "paced_yuyv_mmap_cpu"): ("at most", 0.15),
    ("guest", "paced_rgb4_mmap_cpu"): ("at most", 0.15),
    ("guest", "fast_yuyv_fps"): ("at least", 300),
    ("guest", "fast_rgb4_fps"): ("at least", 250),
    ("guest", "bad_frames"): ("at most", 0),
    ("guest", "memory_yuyv_mb"): ("at most", 200),
    ("guest", "memory_yuyv_growth_mb"): ("at most", 1),
    ("guest", "memory_rgb4_mb"): ("at most", 200),
    ("guest", "memory_rgb4_growth_mb"): ("at most", 1),
    ("run", "started"): ("at most", 2.0),
    ("run", "seconds"): ("at most", 40.0),
    ("suite", "minutes"): ("at most", 10.0),
    ("violation", "seconds"): ("at most", 2.0),
    ("start", "first_frame"): ("at most", 1.0),
    ("start", "tests_a_minute"): ("at least", 60),
}


def main(names: list[str]) -> int:
    """Run the benchmarks; 1 when a figure is not reached."""
    missed = 0
    for path in sorted(HERE.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        if names and name not in names:
            continue
        print(name, flush=True)
        for figure, value in _load(path)().items():
            reached, text = _compare((name, figure), value)
            missed += not reached
            print(f"  {figure:<20} {value:10.2f}  {text}".rstrip(), flush=True)
    print(f"{missed} figure(s) not reached" if missed else "all figures reached")
    return 1 if missed else 0


def _compare(key: tuple[str, str], value: float) -> tuple[bool, str]:
    if key not in GOALS:
        return True, ""
    word, goal = GOALS[key]
    reached = value <= goal if word == "at most" else value >= goal
    return reached, f"({word} {goal:g}: {'yes' if reached else 'NO'})"


def _load(path: Path) -> Callable[[], dict[str, float]]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    measure: Callable[[], dict[str, float]] = module.measure
    return measure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
