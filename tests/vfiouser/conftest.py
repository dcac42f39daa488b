# SPDX-License-Identifier: GPL-2.0-or-later
"""Every test has a server with a client, and is checked for leaks."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for client.py and served.py, whatever the import mode

from client import memfd
from served import Served, resources, serve_one

from vcapdev.vfiouser import Limits


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Neither descriptors nor mappings are left behind by any test here."""
    before = resources()
    yield
    if resources() != before:
        gc.collect()  # a test's own socket may hang in a traceback, or what another module left is gone now
    after = resources()
    assert after[0] <= before[0]
    assert after[1] <= before[1]


@pytest.fixture
def serve(no_leaks: None) -> Iterator[Callable[..., Served]]:
    """Makes servers, with limits if wanted, whose client has said nothing yet."""
    made: list[Served] = []

    def make(limits: Limits | None = None) -> Served:
        made.append(serve_one(limits))
        return made[-1]

    yield make
    for served in made:
        served.client.sock.close()
        served.server.close()
        served.reactor.close()


@pytest.fixture
def fresh(serve: Callable[..., Served]) -> Served:
    """A server whose client has said nothing yet."""
    return serve()


@pytest.fixture
def served(fresh: Served) -> Served:
    """A server whose client has agreed on the version."""
    fresh.client.version()
    return fresh


@pytest.fixture
def new_fd(no_leaks: None) -> Iterator[Callable[[int], int]]:
    """Has the test close the descriptors that it makes: ``new_fd(os.eventfd(0))``."""
    fds: list[int] = []

    def keep(fd: int) -> int:
        fds.append(fd)
        return fd

    yield keep
    for fd in fds:
        os.close(fd)


@pytest.fixture
def ram(new_fd: Callable[[int], int]) -> int:
    """One MiB of guest RAM, sealed as QEMU does."""
    return new_fd(memfd(1 << 20))
