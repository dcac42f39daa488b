# SPDX-License-Identifier: GPL-2.0-or-later
"""For all tests: hypothesis measures no time (a busy machine fails nothing); how long all took is kept."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("vcapdev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vcapdev")
_BEGAN = time.monotonic()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where all tests ran and passed, note how long that took: ``make bench`` tells it (bench_suite.py)."""
    config = session.config
    chosen = ("keyword", "markexpr", "collectonly", "lf", "deselect", "ignore", "ignore_glob")
    whole = config.args == config.getini("testpaths") and not any(map(config.getoption, chosen))
    if whole and exitstatus == 0 and not hasattr(config, "workerinput") and hasattr(config, "cache"):
        record = {"seconds": time.monotonic() - _BEGAN, "tests": session.testscollected}
        config.cache.set("vcapdev/whole_suite", record)
