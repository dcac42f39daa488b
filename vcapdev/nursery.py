# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that has loaded all that ``vcapdev serve`` needs, and forks one whenever it is asked.

Loading takes half a second, which is most of what a guest needs to start from a snapshot. The nursery is the
child of whoever starts guests (``vcapdev.run.nursery``), talks to it over its standard input, a seqpacket
socket, and ends with it; its own children end with it in turn.

Messages are JSON objects::

    {"meet": DIRECTORY, "size": BYTES}      look at the kernel of a snapshot: the children will know it
    {"argv": WORDS, "log": FILE, "environment": {...}}
                                            fork "vcapdev WORDS", both outputs at the end of FILE
    {"pid": N}, with a pidfd                the answer to that
    {"exited": N, "status": S}              later, the status as Popen.returncode has it
"""

from __future__ import annotations

import argparse
import array
import ctypes
import gc
import json
import mmap
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vcapdev.dma import StillSegment
from vcapdev.run.nursery import LARGEST
from vcapdev.serve.ram import q35
from vcapdev.vm.ramimage import load, new_memory

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Json = dict[str, Any]


def main() -> None:
    """Serve the socket that is standard input until its other end is closed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for whoever started us
    wake, signalled = socket.socketpair()
    for end in (wake, signalled):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
    with socket.socket(fileno=os.dup(0)) as parent:
        grammar = _load()
        while _turn(parent, wake, grammar):
            pass


def _load() -> argparse.ArgumentParser:
    """Everything that a device process will want, so that it is there after a fork; the grammar."""
    import qemu.qmp  # noqa: F401

    import vcapdev.cli
    import vcapdev.serve.command
    from vcapdev.bt878.testcard import card

    card()
    gc.collect()
    gc.freeze()
    return vcapdev.cli.parser()


def _turn(parent: socket.socket, wake: socket.socket, grammar: argparse.ArgumentParser) -> bool:
    """Wait for a request or the end of a child; False when nobody will ask any more."""
    ready = select.select([parent, wake], [], [])[0]
    if wake in ready:
        with suppress(BlockingIOError):
            wake.recv(4096)
        _bury(parent)
    if parent not in ready:
        return True
    data = parent.recv(LARGEST)
    request = json.loads(data) if data else {}
    if "meet" in request:
        _meet(Path(request["meet"]), request["size"])
    elif request:
        _fork(parent, request, grammar)
    return bool(data)


def _meet(snapshot: Path, size: int) -> None:
    """Look at the kernel of a saved guest; where that fails, each child has to do it."""
    from vcapdev.guestmm.familiar import meet
    from vcapdev.guestmm.memory import GuestMemory

    with suppress(OSError, ValueError):
        fd = new_memory(size)
        try:
            load(snapshot, fd)
            meet(GuestMemory(_Ram(fd, size)))
        finally:
            os.close(fd)
    gc.collect()
    gc.freeze()  # the children's collectors need not walk it, and so share the pages with us


class _Ram:
    """All RAM of a guest that does not run, in one file."""

    generation = 1

    def __init__(self, fd: int, size: int) -> None:
        data = np.frombuffer(mmap.mmap(fd, size, prot=mmap.PROT_READ), np.uint8)
        self.segments = [
            StillSegment(start, length, data[offset : offset + length], fd, offset)
            for start, length, offset in q35(size)
        ]


def _bury(parent: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        told = {"exited": pid, "status": os.waitstatus_to_exitcode(status)}
        with suppress(OSError):  # nobody wants to know any more
            parent.send(json.dumps(told).encode())


def _fork(parent: socket.socket, request: Json, grammar: argparse.ArgumentParser) -> None:
    pid = os.fork()
    if not pid:
        _be_born(request, grammar)
    pidfd = os.pidfd_open(pid)  # we have not waited for it: this is still the one
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
    with suppress(OSError):
        parent.sendmsg([json.dumps({"pid": pid}).encode()], rights)
    os.close(pidfd)


def _be_born(request: Json, grammar: argparse.ArgumentParser) -> NoReturn:
    """In the child: be what was asked for, as if started from a shell, and end with its status."""
    status = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for place, fd in enumerate((nothing, log, log)):
            os.dup2(fd, place)
        os.closerange(3, 1024)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["vcapdev", *request["argv"]]
        from vcapdev.cli import main as command

        status = command(request["argv"], grammar)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
