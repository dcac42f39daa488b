# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run shows while it goes: one line a stage with its time, one live line, findings as they come."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from vcapdev.progress import Terminal

_QUIET_EVERY = 5.0  # seconds between two live lines where there is no terminal


class Screen:
    """Writes to ``stream`` (default: standard error, so that standard output holds only the summary)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._live = False
        self._next_live = 0.0
        self.stages: dict[str, float] = {}  # seconds each stage took
        self.progress = Terminal(self._stream)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a stage; its line is printed when it ends well, with the stage's ``note``."""
        stage, begin = Stage(), time.monotonic()
        try:
            yield stage
        finally:
            self.stages[name] = round(time.monotonic() - begin, 3)
            self._clear()
        self._write(f"{name:<8} {self.stages[name]:6.1f} s  {stage.note}\n")

    def live(self, text: str) -> None:
        """Replace the live line; without a terminal, print one now and then."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\033[K{text[:width]}")
            self._live = True
        elif time.monotonic() >= self._next_live:
            self._next_live = time.monotonic() + _QUIET_EVERY
            self._write(text + "\n")

    def show(self, text: str) -> None:
        """Print lines that stay, above the live line."""
        self._clear()
        self._write(text.rstrip("\n") + "\n")

    def _clear(self) -> None:
        if self._live:
            self._live = False
            self._write("\r\033[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Stage:
    """A stage under way; ``note`` says in a few words what came of it."""

    note = ""
