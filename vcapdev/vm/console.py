# SPDX-License-Identifier: GPL-2.0-or-later
"""Follows the file that QEMU writes the guest's serial console to."""

from __future__ import annotations

from pathlib import Path

_READ_AT_MOST = 1 << 20  # bytes a poll, so that a guest that floods its console does not hold its watcher


class ConsoleTail:
    """The lines that a growing file gained since the last look."""

    def __init__(self, path: Path) -> None:
        """Follow ``path``, which need not exist yet."""
        self.path = path
        self._offset = 0
        self._partial = b""

    def poll(self) -> list[str]:
        """New complete lines, without their ends; bytes that are no UTF-8 are replaced."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_READ_AT_MOST)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-4096:]
        return [line.decode("utf-8", "replace").rstrip("\r") for line in lines]

    def last_lines(self, count: int = 5) -> list[str]:
        """The end of the file as it is now, for an error message."""
        try:
            data = self.path.read_bytes()[-8192:]
        except FileNotFoundError:
            return []
        lines = data.decode("utf-8", "replace").splitlines()
        return [line.rstrip() for line in lines if line.strip()][-count:]
