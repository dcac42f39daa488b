# SPDX-License-Identifier: GPL-2.0-or-later
"""Which CPUs the processes of a run use.

On the fast clock guest and card take turns: twenty register reads a frame, each a message to the device
process and one back. What that costs is a matter of where the two run. To wake a process on another CPU takes
a few microseconds on most machines and a hundred on some, where a CPU that falls asleep is given back to a
hypervisor; there both are quicker on one CPU, where each is woken by the other going to sleep. So the machine
is asked: some messages are sent to and fro in either way.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_TRIPS = 200
_GAP = 1e-4  # seconds between two messages, in which a CPU may fall asleep
_TOO_DEAR = 40e-6  # seconds that the way to another CPU and back may take longer: a frame has some twenty
_SILENCE = 5.0  # seconds after which the echo is given up
_ECHO = """
import os, socket, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
echo = socket.socket(fileno=0)
while data := echo.recv(64):
    echo.send(data)
"""


def better_together() -> bool:
    """Whether two processes that take turns are quicker on one CPU; False when that cannot be found out."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return False
    try:
        os.sched_setaffinity(0, {cpus[0]})
        alone, apart = (_round_trip(cpu) for cpu in cpus[:2])
    except OSError:  # nobody answers, or we may not choose
        return False
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, cpus)
    return apart - alone > _TOO_DEAR


def put_together(processes: Iterable[int]) -> bool:
    """Move all threads of some processes to one CPU: where the first of them happens to be.

    :return: whether they are there.
    """
    threads = [int(task.name) for pid in processes for task in Path(f"/proc/{pid}/task").glob("[0-9]*")]
    try:
        cpu = _cpu_of(threads[0])
        for thread in threads:
            os.sched_setaffinity(thread, {cpu})
    except (OSError, IndexError):
        return False
    return True


@contextmanager
def together(processes: Iterable[int]) -> Iterator[None]:
    """For a while in which two processes do little but take turns: on one CPU, where that is quicker.

    This machine is asked once in the life of this process, which takes a tenth of a second.
    """
    pids = list(processes)
    moved = _asked() and put_together(pids)
    try:
        yield
    finally:
        if moved:
            _let_go(pids)


@cache
def _asked() -> bool:
    return better_together()


def _let_go(processes: Iterable[int]) -> None:
    """Let the threads of some processes run wherever this one may."""
    cpus = os.sched_getaffinity(0)
    for thread in (int(task.name) for pid in processes for task in Path(f"/proc/{pid}/task").glob("[0-9]*")):
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, cpus)


def _cpu_of(thread: int) -> int:
    """Where a thread ran last (proc(5): field 39 of its stat)."""
    return int(Path(f"/proc/{thread}/stat").read_text().rpartition(")")[2].split()[36])


def _round_trip(cpu: int) -> float:
    """Median seconds to a process on a CPU and back.

    :raise OSError: it does not answer.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(_SILENCE)
        command = [sys.executable, "-I", "-S", "-c", _ECHO, str(cpu)]
        with subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.DEVNULL) as echo:
            theirs.close()
            try:
                return statistics.median(_trips(ours))
            finally:
                ours.close()
                echo.kill()


def _trips(sock: socket.socket) -> Iterable[float]:
    sock.send(b"ready?")
    sock.recv(64)
    for _ in range(_TRIPS):
        time.sleep(_GAP)
        begin = time.monotonic()
        sock.send(b"0123456789abcdef")
        if not sock.recv(64):
            raise OSError("the echo has ended")
        yield time.monotonic() - begin
