# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that have booted once and were saved, so that every later one starts from there.

A snapshot is made without the card, which has state in another process that QEMU cannot save; the card is
plugged after the restore. It is an entry of the cache, by the content of everything that the guest's state
depends on: QEMU, its options, kernel, initramfs, kernel parameters, the processor under KVM. Whatever changes
gives another key; nothing is ever brought up to date::

    saved = snapshot_of(config, progress)          # boots a guest if there is none yet
    vm = Vm(replace(config, snapshot=saved))
    vm.start()                                     # the guest runs
    vm.plug_card()
    agent = vm.wait_agent()                        # its clock is right, its random numbers are its own

What a guest that starts like this has in common with its siblings, and what not, is in docs/snapshots.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vcapdev.errors import UsageError
from vcapdev.image.cache import Cache, digest, disk_errors, write_atomic
from vcapdev.paths import cache_dir
from vcapdev.progress import Progress
from vcapdev.vm import ramimage, restore
from vcapdev.vm.agent import Agent
from vcapdev.vm.commandline import VmConfig, build_command_line
from vcapdev.vm.machine import Vm
from vcapdev.workdir import workdir

KIND = "snapshots"
_FORMAT = "1"  # of what is saved, and how the guest is brought to it; another one when that changes
_ABOUT = "about.json"
_BOOT = 180.0  # seconds; 6 on an idle machine without KVM
_CALM = 1.0  # seconds without a line in the kernel's log, after which a guest has booted
_CALM_AT_MOST = 20.0
_TURN = 0.1
_MOST = 16  # snapshots in the cache, some 80 MB each; those that were not used for longest go
_STAY_AWAKE = "for port in /sys/bus/pci/devices/*/power/control; do echo on > $port; done"
_SOMEWHERE = Path("/vcapdev")  # stands for the working directory, on which nothing depends
_HASHED = (restore.STATE, ramimage.RUNS, ramimage.PAGES, restore.CONSOLE, restore.LOG)


def snapshot_of(
    config: VmConfig, progress: Progress, *, name: str = "guest", cache: Cache | None = None
) -> Path:
    """The directory of a saved guest of this configuration; it is booted and saved when there is none.

    ``name`` says in ``vcapdev cache list`` what it is. One that is damaged is made again, after a line that
    says so. ``config`` may have a card; the saved guest has an empty slot. Only one process makes it, others
    wait.

    :raise UsageError: a guest of this configuration cannot be saved.
    :raise SetupError: the disk is full. :raise GuestError: the guest does not come up.
    """
    if config.interactive:
        raise UsageError("an interactive guest cannot start from a snapshot")
    owner = cache if cache is not None else _cache(cache_dir())
    alone = bare(config)
    key = key_of(alone, owner)
    label = f"{name} with {alone.memory_mib} MiB, swap {alone.swap} {alone.append}".rstrip()

    def build(directory: Path) -> None:
        make(alone, directory, progress)
        owner.keep(KIND, _MOST)

    saved = owner.entry(KIND, key, build, label=label)
    problem = what_is_wrong(saved, owner)
    if problem:
        progress.start(f"A snapshot is damaged ({problem}); it is made again")
        progress.finish()
        owner.drop(KIND, key)
        saved = owner.entry(KIND, key, build, label=label)
    return saved


def bare(config: VmConfig) -> VmConfig:
    """The guest that is saved for one of ``config``: it has an empty slot for the card."""
    return replace(config, card_socket=None, snapshot=None, slot=True)


def key_of(config: VmConfig, cache: Cache) -> str:
    """The cache key of a :func:`bare` guest: a hash over all that its state depends on."""
    swap = None if config.swap_disk is None else _SOMEWHERE / "swap"
    words = build_command_line(replace(config, workdir=_SOMEWHERE, swap_disk=swap))
    programs = list(config.qemu.argv)
    files = {str(path): _content(path, cache) for path in (config.kernel, config.initrd)}
    parts = [_FORMAT, _STAY_AWAKE, json.dumps([files.get(word, word) for word in words[len(programs) :]])]
    parts += [_program(word, cache) for word in programs]
    if config.swap_disk is not None:
        parts.append(f"{config.swap_disk_mib} MiB of swap")
    if config.accel == "kvm":
        parts.append(_processor())
    return digest(*parts)


def make(config: VmConfig, directory: Path, progress: Progress) -> None:
    """Boot a guest and save it into ``directory``.

    :raise OSError: the disk is full. :raise GuestError: the guest does not come up.
    """
    progress.start("Booting a guest to start others from")
    with workdir("snap") as work:
        swap = None if config.swap_disk is None else work / "swap"
        with Vm(replace(config, workdir=work, swap_disk=swap)) as vm:
            vm.start()
            _settle(vm.wait_agent(_BOOT), vm)
            restore.save(vm, directory)
            release = str((vm.agent.hello or {}).get("release"))
    write_about(config, directory, release)
    progress.finish(f"{(directory / ramimage.PAGES).stat().st_size / 1e6:.0f} MB")


def write_about(config: VmConfig, directory: Path, release: str) -> None:
    """What was saved, for people, and how each file can be told to be whole."""
    about = {
        "format": _FORMAT,
        "kernel": release,
        "parameters": config.append,
        "memory_mib": config.memory_mib,
        "files": {file: _measure(directory / file) for file in _HASHED},
    }
    (directory / _ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _settle(agent: Agent, vm: Vm) -> None:
    """Have the slot awake, and wait until the kernel has said all that it has to say about its boot.

    A port without a device is put to sleep, and waking it takes the tenth of a second that PCIe wants
    (drivers/pci/pci.c, pci_bridge_wait_for_secondary_bus).
    """
    agent.run(["sh", "-c", _STAY_AWAKE])
    end = time.monotonic() + _CALM_AT_MOST
    lines, since = -1, 0.0
    while time.monotonic() < end:
        if len(vm.watch.kmsg.records) != lines:
            lines, since = len(vm.watch.kmsg.records), time.monotonic()
        if time.monotonic() - since > _CALM:
            return
        agent.pump(_TURN)


def what_is_wrong(saved: Path, cache: Cache) -> str:
    """Why a saved guest cannot be used; "" when it can.

    Sizes are compared each time, contents once for each state of the files: it takes 0.1 s.
    """
    try:
        about = json.loads((saved / _ABOUT).read_text(encoding="utf-8"))
        wanted: dict[str, list[Any]] = {name: about["files"][name] for name in _HASHED}
        for name, (size, _) in wanted.items():
            if (saved / name).stat().st_size != size:
                return f"{name} has not the size that it was saved with"
        if _known_good(saved, cache):
            return ""
        for name, measured in wanted.items():
            if _measure(saved / name) != measured:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    with suppress(OSError):  # it is looked at again then
        write_atomic(_note(saved, cache), json.dumps(_stamps(saved)) + "\n")
    return ""


def _known_good(saved: Path, cache: Cache) -> bool:
    try:
        return bool(json.loads(_note(saved, cache).read_text(encoding="utf-8")) == _stamps(saved))
    except (OSError, ValueError):
        return False


def _note(saved: Path, cache: Cache) -> Path:
    return cache.root / "probes" / f"snapshot-{saved.parent.name[:24]}.json"


def _stamps(saved: Path) -> list[str]:
    """A change of any file changes it, since nobody can set the time of the last change of status."""
    return [_stamp(str(saved / name)) for name in (*_HASHED, _ABOUT)]


def _stamp(word: str) -> str:
    """A word of a command line; with the state of the file that it names, if it does."""
    try:
        status = os.stat(word)
    except OSError:
        return word
    return f"{word} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _program(word: str, cache: Cache) -> str:
    """A word of what starts QEMU. Where that lies in the cache it never changes, on whatever machine."""
    root = str(cache.root)
    return word.replace(root, "cache:") if word.startswith(root + "/") else _stamp(word)


def _measure(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _content(path: Path, cache: Cache) -> str:
    """What a file contains. A path in the cache says it: entries never change."""
    if path.is_relative_to(cache.root):
        return str(path.relative_to(cache.root))
    return _hash_of(_stamp(str(path)), path)


@lru_cache(maxsize=4)
def _cache(root: Path) -> Cache:
    """One for all guests of this process: each keeps a lock on every entry that it has given out."""
    return Cache(root)


@lru_cache(maxsize=64)
def _hash_of(stamp: str, path: Path) -> str:
    with disk_errors(path.parent), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def _processor() -> str:
    """What the guest sees of the processor under KVM: its model and abilities, and the host's kernel."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        wanted = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags", "bugs")
        told = [line for line in lines.splitlines() if line.partition(":")[0].strip() in wanted]
        return "\n".join([*told, os.uname().release])
    return os.uname().release
