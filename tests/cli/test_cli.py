# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: what each kind of failure prints and exits with, and tracebacks only on demand."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcapdev import __version__, cli
from vcapdev.cli import main
from vcapdev.errors import ExitStatus, GuestError, InconclusiveError, SetupError, UsageError
from vcapdev.image.cache import Cache

ROOT = Path(__file__).parents[2]


def outcome(error: BaseException) -> object:
    def raise_it(_args: object) -> int:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("no board 'x'; vcapdev list boards"), 2),
        (SetupError("no network"), 20),
        (GuestError("QEMU ended"), 30),
        (InconclusiveError("nothing swapped"), 30),
        (KeyboardInterrupt(), 30),
    ],
)
def test_errors_of_users_are_one_line(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_version", outcome(error))
    assert cli.main(["version"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vcapdev: ")
    assert captured.err.count("\n") == 1
    assert cli.main(["-v", "version"]) == status
    assert "Traceback" in capsys.readouterr().err
    assert cli.main(["version", "-v"]) == status
    assert "Traceback" in capsys.readouterr().err


def test_who_is_interrupted_is_told_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = KeyboardInterrupt()
    monkeypatch.setattr(cli, "_version", outcome(ended))
    cli.main(["version"])
    assert capsys.readouterr().err.endswith(", no report was written\n")
    ended.add_note("half of it is in there; --resume goes on")
    cli.main(["version"])
    assert capsys.readouterr().err.endswith(", half of it is in there; --resume goes on\n")


def test_a_defect_is_shown_in_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_version", outcome(ZeroDivisionError("division by zero")))
    assert cli.main(["version"]) == ExitStatus.DEFECT
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "a defect of vcapdev: ZeroDivisionError" in said


@pytest.mark.parametrize("words", [["--version"], ["version"]])
def test_the_version(words: list[str]) -> None:
    assert vcapdev(*words).stdout == f"vcapdev {__version__}\n"


@pytest.mark.parametrize("words", [[], ["dance"], ["run", "--io", "telepathy"], ["serve"], ["list", "cats"]])
def test_wrong_usage_exits_2(words: list[str]) -> None:
    result = vcapdev(*words)
    assert result.returncode == ExitStatus.USAGE
    assert result.stderr.startswith("vcapdev: ")
    assert result.stderr.count("\n") == 1
    assert "--help'" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "required: COMMAND; see 'vcapdev --help'"),
        ("rnu", "COMMAND rnu: did you mean run?; see 'vcapdev --help'"),
        ("dance", "COMMAND dance: give one of run, serve, look,"),
        ("run --kernal x", "there is no option --kernal; did you mean --kernel?; see 'vcapdev run --help'"),
        ("run --mutnat=x", "there is no option --mutnat; did you mean --mutant?; see 'vcapdev run --help'"),
        ("run --zzz", "there is no option --zzz; see 'vcapdev run --help'"),
        ("run early-unpin", "'early-unpin' is one word too many; see 'vcapdev run --help'"),
        ("doctor now", "'now' is one word too many; see 'vcapdev doctor --help'"),
        ("mutants --speed 3", "there is no option --speed; see 'vcapdev mutants --help'"),
        ("run --kernel", "--kernel: expected one argument (a value that begins"),
        ("run --kernel bookwrm", "no recipe 'bookwrm' in images/; did you mean 'bookworm-6.1'?"),
        ("run --kernel foo", "known: bookworm-6.1, bullseye-5.10, trixie-6.12, trixie-7.3"),
        ("run --kernel qemu", "has no kernel: it is no guest image"),
        ("run --kernel ./nope.yaml", "cannot read recipe nope.yaml: No such file"),
        ("run --mutant early-unpinn", "no altered driver 'early-unpinn'; did you mean 'early-unpin'?"),
        ("run --board pv144", "no board is called 'pv144'"),
        ("run --norm NTSCC", "--norm NTSCC: did you mean NTSC?; see"),
        ("run --clock step", "--clock step: give one of paced, real, fast; see"),
        ("run --swap ram", "--swap ram: did you mean zram?"),
        ("run --frames many", "--frames many: give a whole number; see"),
        ("run --frames 0", "--frames 0: give a number from 1"),
        ("run --revision x", "--revision x: give a number, also as 0x11; see"),
        ("serve --socket-path s --revision x", "--revision x: give a number, also as 0x11; see"),
        ("run --audit 200%", "--audit 200%: give a share from 0 to 1, as 1% or 0.01; see"),
        ("run --audit-seed 3", "--audit-seed 3: nothing is audited; add --audit 1%"),
        ("run --bundle kept", "--bundle kept: no bundle is asked for; add --on-violation bundle"),
        ("run --bundle-size 99", "--bundle-size 99: no bundle is asked for; add --on-violation bundle"),
        ("run --io mmap --pool 20", "--pool 20 is for user memory, not --io mmap; leave it out"),
        ("run --shell --report there", "--report: --shell captures nothing and writes none"),
        ("run --module none.ko", "--module none.ko: no such file"),
        ("run --kdir none", "is no built kernel tree"),
        ("run --qemu none", "--qemu none: there is no such program"),
        ("run --lock none", "cannot read lock file none: No such file"),
        ("run --offline none", "bundle {here}/none cannot be read: No such file"),
        ("look none", "none: no bundle of vcapdev (No such file or directory); name a directory with"),
        ("cache", "required: {{list,prune}}; see 'vcapdev cache --help'"),
        ("cache prun", "prun: did you mean prune?; see 'vcapdev cache --help'"),
        ("cache list --all", "--all is for prune; leave it out"),
        ("bundle none/b", "none/b: there is no directory"),
        ("watch", "required: --module; see 'vcapdev watch --help'"),
        ("watch --module none", "--module none: no such directory"),
        ("scenario none.yaml", "none.yaml: No such file or directory; name a scenario file or a directory"),
        ("scenario -j none", "none: give a number from 1 to"),
        ("scenario -k nothing", "no test has nothing in its name"),
    ],
)
def test_wrong_usage_is_told_in_one_line_with_what_would_be_right(
    words: str,
    said: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also before anything was ever fetched: the cache is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path_factory.mktemp("cache")))
    for variable in ("VCAPDEV_OFFLINE", "VCAPDEV_LOCK"):  # main() sets them
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    try:
        status = main(words.split())
    except SystemExit as end:
        status = int(str(end.code))
    told = capsys.readouterr()
    assert (status, told.out) == (ExitStatus.USAGE, "")
    assert told.err.startswith("vcapdev: ")
    assert told.err.count("\n") == 1
    assert said.format(here=tmp_path) in told.err
    assert "[Errno" not in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_value_with_a_dash_is_explained() -> None:
    assert "written --qemu-opts=VALUE" in vcapdev("run", "--qemu-opts", "-S").stderr


def test_help_names_every_exit_status() -> None:
    text = vcapdev("run", "--help").stdout
    for status in ExitStatus:
        assert status.meaning in text


TALKATIVE = """
import argparse, sys
from vcapdev.cli import main

def work(args):
    for number in range(20000):
        print("line", number, flush=number % 100 == 0)
        print("line", number, file=sys.stderr)
    open(args.path, "w").write("done")
    return 10

grammar = argparse.ArgumentParser()
grammar.add_argument("path")
grammar.set_defaults(handler=work, verbose=False)
sys.exit(main(None, grammar))
"""


@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_reader_that_leaves_early_changes_nothing(tmp_path: Path, streams: tuple[str, ...]) -> None:
    """The work is done to its end, and findings stay findings: ``vcapdev run | head -1`` is no clean run."""
    pipes = {
        name: subprocess.PIPE if name in streams else subprocess.DEVNULL for name in ("stdout", "stderr")
    }
    words = [sys.executable, "-c", TALKATIVE, str(tmp_path / "end")]
    with subprocess.Popen(words, cwd=ROOT, env=os.environ, text=True, **pipes) as process:
        for name in streams:
            stream = getattr(process, name)
            assert stream.readline() == "line 0\n"
            stream.close()
        assert process.wait(60) == ExitStatus.FINDINGS
    assert (tmp_path / "end").read_text() == "done"


def test_another_broken_pipe_is_never_a_clean_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A socket of ours whose other end has gone, say."""

    def work(args: argparse.Namespace) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    grammar = argparse.ArgumentParser()
    grammar.set_defaults(handler=work, verbose=False)
    assert main([], grammar) == ExitStatus.DEFECT
    assert "a defect of vcapdev: BrokenPipeError" in capsys.readouterr().err


def test_boards_are_listed() -> None:
    assert "pv143 " in vcapdev("list", "boards").stdout


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """The user's cache: an entry that this process uses, one that it does not, and a package file."""
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache"))
    cache = Cache()
    cache.entry("programs", "0" * 64, lambda into: fill(into, 20_000), label="capture.c")
    cache.release()
    cache.entry("packages", "1" * 64, lambda into: fill(into, 400_000), label="kernel of a test")
    fill(cache.path("debs", "a.deb").parent, 100_000)
    yield cache
    cache.release()


def fill(into: Path, size: int) -> None:
    into.mkdir(exist_ok=True)
    (into / "file").write_bytes(bytes(size))


def test_the_cache_is_listed_the_largest_first_with_its_sum(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["cache", "list"]) == ExitStatus.CLEAN
    lines = [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()]
    assert [line[3:] for line in lines[:-1]] == [
        ["packages", "kernel of a test"],
        ["debs", "1 package files"],
        ["programs", "capture.c"],
    ]
    assert [line[1] for line in lines] == ["MB"] * 4
    today = {
        time.strftime("%Y-%m-%d", time.localtime(when)) for when in (time.time(), cache.root.stat().st_mtime)
    }
    assert {line[2] for line in lines[:-1]} <= today
    assert lines[-1][2:] == ["in", str(cache.root)]


def test_a_prune_takes_what_no_run_needs(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "prune"]) == ExitStatus.CLEAN
    assert [line.split(maxsplit=2)[2] for line in capsys.readouterr().out.splitlines()] == [
        "removed debs: 1 package files", "freed",
    ]  # fmt: skip
    assert not list((cache.root / "debs").iterdir())
    assert [item.kind for item in cache.list()] == ["packages", "programs"]


def test_a_prune_of_all_leaves_what_a_running_vcapdev_uses(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    result = vcapdev("cache", "prune", "--all")
    assert result.returncode == ExitStatus.CLEAN, result.stderr
    assert [line.split(maxsplit=2)[2] for line in result.stdout.splitlines()] == [
        "removed debs: 1 package files", "removed programs: capture.c", "in use  packages: kernel of a test",
        "freed",
    ]  # fmt: skip
    assert [item.kind for item in cache.list()] == ["packages"]
    cache.release()
    assert cli.main(["cache", "prune", "--all"]) == ExitStatus.CLEAN
    assert "removed packages: kernel of a test" in capsys.readouterr().out
    assert cache.list() == []


def test_a_cache_that_is_not_there_is_empty_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "none"))
    for action in ("list", "prune"):
        assert cli.main(["cache", action]) == ExitStatus.CLEAN
        said = capsys.readouterr()
        assert said.err == ""
        assert said.out.strip().startswith("0.0 MB")


def vcapdev(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vcapdev", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
