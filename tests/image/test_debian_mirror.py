# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the way to the real Debian archive: this machine's mirror and keys, apt's real verification.

The first run goes to the mirror, and keeps in the user's cache the files that it came across: Debian's signed
Release file, the package index, the package. Later runs have them for a mirror, so they need no network; the
keys, the signature and what the product and apt make of them are the same.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest
from aptrepo import make_recipe

from vcapdev.errors import SetupError
from vcapdev.image.archives import find_archives
from vcapdev.image.cache import Cache, digest
from vcapdev.image.lock import Package
from vcapdev.image.provision import resolve, unpacked
from vcapdev.progress import Terminal

RECIPE = make_recipe("suites: [bookworm]\nallow-expired: true\npackages: [busybox-static]\n")
RELEASE = "dists/bookworm/InRelease"
INDEX = "main/binary-amd64/Packages.xz"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A mirror on disk: what the machine's mirror had when this machine was first tried."""
    archive = find_archives(RECIPE.suites)["main"]

    def build(into: Path) -> None:
        package = a_package_comes_and_runs(Cache(tmp_path / "first"))
        record(archive.uri, package, into)

    users = Cache()
    return users.entry("mirror", digest("1", repr(archive)), build, label="a Debian mirror, for the tests")


def record(uri: str, package: Package, into: Path) -> None:
    """Fetch the files that lead to ``package``, by apt's own means of transport; each has its checksum."""
    get(f"{uri}/{RELEASE}", into / RELEASE)
    match = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {INDEX}$", (into / RELEASE).read_text(), re.M)
    assert match is not None, f"{uri}/{RELEASE} lists no {INDEX}"
    get(f"{uri}/dists/bookworm/{INDEX}", into / "dists/bookworm" / INDEX, match[1])
    get(f"{uri}/{package.path}", into / package.path, package.sha256)


def get(uri: str, file: Path, sha256: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    helper = ["/usr/lib/apt/apt-helper", "-o", "APT::Sandbox::User=root", "download-file", uri, str(file)]
    done = subprocess.run(
        helper, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{uri}: {done.stdout}{done.stderr}"
    assert sha256 in (None, hashlib.sha256(file.read_bytes()).hexdigest()), f"{uri} changed meanwhile: again"


def a_package_comes_and_runs(cache: Cache) -> Package:
    """From Debian's signature to a program that runs; returns the package."""
    resolution = resolve(RECIPE, cache, Terminal())
    assert [package.name for package in resolution.packages] == ["busybox-static"]
    tree = unpacked(RECIPE, resolution.packages, cache, Terminal(), "busybox")
    busybox = next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.is_file())
    said = subprocess.run([busybox, "echo", "hello"], capture_output=True, text=True, check=True).stdout
    assert said == "hello\n"
    return resolution.packages[0]


@pytest.mark.network
def test_a_package_comes_from_debian_and_runs(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VCAPDEV_MIRROR", kept.as_uri())
    a_package_comes_and_runs(Cache(tmp_path / "again"))


@pytest.mark.network
def test_what_debian_signed_cannot_be_altered(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = tmp_path / "forged"
    for name in (RELEASE, f"dists/bookworm/{INDEX}"):
        (forged / name).parent.mkdir(parents=True, exist_ok=True)
        (forged / name).write_bytes((kept / name).read_bytes())
    text = (forged / RELEASE).read_text()
    (forged / RELEASE).write_text(re.sub(r"^Description: ", "Description: not ", text, count=1, flags=re.M))
    monkeypatch.setenv("VCAPDEV_MIRROR", forged.as_uri())
    with pytest.raises(SetupError, match="signature"):
        resolve(RECIPE, Cache(tmp_path / "cache"), Terminal())
