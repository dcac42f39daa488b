# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the decoder of page_owner with the memory of running kernels that have it.

tests/guest/record_page_owner.py recorded them. The truth is what the kernel itself printed of the same pages
in /sys/kernel/debug/page_owner.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from vcapdev.guestmm.btf import Btf
from vcapdev.guestmm.kernel import Kernel
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.pageowner import PageOwners, describe_page_owner
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.guestmm.vmcoreinfo import Vmcoreinfo

PAGE = 4096
RECORDED = sorted((Path(__file__).parent / "recorded_owners").glob("*.npz"))
HEAD = re.compile(
    r"Page allocated via order (?P<order>\d+), mask (?P<gfp>0x[0-9a-f]+)\S*, pid (?P<pid>\d+), tgid \d+ "
    r"\((?P<comm>.*)\), ts (?P<time>\d+) ns(, free_ts (?P<free_time>\d+) ns)?"
)


class Segment:
    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.start, self.size, self.data = 0, len(data), data
        self.fd, self.fd_offset, self.writable = -1, 0, False


class Symbols:
    """What the decoder asked of the kernel's symbols when it was recorded."""

    def __init__(self, about: dict[str, Any]) -> None:
        self._addresses, self._places = about["symbols"], about["places"]

    def address(self, name: str) -> int | None:
        return cast("int | None", self._addresses[name])

    def at(self, address: int) -> tuple[str, int, int] | None:
        place = self._places[str(address)]
        return None if place is None else tuple(place)


class Recorded:
    """A recording as a kernel; only what the decoder looks at is there."""

    generation = 1

    def __init__(self, path: Path) -> None:
        with np.load(path) as data:
            self.about: dict[str, Any] = json.loads(str(data["about"]))
            ram = np.zeros(self.about["ram"], dtype=np.uint8)
            for place, content in zip(data["places"].tolist(), data["content"], strict=True):
                ram[place : place + PAGE] = content
            btf = Btf(data["btf"].tobytes())
        self.segments = [Segment(ram)]
        memory = GuestMemory(cast(Any, self))
        nothing = cast(Any, None)
        self.kernel = Kernel(
            memory=memory, note=Vmcoreinfo.parse(self.about["note"].encode()),
            table=PageTable(memory, self.about["top"], self.about["levels"]),
            symbols=cast(Any, Symbols(self.about)), btf=btf,
            layout=nothing, flags=nothing, types=nothing, vmemmap=nothing, zero_pfn=0,
        )  # fmt: skip


@pytest.fixture(scope="module", params=RECORDED, ids=lambda path: path.stem)
def real(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_every_page_is_told_as_its_kernel_tells_it(real: Recorded) -> None:
    owners = PageOwners(real.kernel)
    for pfn in real.about["pfns"]:
        head, _, *stack = real.about["said"][str(pfn)].splitlines()
        owner, said = owners.read(pfn), HEAD.fullmatch(head)
        assert owner is not None
        assert said is not None, head
        assert owner.allocated
        assert (owner.order, owner.gfp) == (int(said["order"]), int(said["gfp"], 16))
        assert (owner.pid, owner.comm) == (int(said["pid"]), said["comm"])
        assert owner.time == int(said["time"])
        if said["free_time"] is not None:
            assert owner.free_time == int(said["free_time"])
        assert owner.stack == [line.strip().split("/")[0] for line in stack if line.startswith(" ")]


def test_pages_of_the_capture_tell_who_had_them_before(real: Recorded) -> None:
    ours = [pfn for pfn in real.about["pfns"] if "vcap-scene" in real.about["said"][str(pfn)]]
    assert len(ours) >= 8
    freed = 0
    for pfn in ours:
        allocation, free = describe_page_owner(real.kernel, pfn)
        assert "(vcap-scene)" in allocation[0]
        assert "__alloc_pages" in allocation[1] or "alloc" in allocation[1]
        freed += any("free" in line for line in free)
    assert freed, "none of them was ever used before"
