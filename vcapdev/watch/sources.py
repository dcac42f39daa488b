# SPDX-License-Identifier: GPL-2.0-or-later
"""A module's sources: what they are, whether they have changed, and a place to build them in.

What a build makes stays out of the user's directory: it runs in a mirror of it, whose files are links to his.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_KINDS = (".c", ".h", ".S", ".s", ".rs", ".lds")
_NAMES = ("Kbuild", "Makefile", "Kconfig")
_MADE = (".mod.c",)  # by the kernel's build, where it has run in the directory itself
_MOST = 10_000  # files; a directory that has more is no module's

State = dict[str, tuple[int, int, int]]  # by relative path: inode, size, time of the last change


class Sources:
    """The sources below a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._seen: State = {}

    def __len__(self) -> int:
        return len(self._seen)

    def look(self) -> bool:
        """Whether anything is another than at the last look."""
        now = dict(self._found())
        changed, self._seen = now != self._seen, now
        return changed

    def moved(self) -> bool:
        """The same, but the next look will say so, too."""
        return dict(self._found()) != self._seen

    def mirror(self, place: Path) -> None:
        """Have links in ``place`` to all files as of the last look; those to files that are gone go."""
        for name in self._seen:
            link, target = place / name, self.directory / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                if link.is_dir():
                    shutil.rmtree(link)
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        for top, _, files in os.walk(place):
            for name in files:
                path = Path(top, name)
                if path.is_symlink() and str(path.relative_to(place)) not in self._seen:
                    path.unlink()

    def _found(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        count = 0
        for top, directories, files in os.walk(self.directory):
            directories[:] = sorted(name for name in directories if not name.startswith("."))
            for name in files:
                if not (name.endswith(_KINDS) or name in _NAMES) or name.endswith(_MADE):
                    continue
                count += 1
                path = Path(top, name)
                try:
                    known = path.stat()
                except OSError:  # an editor is just replacing it
                    continue
                yield (
                    str(path.relative_to(self.directory)),
                    (known.st_ino, known.st_size, known.st_mtime_ns),
                )
                if count >= _MOST:
                    return
