# SPDX-License-Identifier: GPL-2.0-or-later
"""Saving a guest that runs, and letting it go on in another QEMU: QEMU's part, RAM, disk, logs.

The files of a saved guest, all in one directory::

    state                 QEMU's migration stream, without RAM ("x-ignore-shared")
    ram.runs, ram.pages   RAM (vcapdev.vm.ramimage)
    swap                  its swap disk, if it had one; sparse
    console.log           what its console had printed
    kernel.log            its kernel log, as /dev/kmsg gives it, a record a line
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcapdev.errors import GuestError
from vcapdev.vm import ramimage
from vcapdev.vm.commandline import VmConfig
from vcapdev.vm.kernel_log import Record
from vcapdev.vm.qmp import Qmp
from vcapdev.vm.watch import CrashWatch

if TYPE_CHECKING:
    from vcapdev.vm.machine import Vm

STATE, SWAP, CONSOLE, LOG = "state", "swap", "console.log", "kernel.log"
_SAVE = 60.0  # seconds for QEMU to write its part: 0.03 on an idle machine
_LOAD = 60.0
_TURN = 0.002


class SnapshotError(GuestError):
    """A saved guest cannot be brought back."""


class Restore:
    """Brings the guest of ``config.snapshot`` into a QEMU that waits for it.

    The files that the new guest goes on writing are copied when this is made, before QEMU starts.

    :raise SnapshotError: a file is missing or damaged.
    """

    def __init__(self, config: VmConfig, watch: CrashWatch) -> None:
        assert config.snapshot is not None
        self._saved = config.snapshot
        try:
            config.console_log.write_bytes((self._saved / CONSOLE).read_bytes())
            if config.swap_disk is not None:
                copy_sparse(self._saved / SWAP, config.swap_disk)
            for record in (self._saved / LOG).read_bytes().splitlines():
                watch.feed_kmsg(record)
        except OSError as error:
            raise SnapshotError(f"the snapshot in {self._saved} cannot be read: {error}") from error

    def fill(self, memory: int) -> None:
        """RAM as it was.

        :raise SnapshotError: the saved one is damaged.
        """
        try:
            ramimage.load(self._saved, memory)
        except (OSError, ValueError) as error:
            raise SnapshotError(f"the snapshot's RAM cannot be had back: {error}") from error

    def go_on(self, qmp: Qmp) -> None:
        """Everything else; the guest runs afterwards.

        :raise SnapshotError: QEMU does not understand what was saved.
        """
        _without_ram(qmp)
        qmp.execute("migrate-incoming", {"uri": f"file:{self._saved / STATE}"})
        _wait(qmp, _LOAD)
        deadline = time.monotonic() + _LOAD
        while qmp.execute("query-status")["status"] in ("inmigrate", "prelaunch", "postmigrate"):
            if time.monotonic() > deadline:
                raise SnapshotError("the guest was loaded from its snapshot and does not go on")
            time.sleep(_TURN)


def save(vm: Vm, directory: Path) -> None:
    """Write a guest that has a slot without a card in it; it stands still afterwards, for good.

    :raise OSError: the disk is full, for example.
    :raise SnapshotError: QEMU cannot.
    """
    _without_ram(vm.qmp)
    vm.qmp.execute("migrate", {"uri": f"file:{directory / STATE}"})
    _wait(vm.qmp, _SAVE)
    ramimage.save(vm.memory, directory)
    if vm.config.swap_disk is not None:
        copy_sparse(vm.config.swap_disk, directory / SWAP)
    (directory / CONSOLE).write_bytes(vm.config.console_log.read_bytes())
    lines = [as_kmsg(record, number) for number, record in enumerate(vm.watch.kmsg.records)]
    (directory / LOG).write_bytes(b"".join(line + b"\n" for line in lines))


def as_kmsg(record: Record, number: int) -> bytes:
    """A record as /dev/kmsg gives it (``parse_kmsg`` reads it back)."""
    priority = (record.level or 0) | (0 if record.kernel else 8)
    text = "".join(c if " " <= c <= "~" and c != "\\" else f"\\x{min(ord(c), 0xFF):02x}" for c in record.text)
    return f"{priority},{number},{record.usec},-;{text}".encode("ascii")


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file whose holes stay holes; ``target`` is replaced."""
    with source.open("rb") as old, target.open("wb") as new:
        size, at = os.fstat(old.fileno()).st_size, 0
        os.ftruncate(new.fileno(), size)
        while (data := _next_data(old.fileno(), at)) is not None:
            at = os.lseek(old.fileno(), data, os.SEEK_HOLE)
            os.lseek(new.fileno(), data, os.SEEK_SET)
            while data < at:
                data += os.sendfile(new.fileno(), old.fileno(), data, at - data)


def _next_data(fd: int, at: int) -> int | None:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a hole up to the end
            return None
        raise


def _without_ram(qmp: Qmp) -> None:
    wanted = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
    qmp.execute("migrate-set-capabilities", {"capabilities": wanted})


def _wait(qmp: Qmp, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        told: dict[str, Any] = qmp.execute("query-migrate")
        status, why = told.get("status"), str(told.get("error-desc", "it does not say why"))
        if status == "completed":
            return
        if status in ("failed", "cancelled") and os.strerror(errno.ENOSPC) in why:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if status in ("failed", "cancelled"):
            raise SnapshotError(f"QEMU cannot save or load the guest: {why}")
        if time.monotonic() > deadline:
            raise SnapshotError(f"QEMU does not save or load the guest within {seconds:g} s")
        time.sleep(_TURN)
