# SPDX-License-Identifier: GPL-2.0-or-later
"""Unix sockets of the device process: owner-only, removed at the end, never taken from somebody who uses them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vcapdev.errors import SetupError, UsageError

_LONGEST = 107  # bytes in sun_path, without its terminating zero (unix(7))


@contextmanager
def listening(path: Path, option: str) -> Iterator[socket.socket]:
    """A listening socket at ``path`` that only its owner can reach; gone when the context ends.

    :param option: name of the command line option, for messages.
    :raise UsageError: when the path is too long, or holds something that is not a stale socket.
    :raise SetupError: when it cannot be created there.
    """
    if len(os.fsencode(path)) > _LONGEST:
        raise UsageError(f"{option} {path}: longer than {_LONGEST} bytes; name a shorter path")
    _remove_stale(path, option)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        identity = _bind(listener, path, option)
        try:
            yield listener
        finally:
            _unlink_ours(path, identity)
    finally:
        listener.close()


def adopt(fd: int) -> tuple[socket.socket, bool]:
    """The stream socket that the parent left open as ``fd``, and whether it is a listening one.

    :raise UsageError: when the descriptor is not open, or not a unix stream socket.
    """
    try:
        adopted = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"--fd {fd}: not an open socket ({error.strerror})") from error
    if adopted.family != socket.AF_UNIX or adopted.type != socket.SOCK_STREAM:
        adopted.detach()
        raise UsageError(f"--fd {fd}: not a unix stream socket")
    os.set_inheritable(fd, False)
    return adopted, bool(adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _remove_stale(path: Path, option: str) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SetupError(f"{option} {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{option} {path}: exists and is not a socket; name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise UsageError(f"{option} {path}: another process listens there; end it or name another path")
    with suppress(FileNotFoundError):
        path.unlink()


def _bind(listener: socket.socket, path: Path, option: str) -> tuple[int, int]:
    """Bind and listen; device and inode number of the new socket file."""
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise SetupError(f"{option} {path}: {error.strerror}; name a path in a directory of yours") from error
    finally:
        os.umask(before)
    listener.listen(8)
    status = path.stat()
    return status.st_dev, status.st_ino


def _unlink_ours(path: Path, identity: tuple[int, int]) -> None:
    """Remove the socket file, unless somebody has put another one in its place."""
    with suppress(OSError):
        status = path.lstat()
        if (status.st_dev, status.st_ino) == identity:
            path.unlink()
