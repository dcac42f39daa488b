# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets of ``vcapdev.vfiouser.sockets``, with refusals as one line that names the option."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.vfiouser.sockets import adopt_socket, listening_socket

_OURS_TO_CHOOSE = (errno.EADDRINUSE, errno.EEXIST, errno.ENAMETOOLONG)


@contextmanager
def listening(path: Path, option: str) -> Iterator[socket.socket]:
    """A listening socket at ``path`` that only its owner can reach; gone when the context ends.

    :param option: name of the command line option, for messages.
    :raise UsageError: when the path is too long, in use, or something else than a socket.
    :raise SetupError: when a socket cannot be created there.
    """
    made = listening_socket(path)
    try:
        listener = made.__enter__()
    except OSError as error:
        if error.errno in _OURS_TO_CHOOSE:
            raise UsageError(f"{option}: {error.strerror}") from error
        raise SetupError(f"{option} {path}: {error.strerror}; name a path in a directory of yours") from error
    try:
        yield listener
    finally:
        made.__exit__(None, None, None)


def adopt(fd: int) -> socket.socket:
    """The unix stream socket, listening or connected, that the parent left open as ``fd``.

    :raise UsageError: when the descriptor is not one.
    """
    try:
        return adopt_socket(fd)
    except OSError as error:
        raise UsageError(f"--fd {fd}: {error.strerror}") from error
