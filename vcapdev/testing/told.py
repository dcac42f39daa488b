# SPDX-License-Identifier: GPL-2.0-or-later
"""What a long step says while pytest keeps all output to itself: a line on its terminal when it begins."""

from __future__ import annotations

import pytest


class Told:
    """A sink for progress (``vcapdev.progress.Progress``), silent where there is no terminal (xdist)."""

    def __init__(self, config: pytest.Config) -> None:
        self._reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._capture = config.pluginmanager.get_plugin("capturemanager")

    def start(self, label: str, total: int | None = None, unit: str = "B") -> None:
        """A step begins."""
        if self._reporter is None:
            return
        if self._capture is None:
            self._reporter.write_line(f"vcapdev: {label} ...")
            return
        with self._capture.global_and_fixture_disabled():
            self._reporter.ensure_newline()
            self._reporter.write_line(f"vcapdev: {label} ...")

    def advance(self, done: int) -> None:
        """Nothing: a line for each step will do."""

    def finish(self, note: str = "") -> None:
        """Nothing."""
