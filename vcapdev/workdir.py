# SPDX-License-Identifier: GPL-2.0-or-later
"""Directories for sockets, logs and disks of guests, which do not outlive who made them.

Whoever is killed (SIGKILL, by a CI's time limit or for want of memory) cannot clean up. So each directory
holds a file that its maker keeps locked (flock(2)); the lock goes with the maker, and the next one to need a
directory takes away what nobody holds any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = ".vcapdev-work"
_PREFIX = "vcap"


@contextmanager
def workdir(kind: str = "dev") -> Iterator[Path]:
    """A directory of its own for the time of the ``with`` block; one for guests' sockets has a short name.

    :param kind: tells people what it is for.
    :raise OSError: there is no room for temporary files, or no place.
    """
    sweep()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{kind}-") as name:
        lock = _locked(Path(name))
        try:
            yield Path(name)
        finally:
            os.close(lock)


def sweep() -> None:
    """Take away this user's directories that killed processes have left."""
    for mark in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{MARK}"):
        with suppress(OSError):  # somebody else's, or gone in between
            _take_away(mark)


def _locked(directory: Path) -> int:
    """Mark a directory as one of ours, and held: the mark is never to be seen without its lock."""
    new = directory / f"{MARK}.new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(directory / MARK)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _take_away(mark: Path) -> None:
    if mark.lstat().st_uid != os.getuid():
        return
    lock = os.open(mark, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(mark.parent, ignore_errors=True)
    finally:
        os.close(lock)
