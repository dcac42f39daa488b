# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the way to the real Debian archive: this machine's mirror and keys, apt's real verification."""

from __future__ import annotations

import subprocess

import pytest
from aptrepo import make_recipe

from vcapdev.image.cache import Cache
from vcapdev.image.provision import resolve, unpacked
from vcapdev.progress import Terminal


@pytest.mark.network
def test_a_package_comes_from_debian_and_runs(cache: Cache) -> None:
    recipe = make_recipe("suites: [bookworm]\nallow-expired: true\npackages: [busybox-static]\n")
    resolution = resolve(recipe, cache, Terminal())
    assert [package.name for package in resolution.packages] == ["busybox-static"]
    tree = unpacked(recipe, resolution.packages, cache, Terminal(), "busybox")
    busybox = next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.is_file())
    said = subprocess.run([busybox, "echo", "hello"], capture_output=True, text=True, check=True).stdout
    assert said == "hello\n"
