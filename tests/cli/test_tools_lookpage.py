# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the look at a report in a real browser: a page that breaks there must not be called good."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/scenario/golden"
COMPLAINT = '[7:7:1123/200816.5:INFO:CONSOLE:1] "Uncaught 1", source: file:///page.html (1)\n'
NOISE = "[7:8:1123/200815.1:ERROR:dbus/bus.cc:405] Failed to connect to the bus\n"


@pytest.fixture(scope="module")
def lookpage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lookpage", ROOT / "tools/lookpage.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["lookpage"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_browser(where: Path, tree: Path, log: str, status: int = 0) -> str:
    """A program that says what a browser would say of its page."""
    (where / "log").write_text(log)
    path = where / "browser"
    path.write_text(f"#!/bin/sh\ncat '{where}/log' >&2\ncat '{tree}'\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


def test_all_tracks_of_a_page_are_counted(lookpage: ModuleType) -> None:
    """As many as the results have that the page was written from."""
    tests = json.loads((GOLDEN / "sample.json").read_text())["tests"]
    tracks = [
        {event["track"] for event in test["timeline"]} | ({"steps"} if test["steps"] else set())
        for test in tests
    ]
    look = lookpage.read((GOLDEN / "sample.html").read_text(), NOISE)
    assert look.tests == len(tests) > 1
    assert look.timelines == sum(map(bool, tracks)) > 0
    assert look.tracks == sum(map(len, tracks)) > look.timelines
    assert set(look.bands) == set().union(*tracks)
    assert look.pictures == sum(len(test["pictures"]) for test in tests)
    assert look.good


def test_a_page_that_is_cut_short_has_less(lookpage: ModuleType) -> None:
    """A browser shows half of a page without a word."""
    whole = (GOLDEN / "sample.html").read_text()
    cut = lookpage.read(whole[: whole.index("<svg")], "")
    assert cut.timelines == 0 < lookpage.read(whole, "").timelines


@pytest.mark.parametrize(("log", "status"), [(NOISE, 0), (NOISE + COMPLAINT, 10)])
def test_what_the_console_says_decides(
    lookpage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], log: str, status: int,
) -> None:  # fmt: skip
    """The status is 10 where a script failed; that there is no bus is no matter of the page."""
    page = GOLDEN / "sample.html"
    monkeypatch.setenv("CHROMIUM", as_browser(tmp_path, page, log))
    assert lookpage.main([str(page)]) == status
    said = capsys.readouterr().out
    assert f"{status // 10} complaints" in said
    assert ("Uncaught 1" in said) == bool(status)
    assert "bus" not in said


def test_an_empty_page_is_not_good(
    lookpage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody complains of it, and it shows nothing."""
    page = tmp_path / "empty.html"
    page.write_text("<!DOCTYPE html><html><head></head><body></body></html>")
    monkeypatch.setenv("CHROMIUM", as_browser(tmp_path, page, ""))
    assert lookpage.main([str(page)]) == 10


def test_what_is_missing_is_told_in_one_line(
    lookpage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No browser and one that dies: 20. No page, and no name of one: 2."""
    page = str(GOLDEN / "sample.html")
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "none"))
    assert lookpage.main([page]) == 20
    assert "apt-get install chromium" in capsys.readouterr().err
    monkeypatch.setenv("CHROMIUM", as_browser(tmp_path, Path(page), "no display\n", 1))
    assert lookpage.main([page]) == 20
    assert capsys.readouterr().err.endswith("(status 1): no display\n")
    assert lookpage.main([str(tmp_path / "gone.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert lookpage.main([]) == 2
