# SPDX-License-Identifier: GPL-2.0-or-later
"""How long ``make test`` took when it last ran here, all of it; tests/conftest.py wrote it down.

Nothing is run: the figure is there only where the whole suite has passed in this checkout.
"""

from __future__ import annotations

import json
from pathlib import Path

RECORD = Path(__file__).parents[2] / ".pytest_cache/v/vcapdev/whole_suite"


def measure() -> dict[str, float]:
    """Minutes and tests of the last whole suite; nothing where there was none."""
    if not RECORD.is_file():
        print("  no `make test` has passed here yet")
        return {}
    record = json.loads(RECORD.read_text())
    return {"minutes": record["seconds"] / 60, "tests": record["tests"]}


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:18} {value:10.2f}")
