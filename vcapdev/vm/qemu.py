# SPDX-License-Identifier: GPL-2.0-or-later
"""Which QEMU runs the guest: one that has the vfio-user client, found on this machine or fetched from Debian.

The client (device ``vfio-user-pci``) exists from QEMU 10.1 on, so its presence is asked for, not a version.
Debian's is unpacked in the cache, never installed, and run through its own dynamic loader and libraries.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.image import offline
from vcapdev.image.cache import Cache, digest, write_atomic
from vcapdev.image.lock import Package, Resolution, locked_recipes
from vcapdev.image.provision import resolve, unpacked
from vcapdev.image.recipe import load_recipe
from vcapdev.progress import Progress

BINARY = "qemu-system-x86_64"
DEVICE = "vfio-user-pci"
RECIPE = "qemu"
_PROBE_TIMEOUT = 60.0  # seconds; a cold disk and a busy machine included


@dataclass(frozen=True)
class Qemu:
    """A QEMU that can be run: ``argv`` is the start of its command line."""

    argv: list[str]
    version: str  # "11.1.3"
    source: str  # where it comes from, for people
    packages: list[Package] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    resolution: Resolution | None = None  # for the lock file, when it comes from packages


@dataclass(frozen=True)
class Probe:
    """What a QEMU binary said of itself; ``problem`` is "" when it can be used."""

    version: str
    problem: str

    @property
    def usable(self) -> bool:
        """Whether it runs and has the vfio-user client."""
        return not self.problem


def provision_qemu(
    explicit: str | None,
    progress: Progress,
    *,
    lock: Path | None = None,
    refresh: bool = False,
    cache: Cache | None = None,
) -> Qemu:
    """``explicit`` (a name or path) if given, else QEMU on PATH if it has the client, else Debian's.

    With a ``lock`` file that holds QEMU, it is that one, even when PATH has another.

    :raise UsageError: ``explicit`` cannot be used. :raise SetupError: Debian's cannot be had.
    """
    cache = cache if cache is not None else Cache()
    if explicit is not None:
        return _explicit(explicit, cache)
    if lock is None:
        lock = offline.lock(RECIPE, cache, progress, guest=False)
    pinned = lock if lock is not None and RECIPE in locked_recipes(lock) else None
    found = find_on_path(cache) if pinned is None else None
    return found if found is not None else _from_debian(cache, progress, pinned, refresh)


def debian_qemu(progress: Progress, *, lock: Path | None = None, cache: Cache | None = None) -> Qemu:
    """Debian's package, whatever else this machine has.

    :raise SetupError: it cannot be had.
    """
    return _from_debian(cache if cache is not None else Cache(), progress, lock, False)


def named_program(name: str) -> str:
    """Where the program is that ``--qemu`` names.

    :raise UsageError: nowhere.
    """
    path = shutil.which(os.path.expanduser(name))
    if path is None:
        raise UsageError(f"--qemu {name}: there is no such program")
    return path


def _explicit(name: str, cache: Cache) -> Qemu:
    path = named_program(name)
    answer = probe([path], cache)
    if not answer.usable:
        raise UsageError(f"--qemu {name}: {answer.problem}; leave --qemu out to have Debian's fetched")
    return Qemu([path], answer.version, f"{path} (as asked for)")


def find_on_path(cache: Cache) -> Qemu | None:
    """QEMU on PATH, when it has the client."""
    path = shutil.which(BINARY)
    answer = probe([path], cache) if path else None
    return Qemu([path], answer.version, f"{path} (on PATH)") if path and answer and answer.usable else None


def _from_debian(cache: Cache, progress: Progress, lock: Path | None, refresh: bool) -> Qemu:
    recipe = load_recipe(RECIPE)
    resolution = resolve(recipe, cache, progress, lock=lock, refresh=refresh)
    tree = unpacked(recipe, resolution.packages, cache, progress, "QEMU")
    argv = tree_argv(tree)
    answer = probe(argv, cache)
    if not answer.usable:
        raise SetupError(f"QEMU from Debian's packages: {answer.problem}; give another one with --qemu")
    package = next((item for item in resolution.packages if item.name == "qemu-system-x86"), None)
    named = f" {package.version} ({package.suite})" if package else ""
    return Qemu(
        argv,
        answer.version,
        f"Debian package qemu-system-x86{named}, in the cache",
        list(resolution.packages),
        list(resolution.warnings),
        resolution,
    )


def tree_argv(tree: Path) -> list[str]:
    """How to run QEMU of an unpacked tree: its loader, its libraries, its data; nothing of the machine's.

    :raise SetupError: when the tree lacks a part.
    """
    loaders = [tree / place / "ld-linux-x86-64.so.2" for place in ("usr/lib64", "lib64")]
    loader = next((path for path in loaders if path.is_file()), None)
    binary = tree / "usr/bin" / BINARY
    if loader is None or not binary.is_file():
        raise SetupError(f"QEMU's packages hold no {BINARY} with its loader: correct recipe {RECIPE!r}")
    if ":" in str(tree):
        raise SetupError(
            f"the cache's path {tree} has a colon, which a library path cannot: set VCAPDEV_CACHE"
        )
    libraries = [tree / place for place in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")]
    data = [tree / "usr/share/qemu", tree / "usr/share/seabios", tree / "usr/lib/ipxe/qemu"]
    path = ":".join(str(place) for place in libraries if place.is_dir())
    argv = [str(loader), "--inhibit-cache", "--library-path", path, str(binary)]
    return argv + [word for place in data if place.is_dir() for word in ("-L", str(place))]


def probe(argv: Sequence[str], cache: Cache) -> Probe:
    """Ask a QEMU for its version and devices; the answer is kept as long as the binary does not change."""
    binary = next(word for word in reversed(argv) if word.endswith(BINARY) or word == argv[0])
    try:
        status = os.stat(binary)
    except OSError as error:
        return Probe("", f"{binary} cannot be run: {error.strerror}")
    key = digest(*argv, f"{status.st_ino} {status.st_size} {status.st_mtime_ns}")
    kept = cache.root / "probes" / f"qemu-{key[:24]}.json"
    known = _read(kept)
    if known is not None:
        return known
    answer = _ask(argv)
    if answer.usable or answer.version:  # a time-out or a crash is asked again
        with contextlib.suppress(OSError):  # it is asked again then
            write_atomic(kept, json.dumps({"version": answer.version, "problem": answer.problem}) + "\n")
    return answer


def _read(path: Path) -> Probe | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Probe(str(data["version"]), str(data["problem"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _ask(argv: Sequence[str]) -> Probe:
    said = _output([*argv, "--version"])
    match = re.search(r"QEMU emulator version (\S+)", said)
    if match is None:
        return Probe("", f"{argv[0]} is not a working QEMU ({(said.splitlines() or ['no output'])[0]})")
    devices = _output([*argv, "-machine", "none", "-device", "help"])
    if f'"{DEVICE}"' not in devices:
        return Probe(match[1], f"QEMU {match[1]} has no {DEVICE} device (10.1 is the first version with it)")
    return Probe(match[1], "")


def _output(argv: Sequence[str]) -> str:
    try:
        result = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT,
            check=False,
        )
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_TIMEOUT:g} s"
    return result.stdout
