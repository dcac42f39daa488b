# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets that a device process is reached by: created by us, or handed down by whoever starts us."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATH_MAX = 107  # bytes in sockaddr_un without the NUL, unix(7)
_LOCK_TRIES = 100
_LOCK_PAUSE = 0.05  # seconds


@contextmanager
def listening_socket(path: str | os.PathLike[str], backlog: int = 4) -> Iterator[socket.socket]:
    """A listening Unix socket at ``path``, owner-only from its first moment, removed at the end.

    A socket that nobody listens on any more is replaced. Two processes that start at the same time see each
    other: they take turns by a lock on the directory. Only what was made here is removed.

    :raise OSError: EADDRINUSE when somebody listens there, EEXIST when it is no socket, ENAMETOOLONG.
    """
    where = Path(path)
    if len(os.fsencode(where)) > _PATH_MAX:
        raise OSError(
            errno.ENAMETOOLONG, f"socket path {where} is longer than {_PATH_MAX} bytes; choose a shorter one"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(where.parent):
            _remove_stale(where)
            sock.bind(os.fspath(where))
            # Nobody can connect before listen(), so there is no moment in which others could.
            os.chmod(where, stat.S_IRUSR | stat.S_IWUSR)
            sock.listen(backlog)
            made = os.lstat(where)
        try:
            yield sock
        finally:
            _remove_own(where, made)
    finally:
        sock.close()


def adopt_socket(fd: int) -> socket.socket:
    """The Unix stream socket, listening or connected, that the process inherited as ``fd``.

    :raise OSError: when ``fd`` is not one.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, f"descriptor {fd} is no socket")
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else errno.EBADF
        raise OSError(number, f"descriptor {fd} is no socket; pass one with --fd") from error
    sock = socket.socket(fileno=fd)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise OSError(errno.EPROTOTYPE, f"descriptor {fd} is no Unix stream socket")
    sock.set_inheritable(False)
    return sock


def is_listening(sock: socket.socket) -> bool:
    """Whether clients have to be accepted from ``sock``."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
        else:
            raise OSError(errno.EBUSY, f"directory {directory} stays locked by another process")
        yield
    finally:
        os.close(fd)


def _remove_stale(path: Path) -> None:
    """Make way: unlink a socket on which nobody listens."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, f"{path} exists and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody listens, with a full backlog
    raise OSError(errno.EADDRINUSE, f"{path} is in use by another process; choose another path")


def _remove_own(path: Path, made: os.stat_result) -> None:
    try:
        with _locked(path.parent):
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
                os.unlink(path)
    except OSError:
        pass  # somebody has tidied up already, or keeps us out: a stale socket is replaced by whoever is next
