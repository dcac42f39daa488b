# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for a socket, whatever its number: select(2) takes none above 1023, as a long session may have."""

from __future__ import annotations

import math
import select
import socket


def readable(sock: socket.socket, seconds: float) -> bool:
    """Whether there is something to read, or the end, within so many seconds.

    :raise ValueError: the socket is closed.
    """
    return _ready(sock, seconds, select.POLLIN)


def writable(sock: socket.socket, seconds: float) -> bool:
    """Whether something can be written, or will fail at once, within so many seconds.

    :raise ValueError: the socket is closed.
    """
    return _ready(sock, seconds, select.POLLOUT)


def _ready(sock: socket.socket, seconds: float, event: int) -> bool:
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(math.ceil(max(0.0, seconds) * 1000)))
