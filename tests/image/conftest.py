# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine for the package tests: its own apt configuration, an empty cache, a repository that it trusts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aptrepo import Repository, Server, make_recipe
from made_kernel import RELEASE, Made, made_guest
from openpgp import KEY

from vcapdev.image.cache import Cache
from vcapdev.image.recipe import Recipe


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository on disk."""
    return Repository(tmp_path / "repository")


@pytest.fixture
def server(repository: Repository) -> Iterator[Server]:
    """The repository over HTTP."""
    server = Server(repository.root)
    yield server
    server.close()


@pytest.fixture
def set_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Give this machine's apt a sources.list; ``KEYRING`` in the text is a file with the repository's key."""
    etc = tmp_path / "etc-apt"
    etc.mkdir()
    (etc / "test.gpg").write_bytes(KEY.public())
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc "{etc}"; Dir::Etc::parts "/dev/null"; Dir::Etc::main "/dev/null";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    for name in ("VCAPDEV_MIRROR", "VCAPDEV_SECURITY_MIRROR", "VCAPDEV_KEYRING"):
        monkeypatch.delenv(name, raising=False)

    def set_text(text: str) -> Path:
        (etc / "sources.list").write_text(text.replace("KEYRING", str(etc / "test.gpg")))
        return etc

    return set_text


@pytest.fixture
def machine(repository: Repository, set_sources: Callable[[str], Path]) -> Path:
    """A machine whose apt uses ``repository`` from disk; its etc/apt."""
    return set_sources(f"deb [signed-by=KEYRING] {repository.uri} bookworm main\n")


@pytest.fixture
def http_machine(server: Server, set_sources: Callable[[str], Path]) -> Path:
    """A machine whose apt uses ``repository`` over HTTP."""
    return set_sources(f"deb [signed-by=KEYRING] {server.uri} bookworm main\n")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """An empty cache, which is also the default one."""
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache"))
    cache = Cache()
    yield cache
    cache.release()


@pytest.fixture
def recipe() -> Recipe:
    """A recipe of the made-up kernel."""
    return make_recipe(f"suites: [bookworm]\nkernel: linux-image-{RELEASE}\n")


@pytest.fixture
def guest(tmp_path: Path) -> Made:
    """The guest with the made-up kernel."""
    return made_guest(tmp_path)
