# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects long sessions: with many guests behind it a process has sockets that select(2) cannot take."""

from __future__ import annotations

import fcntl
import resource
import socket

import pytest

from vcapdev.waiting import readable, writable

HIGH = 1500


def test_a_socket_of_any_number_can_be_waited_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = min(HIGH, hard - 1)  # a user may not be allowed more
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, highest + 1), hard))
    here, there = socket.socketpair()
    high = socket.socket(fileno=fcntl.fcntl(here.fileno(), fcntl.F_DUPFD_CLOEXEC, highest))
    with here, there, high:
        assert high.fileno() >= highest
        assert not readable(high, 0)
        assert writable(high, 0)
        there.send(b"x")
        assert readable(high, 10)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_end_is_something_to_read_and_a_closed_socket_a_mistake() -> None:
    here, there = socket.socketpair()
    there.close()
    assert readable(here, -1)
    here.close()
    with pytest.raises(ValueError, match="file descriptor"):
        readable(here, 0)
