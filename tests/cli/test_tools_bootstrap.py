# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/python sets up its environment once: interrupted, without a network, from two checkouts.

The checkouts are made here, and so is the package index: two wheels of one line each.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vcapdev.errors import SetupError
from vcapdev.paths import cache_dir

ROOT = Path(__file__).parents[2]
DEADLINE = 120.0  # seconds for anything here
SHOW = "import sys, one, two; print(sys.prefix, one.NAME, two.NAME)"


class Index:
    """A package index with ``one`` and ``two``.

    :ivar asked: how often each path was asked for.
    :ivar held: while cleared, only half of ``two`` is sent; :attr:`halfway` tells when.
    """

    def __init__(self, place: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.held, self.halfway = threading.Event(), threading.Event()
        self._files = {wheel.name: wheel.read_bytes() for wheel in (made(place, "one"), made(place, "two"))}
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked[request.path] += 1
        name = request.path.strip("/").rpartition("/")[2]
        if name in self._files:
            content, kind = self._files[name], "application/octet-stream"
        else:
            links = [f'<a href="/files/{each}">{each}</a>' for each in self._files if each.startswith(name)]
            content, kind = "\n".join(links).encode(), "text/html"
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        if name in self._files:  # as PyPI says it of its files
            request.send_header("Cache-Control", "max-age=365000000, immutable, public")
        request.end_headers()
        if name == "two-1.0-py3-none-any.whl" and not self.held.is_set():
            request.wfile.write(content[: len(content) // 2])
            self.halfway.set()
            self.held.wait(DEADLINE)
            return
        request.wfile.write(content)

    def close(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()


def made(place: Path, name: str) -> Path:
    """A wheel with one module."""
    wheel, about = place / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"NAME = {name!r}\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{about}/RECORD": "".join(f"{each},,\n" for each in files)}.items():
            archive.writestr(path, text)
    return wheel


class Machine:
    """A user's machine, with a cache of its own and checkouts of something small."""

    def __init__(self, place: Path) -> None:
        self.place, self.cache = place, place / "cache of mine"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "VCAPDEV_CACHE": str(self.cache),
            "PYTHON": sys.executable,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "0",
            "PIP_TRUSTED_HOST": "127.0.0.1",  # of others pip keeps only what comes by https
        }

    def checkout(self, name: str) -> Path:
        """The script, what it imports, and wishes for the two wheels. Its path."""
        top = self.place / name
        for file in ("tools/python", "vcapdev/__init__.py", "vcapdev/errors.py", "vcapdev/paths.py"):
            (top / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, top / file)
        (top / "pyproject.toml").write_text(
            '[project]\ndependencies = ["one>=1"]\n[project.optional-dependencies]\ndev = ["two"]\n'
        )
        return top / "tools/python"

    def start(self, script: Path, index: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [script, "-c", SHOW], env=self.environment | {"PIP_INDEX_URL": index}, cwd=self.place, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by background jobs
        )  # fmt: skip

    def run(self, script: Path, index: str) -> tuple[int, str, str]:
        """Status, standard output and standard error, of a start that is left alone."""
        process = self.start(script, index)
        out, err = process.communicate(timeout=DEADLINE)
        return process.returncode, out, err

    def environments(self) -> list[Path]:
        """What lies where the environments do, finished or not."""
        return list((self.cache / "venv").iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path)
    yield index
    index.close()


def test_interrupted_then_completed_then_used_without_a_network(machine: Machine, index: Index) -> None:
    """Ctrl-C in the middle of a download; the next start completes; from then on nobody needs the index."""
    mine = machine.checkout("mine")
    first = machine.start(mine, index.url)
    assert index.halfway.wait(DEADLINE), first.communicate(timeout=DEADLINE)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = first.communicate(timeout=DEADLINE)
    assert first.returncode == 30, err
    assert (out, err.splitlines()[-1]) == (
        "", "vcapdev: interrupted; the next run goes on where this one was"
    )  # fmt: skip
    assert machine.environments() == [], "half an environment was left"

    index.held.set()
    status, out, err = machine.run(mine, index.url)
    assert (status, out.split()[-2:]) == (0, ["one", "two"]), err
    wheel = "/files/{}-1.0-py3-none-any.whl"
    asked = index.asked[wheel.format("one")], index.asked[wheel.format("two")]
    assert asked == (1, 2), "what was fetched before the interruption is not fetched again"
    assert not (machine.cache / "pip").exists(), "there only to resume from"

    index.close()
    (environment,) = machine.environments()
    expected = f"{environment}/content one two\n"
    assert machine.run(mine, index.url) == (0, expected, ""), "a second start needs no network"
    another = machine.checkout("another one")
    assert machine.run(another, index.url) == (0, expected, ""), "nor does another checkout"


def test_two_starts_at_once_build_one_environment(machine: Machine, index: Index) -> None:
    index.held.set()
    processes = [machine.start(machine.checkout(name), index.url) for name in ("a", "b")]
    said = [process.communicate(timeout=DEADLINE) for process in processes]
    (environment,) = machine.environments()
    assert [out for out, _ in said] == [f"{environment}/content one two\n"] * 2, said
    assert sorted("setting up" in err for _, err in said) == [False, True], said


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"VCAPDEV_CACHE": "", "XDG_CACHE_HOME": ""},
        {"VCAPDEV_CACHE": "some/where"},
        {"VCAPDEV_CACHE": "/with two  spaces/and $HOME"},
        {"VCAPDEV_CACHE": "~/mine"},
        {"VCAPDEV_CACHE": "~", "XDG_CACHE_HOME": "/xdg"},
        {"VCAPDEV_CACHE": "~nobody-has-this-name/x"},
        {"XDG_CACHE_HOME": "/with two  spaces/and *"},
        {"XDG_CACHE_HOME": "relative/is/ignored"},
        {"XDG_CACHE_HOME": "~/ignored"},
        {"HOME": None},
        {"HOME": None, "VCAPDEV_CACHE": "~/mine"},
        {"HOME": "/a home"},
        {"HOME": "/a home", "XDG_CACHE_HOME": "/xdg", "VCAPDEV_CACHE": ""},
    ],
    ids=str,
)
def test_the_script_and_vcapdev_agree_where_the_cache_is(
    machine: Machine, settings: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mkdir that fails has the script name the place, before anything is written anywhere."""
    tools = machine.place / "bin"
    tools.mkdir()
    (tools / "mkdir").write_text("#!/bin/sh\nexit 1\n")
    (tools / "mkdir").chmod(0o755)
    environment = {key: value for key, value in machine.environment.items() if key != "VCAPDEV_CACHE"}
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    for key in ("VCAPDEV_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(key, raising=False)
    for key, value in ({"HOME": str(machine.place)} | settings).items():
        environment.pop(key, None)
        if value is not None:
            environment[key] = value
            monkeypatch.setenv(key, value)
    monkeypatch.chdir(machine.place)
    done = subprocess.run(
        [ROOT / "tools/python", "-c", "print('ran')"], env=environment, cwd=machine.place, text=True,
        capture_output=True, timeout=DEADLINE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        expected = f"cannot write to the cache at {cache_dir()}; make it writable, or set VCAPDEV_CACHE "
    except SetupError as error:
        expected = str(error)
    assert (done.returncode, done.stdout) == (20, ""), done.stderr
    assert done.stderr.startswith(f"vcapdev: {expected}"), done.stderr


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule itself, as the base directory specification of freedesktop.org has it."""
    monkeypatch.setenv("HOME", "/a home")
    monkeypatch.chdir(tmp_path)
    found = []
    for override, xdg in (("", ""), ("", "/xdg"), ("", "not/absolute"), ("own", "/xdg"), ("~/own", "/xdg")):
        monkeypatch.setenv("VCAPDEV_CACHE", override)
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
        found.append(str(cache_dir()))
    home = "/a home/.cache/vcapdev"
    assert found == [home, "/xdg/vcapdev", home, str(tmp_path / "own"), "/a home/own"]
