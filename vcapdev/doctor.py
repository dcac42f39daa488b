# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev doctor``: what was found on this machine, what was chosen, what is missing; one line each.

Nothing is fetched or built, so it works offline and before the first run.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from vcapdev.errors import ExitStatus, VcapdevError
from vcapdev.image.archives import find_archives, read_config
from vcapdev.image.cache import Cache
from vcapdev.image.machine import NEEDS, install_command, missing, wrong_platform
from vcapdev.image.provision import kept_resolution, kept_tree
from vcapdev.image.recipe import load_recipe, recipe_names
from vcapdev.progress import Silent
from vcapdev.vm.accel import choose_accel
from vcapdev.vm.qemu import BINARY, RECIPE, Qemu, probe, provision_qemu

_ROOM = 2 << 30  # bytes that a first run takes, with some to spare
_MEMORY = 1 << 30  # bytes: a guest of 256 MiB, the device process, builds


@dataclass(frozen=True)
class Finding:
    """One line: a topic, whether it is as it should be, and what was found or what to do."""

    topic: str
    good: bool
    text: str

    def __str__(self) -> str:
        return f"{self.topic:<12} {'ok  ' if self.good else 'MISS'} {self.text}"


def doctor(stream: TextIO | None = None, cache: Cache | None = None) -> ExitStatus:
    """Print the findings; CLEAN when a run can start, else ENVIRONMENT."""
    stream = stream if stream is not None else sys.stdout
    good = True
    for finding in examine(cache if cache is not None else Cache()):
        print(finding, file=stream, flush=True)
        good = good and finding.good
    return ExitStatus.CLEAN if good else ExitStatus.ENVIRONMENT


def examine(cache: Cache) -> Iterator[Finding]:
    """All findings, one by one, as they are made."""
    yield _machine()
    yield _tools()
    yield from _archives()
    qemu, finding = _qemu(cache)
    yield finding
    yield _accelerator(qemu, cache)
    for name in recipe_names():
        yield _image(name, cache)
    yield _cache(cache)


def _machine() -> Finding:
    wrong = wrong_platform()
    if wrong:
        return Finding("machine", False, wrong)
    memory = _available_memory()
    text = (
        f"{_system()}, {len(os.sched_getaffinity(0))} CPUs, {memory / 1e9:.1f} GB of memory available, "
        f"Python {platform.python_version()}"
    )
    if memory < _MEMORY:
        return Finding(
            "machine", False, f"{text}: a run needs {_MEMORY / 1e9:.1f} GB, end something else first"
        )
    return Finding("machine", True, text)


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "Linux"


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def _tools() -> Finding:
    lacking = missing()
    if lacking:
        names = ", ".join(f"{need.what} (for {need.purpose})" for need in lacking)
        return Finding("tools", False, f"missing: {names}; run '{install_command(lacking)}'")
    return Finding("tools", True, ", ".join(need.what for need in NEEDS))


def _archives() -> Iterator[Finding]:
    suites = [suite for name in (*recipe_names(), RECIPE) for suite in load_recipe(name).suites]
    try:
        archives = find_archives(suites, read_config())
    except VcapdevError as error:
        yield Finding("archive", False, str(error))
        return
    for name in ("main", "security"):
        archive = archives.get(name)
        if archive is None:
            variable = "VCAPDEV_SECURITY_MIRROR"
            yield Finding("archive", True, f"no {name} archive (set {variable} to have the latest kernels)")
            continue
        keys = "keys in trusted.gpg.d" if not archive.signed_by else archive.signed_by.split("\n")[0].strip()
        how = "TRUSTED WITHOUT SIGNATURE by apt's configuration" if archive.trusted else keys
        yield Finding("archive", True, f"{name}: {archive.uri} ({how})")


def _qemu(cache: Cache) -> tuple[Qemu | None, Finding]:
    own = shutil.which(BINARY)
    answer = probe([own], cache) if own else None
    reason = f"{own}: {answer.problem}; " if answer and not answer.usable else ""
    recipe = load_recipe(RECIPE)
    kept = kept_resolution(recipe, cache)
    there = kept is not None and kept_tree(kept.packages, cache) is not None
    if there or (answer is not None and answer.usable):
        try:
            qemu = provision_qemu(None, Silent(), cache=cache)
        except VcapdevError as error:
            return None, Finding("qemu", False, str(error))
        return qemu, Finding("qemu", True, f"{reason}{qemu.version}, {qemu.source}")
    suites = ", ".join(suite.name for suite in recipe.suites)
    return None, Finding("qemu", True, f"{reason}the first run fetches Debian's ({suites}, about 40 MB)")


def _accelerator(qemu: Qemu | None, cache: Cache) -> Finding:
    if qemu is None:
        return Finding(
            "accelerator", True, "tried out as soon as QEMU is there (auto: KVM if it works, else TCG)"
        )
    accel = choose_accel(qemu, cache=cache)
    return Finding("accelerator", True, f"{accel.name} ({accel.why})")


def _image(name: str, cache: Cache) -> Finding:
    recipe = load_recipe(name)
    kept = kept_resolution(recipe, cache)
    if kept is None:
        return Finding("image", True, f"{name}: not fetched yet ({recipe.description}; about 80 MB)")
    versions = [
        f"{package.name} {package.version}"
        for package in kept.packages
        if package.name.startswith("linux-image-") and package.name != recipe.kernel
    ]
    notes = "".join(f"; {warning}" for warning in kept.warnings)
    return Finding("image", True, f"{name}: {', '.join(versions) or 'resolved'}{notes}")


def _cache(cache: Cache) -> Finding:
    place = cache.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    items = cache.list()
    text = f"{cache.root}: {cache.size() / 1e6:.0f} MB in {len(items)} items, {free / 1e9:.1f} GB free there"
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("cache", False, f"{text}; not writable: set VCAPDEV_CACHE to another directory")
    if free < _ROOM and not items:
        return Finding("cache", False, f"{text}; a first run needs {_ROOM / 1e9:.1f} GB: set VCAPDEV_CACHE")
    return Finding("cache", True, text)
