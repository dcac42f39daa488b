# SPDX-License-Identifier: GPL-2.0-or-later
"""Files and trees of the cache: written whole or not at all, measured, removed; what a full disk says."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vcapdev.errors import SetupError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_SMALL_TREE = 64
_STILL_UNPACKING = 30.0  # seconds; a kernel package takes 5 on two slow cores


def disk_full(where: Path) -> SetupError:
    """The one line that a user sees when ``where`` has no room left."""
    return SetupError(
        f"no space left for the cache at {where} (disk full, quota or file size limit): free some space, run "
        "'vcapdev cache prune', or set VCAPDEV_CACHE to a directory on another disk; what is complete is kept"
    )


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or unwritable disk under ``where`` into a :class:`SetupError`; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(where) from error
        if error.errno in _REFUSED:
            raise SetupError(
                f"cannot write to the cache at {where} ({error.strerror}): make it writable for this user, "
                "or set VCAPDEV_CACHE to another directory"
            ) from error
        raise


def remove_tree(path: Path) -> None:
    """Remove a file or a tree, also one with read-only directories in it; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        for directory, names, _ in os.walk(path):
            os.chmod(directory, 0o700)
            names[:] = [name for name in names if not os.path.islink(os.path.join(directory, name))]
        _remove_directory(path)
    else:
        path.unlink(missing_ok=True)


def _remove_directory(path: Path) -> None:
    """Remove a tree, also when what a killed vcapdev had started still unpacks into it for a moment."""
    end = time.monotonic() + _STILL_UNPACKING
    while True:
        try:
            return shutil.rmtree(path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or time.monotonic() > end:
                raise
        time.sleep(0.1)


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` so that a reader or a crash sees the old or the new file, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync_tree(top: Path) -> None:
    """Have a finished tree on the disk before it is renamed into place."""
    files = [Path(directory, name) for directory, _, names in os.walk(top) for name in names]
    if len(files) > _SMALL_TREE:  # one syncfs(2) is far cheaper than thousands of fsync(2)
        sync(top, ctypes.CDLL(None, use_errno=True).syncfs)
        return
    for file in files:
        if file.is_file() and not file.is_symlink():
            sync(file, os.fsync)
    sync(top, os.fsync)


def sync(path: Path, call: Callable[[int], Any]) -> None:
    """Open a file or directory for ``call``, ``os.fsync`` or libc's ``syncfs``.

    :raise OSError: as the call fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if call(descriptor) == -1:  # ctypes does not raise
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def tree_size(top: Path) -> int:
    """Bytes that a file or tree takes on the disk (blocks, not lengths; hard links counted once)."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for directory, names, files in os.walk(top):
        for name in [*files, *names]:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(directory, name))
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
    if not top.is_dir():
        with contextlib.suppress(FileNotFoundError):
            total += os.lstat(top).st_blocks * 512
    return total
