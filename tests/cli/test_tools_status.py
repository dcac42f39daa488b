# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/status.py and the Makefile: what make says of an exit status, and what its variables become."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.run.options import add_arguments

ROOT = Path(__file__).parents[2]
STATUS = [sys.executable, str(ROOT / "tools" / "status.py")]


def told(code: str) -> tuple[int, str]:
    """Exit status and words of status.py around some Python."""
    done = subprocess.run([*STATUS, sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("status", list(ExitStatus), ids=lambda status: status.name)
def test_make_says_what_a_status_means(status: ExitStatus) -> None:
    """And passes it on."""
    assert told(f"raise SystemExit({int(status)})") == (
        int(status), f"exit status {int(status)} = {status.meaning}\n",
    )  # fmt: skip


def test_what_is_no_status_of_ours_is_told_as_such() -> None:
    assert told("raise SystemExit(77)") == (77, "exit status 77 = not a status of vcapdev\n")
    killed = told("import os; os.kill(os.getpid(), 9)")
    assert killed == (128 + signal.SIGKILL, "exit status -9 = ended by SIGKILL\n")


def test_make_that_is_ended_ends_what_it_runs(tmp_path: Path) -> None:
    """SIGTERM is passed on; status.py then waits for the child's own clean-up."""
    begun, cleaned = tmp_path / "begun", tmp_path / "cleaned"
    code = (
        "import pathlib, signal, time\n"
        f"def end(*_): pathlib.Path({str(cleaned)!r}).touch(); raise SystemExit(30)\n"
        f"signal.signal(signal.SIGTERM, end); pathlib.Path({str(begun)!r}).touch(); time.sleep(60)"
    )
    process = subprocess.Popen([*STATUS, sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 30
        while not begun.exists():
            assert time.monotonic() < end, "the child does not begin"
            time.sleep(0.02)
        process.terminate()
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert cleaned.exists()
    assert (process.returncode, said) == (30, f"exit status 30 = {ExitStatus.GUEST.meaning}\n")


# -- variables of make run-guest


def words_of(**variables: str) -> list[str]:
    """What ``make run-guest`` would start, behind ``vcapdev run``."""
    given = [f"{name}={value}" for name, value in variables.items()]
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "run-guest", "PY=printf '<%s>'", *given],
        capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return re.findall(r"<(.*?)>", done.stdout.partition("<vcapdev><run>")[2])


def test_make_alone_takes_every_default() -> None:
    assert words_of() == []


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("KERNEL", "trixie-6.12", ["--kernel", "trixie-6.12"]),
        ("NORM", "NTSC", ["--norm", "NTSC"]),
        ("SIZE", "320x240", ["--size", "320x240"]),
        ("FORMAT", "RGB4", ["--format", "RGB4"]),
        ("FIELD", "seq-tb", ["--field", "seq-tb"]),
        ("IO", "mmap", ["--io", "mmap"]),
        ("FRAMES", "7", ["--frames", "7"]),
        ("SWAP", "zram", ["--swap", "zram"]),
        ("PRESSURE", "hog", ["--pressure", "hog"]),
        ("CLOCK", "fast", ["--clock", "fast"]),
        ("BOARD", "pv143", ["--board", "pv143"]),
        ("MUTANT", "early-unpin", ["--mutant", "early-unpin"]),
        ("MODULE", "a.ko b.ko", ["--module", "a.ko", "--module", "b.ko"]),
        ("MODULES", "my modules", ["--modules", "my modules"]),
        ("KIMG", "bzImage", ["--kimg", "bzImage"]),
        ("KDIR", "my tree", ["--kdir", "my tree"]),
        ("VMLINUX", "vmlinux", ["--vmlinux", "vmlinux"]),
        ("APPEND", "bttv.card=105 x=y", ["--append", "bttv.card=105 x=y"]),
        ("REPORT", "a report", ["--report", "a report"]),
        ("ON_VIOLATION", "bundle", ["--on-violation", "bundle"]),
        ("BUNDLE", "kept", ["--bundle", "kept"]),
        ("AUDIT", "1%", ["--audit", "1%"]),
        ("IOMMU", "1", ["--iommu"]),
        ("IOMMU", "0", []),
        ("GDB", "1", ["--gdb"]),
        ("GDB", "boot", ["--gdb", "boot"]),
        ("SHELL", "1", ["--shell"]),
        ("SHELL", "/bin/sh", []),
        ("SHOW", "1", ["--show"]),
        ("SHOW", "0", []),
    ],
)
def test_a_variable_becomes_its_option_and_vcapdev_run_has_it(
    variable: str, value: str, words: list[str]
) -> None:
    """SHELL is make's own variable as well, and no wish as long as it is not 1."""
    assert words_of(**{variable: value}) == words
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    parser.parse_args(words)


def test_every_variable_of_run_guest_is_tried_above() -> None:
    text = (ROOT / "Makefile").read_text("utf-8").partition("RUN_OPTIONS =")[2].partition("\n\n")[0]
    used = set(re.findall(r"\b([A-Z][A-Z_]+)\b", text)) - {"WANT_SHELL"} | {"SHELL"}
    (mark,) = (
        mark for mark in test_a_variable_becomes_its_option_and_vcapdev_run_has_it.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    )  # fmt: skip
    assert used == {variable for variable, _, _ in mark.args[1]}


def test_the_home_is_found_whatever_shell_make_is_called_from() -> None:
    """bash puts it in the place of ``MODULE=~/a.ko`` itself, dash does not."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "run-guest", "PY=echo",
         "MODULE=~/a.ko b~/c.ko", "KDIR=~/my tree", "REPORT=~"],
        capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"], "HOME": "/home/me"},
    )  # fmt: skip
    words = done.stdout.partition("vcapdev run")[2].split()
    assert words == ["--module", "/home/me/a.ko", "--module", "b~/c.ko", "--kdir", "/home/me/my", "tree",
                     "--report", "~"]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "slip"),
    [
        (("run-guest", "KERNAL=trixie-6.12"), "make run-guest takes no KERNAL; see make help"),
        (("run-guest", "SCENE=read"), "make run-guest takes no SCENE;"),
        (("mutants", "MUTANT=early-unpin"), "make mutants takes no MUTANT;"),
        (("clean", "ALL=1"), "make clean takes no ALL;"),
    ],
)
def test_a_variable_that_would_change_nothing_is_refused(words: tuple[str, ...], slip: str) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), *words, "PY=echo"],
        capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (ExitStatus.USAGE, "")
    assert slip in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_an_outer_make_was_given_is_no_slip(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(
        f"all:\n\t@$(MAKE) --no-print-directory -C {ROOT} run-guest PY=echo SWAP=zram\n"
    )
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(tmp_path), "V=1"],
        capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.stdout.split()[-3:] == ["run", "--swap", "zram"], done.stderr


def test_each_target_takes_the_variables_that_it_uses() -> None:
    text = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    lists = dict(re.findall(r"^([A-Z]+_OPTIONS) = (.*)$", text, re.M))
    takes = {goal: set(names.split()) for goal, names in re.findall(r"^TAKES_([a-z-]+) = (.*)$", text, re.M)}
    own = {"PY", "MAKEFILE_LIST", "WANT_SHELL"}
    uses = {}
    for goal, recipe in re.findall(r"^([a-z][a-z-]*):[^=\n]*## .*\n((?:\t.*\n)+)", text, re.M):
        full = re.sub(r"\$\(([A-Z]+_OPTIONS)\)", lambda found: lists[found[1]], recipe)
        named = set(re.findall(r"(?:\$\(|,)([A-Z][A-Z_]*)\b(?=[),])", full)) - own
        if named:
            uses[goal] = named
    assert uses == takes


def test_the_environment_wishes_for_a_shell_too() -> None:
    """``SHELL=1 make run-guest``: make itself hides its SHELL from what stands in the environment."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "run-guest", "PY=echo"],
        capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"], "SHELL": "1"},
    )  # fmt: skip
    assert done.stdout.split()[-2:] == ["run", "--shell"]
