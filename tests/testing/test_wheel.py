# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the installed package: a wheel, in a virtual environment, used from outside any checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE = 300.0  # seconds for anything here
TEST = """
import vcapdev

pytestmark = vcapdev.guest(clock="fast")


def test_passes(guest, card):
    assert guest.capture(frames=4, size="320x240").intact == 4
    card.dma.assert_clean()


def test_fails(guest):
    assert guest.capture(frames=4, size="320x240").intact == 5


def test_wants_what_is_not_there(guest):
    guest.capture(frames=4, size="1920x1080")
"""


class Run:
    """``run(words of a Python command)``, where no checkout is and the wheel is installed.

    :ivar dist: where the wheel lies.
    """

    def __init__(self, place: Path) -> None:
        self.dist, self._place = place / "dist", place

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return _python(self._place / "venv/bin/python", self._place / "work", *words, check=False)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The wheel, built and installed.

    What vcapdev depends on is taken from this Python's packages, and nothing else of it; so is what builds
    the wheel: no network is needed.
    """
    place = tmp_path_factory.mktemp("outside")
    _python(sys.executable, ROOT, "-m", "build", "--wheel", "--no-isolation", "--outdir", place / "dist",
            ROOT)  # fmt: skip
    (wheel,) = (place / "dist").glob("vcapdev-*.whl")
    venv.create(place / "venv", with_pip=False, symlinks=True)
    python = place / "venv/bin/python"
    _python(sys.executable, place, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
            "--no-index", wheel)  # fmt: skip
    (site,) = (place / "venv/lib").glob("python*/site-packages")
    (site / "depends.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (place / "work").mkdir()
    return Run(place)


def _python(
    python: str | Path, where: Path, *words: str | Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))
    }
    done = subprocess.run(
        [python, *words], cwd=where, env=environment, text=True, capture_output=True, timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_wheel_is_what_is_imported_and_it_carries_its_data(outside: Run) -> None:
    shown = outside("-c", "import vcapdev; print(vcapdev.__file__)").stdout
    assert "site-packages/vcapdev/__init__.py" in shown
    assert "bookworm-6.1" in outside("-m", "vcapdev", "list", "recipes").stdout


def test_the_script_for_ci_installs_the_wheel_that_lies_beside_it(outside: Run, tmp_path: Path) -> None:
    """As far as the first thing that a vcapdev of ours says: which scenario there is not."""
    said = outside("-m", "vcapdev", "ci", "shell", tmp_path / "vcapdev-ci.sh")
    assert said.returncode == 0, said.stderr
    (wheel,) = outside.dist.glob("vcapdev-*.whl")
    (tmp_path / wheel.name).symlink_to(wheel)
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": sysconfig.get_path("purelib"),  # what it depends on: there is no network here
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "TESTS": "nonesuch.yaml",
    }
    done = subprocess.run(
        ["sh", "vcapdev-ci.sh"], cwd=tmp_path, env=environment, text=True, capture_output=True,
        timeout=DEADLINE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nonesuch" in done.stderr
    assert "nothing was proved (status 2)" in done.stdout
    (site,) = (tmp_path / ".vcapdev/venv/lib").glob("python*/site-packages")
    assert (site / "vcapdev/cli.py").is_file()


def test_the_plugin_is_found_by_itself_and_costs_nothing_until_it_is_used(outside: Run) -> None:
    assert "vcapdev_guest(kernel, memory, swap, ...)" in outside("-m", "pytest", "--markers").stdout
    dear = "{'numpy', 'drgn', 'vcapdev.testing.guest'} & set(sys.modules)"
    assert outside("-c", f"import vcapdev, sys; vcapdev.guest; print({dear})").stdout == "set()\n"


@pytest.mark.guest
def test_a_run_needs_no_checkout(outside: Run, tmp_path: Path) -> None:
    words = "--frames 2 --size 320x240 --swap none --pressure none --clock fast --report"
    done = outside("-m", "vcapdev", "run", *words.split(), tmp_path / "report")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert (report["frames"]["intact"], report["exit_status"]) == (2, 0)
    assert report["dma"]["checker"] == "attached"
    assert report["dma"]["pages_checked"] > 0


@pytest.mark.guest
def test_a_passing_and_a_failing_test_of_ones_own(outside: Run, tmp_path: Path) -> None:
    file = tmp_path / "test_mine.py"
    file.write_text(TEST)
    done = outside("-m", "pytest", "-p", "no:cacheprovider", "--tb=short", file)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 1 passed" in done.stdout, done.stdout
    assert "CaptureResult(wanted=4, captured=4, intact=4" in done.stdout
    assert "UsageError: capture: size='1920x1080': bttv captures from 48x32 to 924x576" in done.stdout
    for section in ("guest console", "register trace", "DMA log", "card"):
        assert f" Captured {section} call " in done.stdout
