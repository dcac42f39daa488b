# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects fetching packages from a bad day: no network, a full disk, an interruption, another vcapdev."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from aptrepo import SMALL, Repository, Server, fill

from vcapdev.errors import SetupError
from vcapdev.image.cache import Cache
from vcapdev.image.provision import resolve, unpacked
from vcapdev.progress import Silent

T = TypeVar("T")


@pytest.mark.usefixtures("set_sources")
def test_no_network_is_one_clear_line(cache: Cache, set_sources: Callable[[str], Path]) -> None:
    with socket.socket() as closed:  # bound, not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        set_sources(f"deb [signed-by=KEYRING] http://127.0.0.1:{closed.getsockname()[1]} bookworm main\n")
        with pytest.raises(SetupError, match=r"no network to get the package indexes .*VCAPDEV_MIRROR"):
            resolve(SMALL, cache, Silent())


@pytest.mark.usefixtures("http_machine")
def test_network_lost_between_index_and_files(repository: Repository, cache: Cache, server: Server) -> None:
    """Indexes are fetched, then the server goes away: a clear line, and the next run completes."""
    fill(repository)
    resolve(SMALL, cache, Silent())
    for deb in (cache.root / "debs").iterdir():
        deb.unlink()
    server.close()
    with pytest.raises(SetupError, match="no network to get package"):
        run_tree(cache)


def run_tree(cache: Cache) -> Path:
    return unpacked(SMALL, resolve(SMALL, cache, Silent()).packages, cache, Silent(), "test")


@pytest.fixture
def file_size_limit() -> object:
    """Files may grow to 64 KiB: a write beyond fails midway, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


@pytest.mark.usefixtures("http_machine")
def test_a_disk_that_fills_up_during_a_download(
    repository: Repository, cache: Cache, file_size_limit: Callable[[int | None], None]
) -> None:
    repository.add("tool", "1.0", {"usr/share/big": os.urandom(300_000)})
    repository.publish()
    file_size_limit(100_000)
    with pytest.raises(SetupError, match=r"no space left for the cache at .*vcapdev cache prune"):
        run_tree(cache)
    file_size_limit(None)
    assert (run_tree(cache) / "usr/share/big").stat().st_size == 300_000


@pytest.mark.usefixtures("machine")
def test_a_disk_that_fills_up_while_unpacking(
    repository: Repository, cache: Cache, file_size_limit: Callable[[int | None], None]
) -> None:
    repository.add("tool", "1.0", {"usr/share/big": bytes(300_000)})
    repository.publish()
    resolve(SMALL, cache, Silent())
    file_size_limit(100_000)
    with pytest.raises(SetupError, match=f"no space left for the cache at {cache.root} "):
        run_tree(cache)
    assert [path.name for path in (cache.root / "packages").iterdir()] == []
    file_size_limit(None)
    assert (run_tree(cache) / "usr/share/big").stat().st_size == 300_000


@pytest.mark.usefixtures("machine")
def test_too_little_room_is_said_before_a_download(
    repository: Repository, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repository)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(SetupError, match="no space left"):
        resolve(SMALL, cache, Silent())


_CHILD = """
import signal
import sys
from pathlib import Path
from typing import TypeVar
from vcapdev.image.cache import Cache
from vcapdev.image.provision import resolve, unpacked
from vcapdev.image.recipe import parse_recipe
from vcapdev.progress import Silent
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
recipe = parse_recipe("suites: [bookworm]\\npackages: [tool]\\n", Path("test.yaml"))
cache = Cache()
print(unpacked(recipe, resolve(recipe, cache, Silent()).packages, cache, Silent(), "test"))
"""


def start_child() -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", _CHILD]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.usefixtures("http_machine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_is_resumed(
    repository: Repository, cache: Cache, server: Server, number: signal.Signals
) -> None:
    """Half of the file came when we were interrupted or killed: only the rest is asked for later."""
    deb = repository.add("tool", "1.0", {"usr/share/big": os.urandom(400_000)})
    repository.publish()
    server.stall_after[deb.name] = 150_000
    child = start_child()
    assert server.stalled.wait(60), "the download never came to the stall"
    partial = _wait_for(lambda: next((cache.root / "partial").glob("tool*.deb"), None), "a partial file")
    _wait_for(lambda: partial.stat().st_size >= 100_000 or None, "100 kB of it")
    child.send_signal(number)
    child.communicate(timeout=60)
    del server.stall_after[deb.name]
    assert (run_tree(cache) / "usr/share/big").stat().st_size == 400_000
    ranges = [asked for _, asked in server.fetched(r"tool_1.0")]
    assert len(ranges) == 2
    assert ranges[0] == ""
    assert ranges[1].startswith("bytes=1")


def _wait_for(look: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {what} in 60 s")


@pytest.mark.usefixtures("http_machine")
def test_two_processes_at_once_fetch_each_file_once(
    repository: Repository, cache: Cache, server: Server
) -> None:
    fill(repository)
    children = [start_child() for _ in range(3)]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert len(server.fetched(r"InRelease")) == 1
    assert len(server.fetched(r"\.deb")) == 2
