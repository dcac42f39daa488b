# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the check of what a machine must bring: everything missing is named with one exact command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcapdev.errors import SetupError
from vcapdev.image import machine


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PATH without any tool; the directory can be filled."""
    monkeypatch.setenv("PATH", str(tmp_path))
    machine._has_static_libc.cache_clear()
    yield tmp_path
    machine._has_static_libc.cache_clear()


def tool(directory: Path, name: str, script: str = "") -> None:
    file = directory / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_all_that_is_missing_comes_in_one_command(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    tool(bare, "sudo")
    with pytest.raises(SetupError) as caught:
        machine.require("programs", "modules")
    assert str(caught.value) == (
        "this machine lacks gcc, static C library (libc.a), make, patch: "
        "run 'sudo apt-get install gcc libc6-dev make patch'"
    )


def test_root_needs_no_sudo(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SetupError, match="run 'apt-get install make patch'"):
        machine.require("modules")


def test_a_user_without_sudo_gets_a_command_that_works(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SetupError, match="""run 'su -c "apt-get install make patch"'"""):
        machine.require("modules")


def test_only_what_the_purpose_needs_is_asked_for(bare: Path) -> None:
    tool(bare, "make")
    tool(bare, "patch")
    machine.require("modules")
    assert {need.what for need in machine.missing("packages")} >= {"apt-get", "dpkg-deb"}


def test_either_signature_checker_will_do(bare: Path) -> None:
    names = {need.package for need in machine.missing("packages")}
    assert "gpgv" in names
    tool(bare, "sqv")
    assert "gpgv" not in {need.package for need in machine.missing("packages")}


@pytest.mark.parametrize(("answer", "lacking"), [("libc.a", True), ("/usr/lib/libc.a", False)])
def test_the_compiler_is_asked_for_the_static_library(bare: Path, answer: str, lacking: bool) -> None:
    tool(bare, "gcc", f"echo {answer}")
    assert any(need.package == "libc6-dev" for need in machine.missing("programs")) == lacking


def test_another_platform_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SetupError, match="needs Linux on x86_64, not darwin"):
        machine.require()
