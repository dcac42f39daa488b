# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own programs, compiled statically with the machine's gcc and kept by content.

Program ``vcap-NAME`` is made of guest/src/vcap-NAME.c, of every C file of guest/src/NAME/ if there is one,
and of what it takes from another program (:data:`_SHARED`). They are static, so that they run in a guest of
any Debian release.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.image import machine, offline
from vcapdev.image.cache import Cache, digest
from vcapdev.progress import Progress
from vcapdev.resources import resource_dir

FLAGS = ("-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-pthread")
_COMPILER = "gcc"
_PREFIX = "vcap-"
#: What a program takes from another one's directory.
_SHARED = {"vcap-scene": ("capture/card.c", "capture/verify.c")}
_DEADLINE = 300  # seconds for one compiler run, on a very slow machine


def build_programs(
    names: Sequence[str], progress: Progress, *, sources: Path | None = None, cache: Cache | None = None
) -> dict[str, Path]:
    """Executables of the named programs; from the cache when compiler, flags and sources are the same.

    ``sources`` is guest/src unless a test has its own.

    :raise UsageError: when there is no such program.
    :raise SetupError: no compiler or static C library, or the program does not compile: its first error.
    """
    source_dir = sources if sources is not None else resource_dir("guest") / "src"
    owner = cache if cache is not None else Cache()
    found: dict[str, Path] = {}
    for name, (made_of, content) in offline.programs(owner, progress).items():
        if name in names and made_of == sources_digest(name, source_dir):
            found[name] = content / name
    left = [name for name in names if name not in found]
    if left:
        machine.require("programs")
        compiler = _compiler_version()
        found |= {name: _build(name, source_dir, compiler, owner, progress) for name in left}
    return {name: found[name] for name in names}


def sources_digest(name: str, source_dir: Path | None = None) -> str:
    """A digest of all that a program is made of, but for the compiler.

    :raise UsageError: when there is no such program.
    """
    directory = source_dir if source_dir is not None else resource_dir("guest") / "src"
    files = [*program_sources(name, directory), *sorted(directory.rglob("*.h"))]
    texts = [f"{path.relative_to(directory)}\0".encode() + path.read_bytes() for path in files]
    return digest(name, *FLAGS, *texts)


def program_sources(name: str, source_dir: Path) -> list[Path]:
    """The C files of a program, sorted. :raise UsageError: when it has none."""
    main = source_dir / f"{name}.c"
    if not main.is_file():
        known = ", ".join(sorted(path.stem for path in source_dir.glob(f"{_PREFIX}*.c")))
        raise UsageError(f"there is no guest program {name!r}; there are {known or 'none'}")
    own = sorted((source_dir / name.removeprefix(_PREFIX)).glob("*.c"))
    return [main, *own, *(source_dir / path for path in _SHARED.get(name, ()))]


def _build(name: str, source_dir: Path, compiler: str, cache: Cache, progress: Progress) -> Path:
    files = program_sources(name, source_dir)
    key = digest(compiler, sources_digest(name, source_dir))

    def build(directory: Path) -> None:
        progress.start(f"Compiling {name}")
        _compile(name, files, source_dir, directory / name)
        progress.finish()

    return cache.entry("programs", key, build, label=name) / name


def _compile(name: str, files: Sequence[Path], source_dir: Path, output: Path) -> None:
    # Map the place of the sources away, so that the same sources give the same program everywhere.
    places = (f"-ffile-prefix-map={source_dir}=.", f"-I{source_dir}")
    argv = [_COMPILER, *FLAGS, *places, "-o", str(output), *map(str, files)]
    result = _run(argv, {"TMPDIR": str(output.parent)})  # what a killed compiler leaves goes with the rest
    if result.returncode:
        raise SetupError(f"guest program {name} does not compile: {_first_error(result.stderr)}")


def _first_error(stderr: str) -> str:
    """The line of a compiler's or linker's output that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and "collect2:" not in line]
    for mark in ("error:", "undefined reference", "cannot find", "fatal"):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "the compiler gave no reason"


def _compiler_version() -> str:
    result = _run([_COMPILER, "--version"])
    if result.returncode:
        raise SetupError(f"{_COMPILER} --version fails: {_first_error(result.stderr)}; reinstall gcc")
    return result.stdout.splitlines()[0]


def _run(
    argv: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
        )
    except FileNotFoundError:
        raise SetupError(f"this machine has no {argv[0]}: install it (apt-get install gcc)") from None
    except subprocess.TimeoutExpired:
        raise SetupError(f"{argv[0]} did not end within {_DEADLINE} s; is the machine overloaded?") from None
