# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard output and error whose reader may leave, as head(1) does: work goes on, and its status counts."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Patient(io.RawIOBase):
    """A descriptor; once nobody reads from it, what is written to it goes nowhere."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        try:
            return os.write(self._fd, data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._fd)
            os.close(nowhere)
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let both streams of this process be patient; a stream that somebody has replaced is left alone."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            patient = io.TextIOWrapper(
                io.BufferedWriter(_Patient(stream.fileno())),
                encoding=stream.encoding, errors=stream.errors, line_buffering=stream.line_buffering,
            )  # fmt: skip
            setattr(sys, name, patient)
