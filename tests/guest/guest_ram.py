# SPDX-License-Identifier: GPL-2.0-or-later
"""A running guest's RAM as a device process has it mapped, for tests without a card."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcapdev.dma import StillSegment
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.vm.machine import Vm


class OneFile:
    """Guest RAM below 2 GiB: one file, mapped at address 0."""

    generation = 1

    def __init__(self, fd: int, data: NDArray[np.uint8]) -> None:
        self.segments = [StillSegment(0, len(data), data, fd, 0)]


@contextmanager
def memory_of(vm: Vm) -> Iterator[GuestMemory]:
    """A running guest's RAM, as a device process has it mapped."""
    places = [path for path in Path(f"/proc/{vm.pid}/fd").iterdir() if "memfd:" in os.readlink(path)]
    ram = max(places, key=lambda path: path.stat().st_size)
    fd = os.open(ram, os.O_RDONLY)
    try:
        mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        yield GuestMemory(OneFile(fd, np.frombuffer(mapping, dtype=np.uint8)))  # type: ignore[arg-type]
    finally:
        os.close(fd)
