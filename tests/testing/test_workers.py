# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects ``pytest -n``: each worker of pytest-xdist has guests of its own, and ends all of them.

The guests here are not there (fakepair.py): nothing is booted. test_guest_interrupted.py has real ones.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import fakepair
import pytest

pytest_plugins = "pytester"

CONFTEST = """
import os
from pathlib import Path
import fakepair

NOTES = Path({notes!r})

def note(what):
    with (NOTES / str(os.getpid())).open("a") as file:
        file.write(what + "\\n")

class Noted(fakepair.FakePair):
    def start(self):
        note("start")
        return super().start()

    def stop(self):
        note("stop")
        super().stop()

def pytest_vcapdev_opener(config):
    return lambda config, work, progress: fakepair.Opened(Noted(config, work), lambda wanted: {{}})
"""
TESTS = """
import time
from pathlib import Path
import pytest
import vcapdev

NOTES = Path({notes!r})

@pytest.mark.parametrize("own", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in "ab"])
def test_meets_the_other_one(guest, own):
    (NOTES / ("up-" + own)).touch()
    end = time.monotonic() + 60
    while len(list(NOTES.glob("up-*"))) < 2:
        assert time.monotonic() < end, "the other worker's test does not run beside this one"
        time.sleep(0.01)

@vcapdev.guest(cpus=2)
def test_of_another_machine(guest): pass

def test_complained(guest): guest.run("kernel WARNING: CPU: 0 at a.c:1")
"""


def test_each_worker_has_its_guests_and_ends_them(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    path = [str(Path(fakepair.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    pytester.makeconftest(CONFTEST.format(notes=str(notes)))
    pytester.makepyfile(TESTS.format(notes=str(notes)))
    result = pytester.runpytest_subprocess(
        "-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider", "-n2", "--dist=loadgroup", timeout=120
    )
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*the guest's kernel complained (warning): WARNING: CPU: 0 at a.c:1*"])
    said = {file.name: Counter(file.read_text().split()) for file in notes.iterdir() if file.name.isdigit()}
    assert len(said) == 2, said
    for each in said.values():
        assert each["start"] == each["stop"] >= 1
