# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects ``vcapdev bundle``: what a guest was started from goes in; what cannot be written is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vcapdev import cli
from vcapdev.carry.command import write
from vcapdev.carry.options import CarryOptions, from_arguments
from vcapdev.errors import UsageError
from vcapdev.image import offline
from vcapdev.image.bundlefile import BundleFile, Manifest
from vcapdev.image.cache import Cache
from vcapdev.progress import Silent

MANIFEST = Manifest("1", "2026-01-02", {"bookworm-6.1": "6.1.0"}, {"recipes": {}}, {})


def options(*words: str) -> CarryOptions:
    return from_arguments(cli.parser().parse_args(["bundle", *words]))


def test_one_kernel_is_carried_unless_others_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "x.vcap")
    assert options(path).kernels == ("bookworm-6.1",)
    assert options(path).snapshots
    chosen = options(path, "--kernel=a", "--kernel=b", "--kernel=a", "--no-snapshots", "--with-build")
    assert chosen.kernels == ("a", "b")
    assert (chosen.snapshots, chosen.building) == (False, True)
    assert (chosen.foreign, options(path, "--no-ffmpeg").foreign) == (True, False)


def test_a_place_that_cannot_be_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory; name the file"):
        options(str(tmp_path))
    with pytest.raises(UsageError, match="there is no directory"):
        options(str(tmp_path / "none" / "x.vcap"))


def test_what_was_used_goes_in_and_nothing_that_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Cache, "used", {})

    def fill(text: str) -> Callable[[Path], None]:
        def build(into: Path) -> None:
            (into / "file").write_text(text)

        return build

    Cache().entry("snapshots", "never", fill("made, and not for this"), label="other")
    monkeypatch.setattr(Cache, "used", {})
    for kind in ("packages", "modules", "snapshots", "foreign"):
        Cache().entry(kind, "ab", fill(kind), label=f"some {kind}")
    size = write(tmp_path / "x.vcap", MANIFEST, list(Cache.used), Silent())
    assert size == (tmp_path / "x.vcap").stat().st_size
    manifest = BundleFile(tmp_path / "x.vcap").manifest
    assert [item.label for item in manifest.items] == ["some packages", "some snapshots", "some foreign"]
    assert replace(manifest, items=[]) == MANIFEST


def test_offline_reaches_all_processes_that_a_command_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a file that is none is told in a line, before anything is done."""
    monkeypatch.setenv(offline.VARIABLE, "")
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "x.vcap"
    path.write_text("no bundle")
    assert cli.main(["run", "--offline", str(path)]) == 2
    assert os.environ[offline.VARIABLE] == str(path)
    assert "is no bundle of vcapdev" in capsys.readouterr().err
