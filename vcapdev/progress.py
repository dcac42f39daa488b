# SPDX-License-Identifier: GPL-2.0-or-later
"""What a long step says while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Protocol, TextIO


class Progress(Protocol):
    """A sink for the progress of one step after another."""

    def start(self, label: str, total: int | None = None, unit: str = "B") -> None:
        """Begin a step; ``total`` is in ``unit`` ("B" is shown as MB), None when it is not known."""

    def advance(self, done: int) -> None:
        """Tell how much of the step is done by now, absolutely."""

    def finish(self, note: str = "") -> None:
        """End the step; ``note`` is shown in its place."""


class Silent:
    """A progress sink that says nothing."""

    def start(self, label: str, total: int | None = None, unit: str = "B") -> None:
        pass

    def advance(self, done: int) -> None:
        pass

    def finish(self, note: str = "") -> None:
        pass


class Terminal:
    """A bar redrawn in place on a terminal; one line at start and end of a step elsewhere."""

    WIDTH = 30

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._label = ""
        self._total: int | None = None
        self._unit = "B"
        self._shown = ""

    def start(self, label: str, total: int | None = None, unit: str = "B") -> None:
        self._label, self._total, self._unit, self._shown = label, total, unit, ""
        if self._live:
            self.advance(0)
        else:
            self._write(f"{label} ...\n")

    def advance(self, done: int) -> None:
        if not self._live:
            return
        line = f"\r\033[K{self._label} {self._bar(done)}"
        if line != self._shown:
            self._shown = line
            self._write(line)

    def finish(self, note: str = "") -> None:
        text = f"{self._label}: {note or 'done'}\n"
        self._write(f"\r\033[K{text}" if self._live else text)

    def _bar(self, done: int) -> str:
        if not self._total:
            return self._amount(done)
        part = min(1.0, done / self._total)
        filled = int(part * self.WIDTH)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        return f"[{bar}] {part:4.0%} {self._amount(done)} of {self._amount(self._total)}"

    def _amount(self, value: int) -> str:
        return f"{value / 1e6:.1f} MB" if self._unit == "B" else f"{value} {self._unit}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
