# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects ``vcapdev doctor``: one line a finding, offline, before anything was fetched, and after."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from aptrepo import Repository

from vcapdev import doctor as module
from vcapdev.doctor import doctor
from vcapdev.errors import ExitStatus
from vcapdev.image import machine as needs
from vcapdev.image.cache import Cache
from vcapdev.image.provision import provision
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Silent


@pytest.fixture(autouse=True)
def no_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever QEMU the machine has, the doctor does not find it."""
    monkeypatch.setattr(module, "BINARY", "no-such-qemu")


def report(cache: Cache) -> tuple[ExitStatus, dict[str, list[str]]]:
    stream = io.StringIO()
    status = doctor(stream, cache)
    lines: dict[str, list[str]] = {}
    for line in stream.getvalue().splitlines():
        topic, _, text = line.partition(" ")
        lines.setdefault(topic, []).append(text.strip())
    return status, lines


def test_before_anything_was_fetched(machine: Path, repository: Repository, cache: Cache) -> None:
    """The mirror does not even exist: nothing is asked of it, and no cache is made."""
    status, lines = report(cache)
    assert status is ExitStatus.CLEAN
    assert set(lines) == {"machine", "tools", "archive", "qemu", "accelerator", "image", "cache"}
    assert repository.uri in lines["archive"][0]
    assert "test.gpg" in lines["archive"][0]
    assert "the first run fetches Debian's" in lines["qemu"][0]
    assert "not fetched yet" in next(line for line in lines["image"] if "bookworm-6.1:" in line)
    assert f"{cache.root}: 0 MB" in lines["cache"][0]
    assert not cache.root.exists()


def test_after_an_image_was_fetched(machine: Path, repository: Repository, cache: Cache) -> None:
    recipe = load_recipe("bookworm-6.1")
    release = "6.1.0-5-amd64"
    files = {f"boot/vmlinuz-{release}": b"k", f"lib/modules/{release}/modules.order": b""}
    repository.add(f"linux-image-{release}", "6.1.5-1", files)
    repository.add("linux-image-amd64", "6.1.5-1", depends=f"linux-image-{release} (= 6.1.5-1)")
    for name in recipe.packages:
        repository.add(name, "1.0")
    repository.publish()
    provision(recipe, progress=Silent(), cache=cache)
    shutil.rmtree(repository.root)
    status, lines = report(cache)
    assert status is ExitStatus.CLEAN
    image = next(line for line in lines["image"] if "bookworm-6.1:" in line)
    assert f"linux-image-{release} 6.1.5-1" in image
    assert "no source for suite bookworm-security" in image


def test_missing_tools_are_named_with_the_command(
    machine: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = needs.Need("mill", "millpack", "programs", lambda: False)
    monkeypatch.setattr(needs, "NEEDS", (*needs.NEEDS, lacking))
    status, lines = report(cache)
    assert status is ExitStatus.ENVIRONMENT
    assert lines["tools"][0].startswith("MISS missing: mill (for programs); run '")
    assert lines["tools"][0].rstrip("'\"").endswith("apt-get install millpack"), "with sudo or su"


def test_no_debian_archive_is_a_finding(set_sources: Callable[[str], Path], cache: Cache) -> None:
    set_sources("")
    status, lines = report(cache)
    assert status is ExitStatus.ENVIRONMENT
    assert "VCAPDEV_MIRROR" in lines["archive"][0]


def test_trust_without_signature_is_shown(
    set_sources: Callable[[str], Path], repository: Repository, cache: Cache
) -> None:
    set_sources(f"deb [trusted=yes] {repository.uri} bookworm main\n")
    _, lines = report(cache)
    assert "TRUSTED WITHOUT SIGNATURE" in lines["archive"][0]


def test_a_cache_that_cannot_be_written_is_a_finding(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    status, lines = report(Cache(tmp_path / "sealed"))
    assert status is ExitStatus.ENVIRONMENT
    assert "not writable: set VCAPDEV_CACHE" in lines["cache"][0]


def test_too_little_memory_is_a_finding(machine: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_available_memory", lambda: 300 << 20)
    status, lines = report(cache)
    assert status is ExitStatus.ENVIRONMENT
    assert "a run needs 1.1 GB" in lines["machine"][0]
