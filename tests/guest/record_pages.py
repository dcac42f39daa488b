# SPDX-License-Identifier: GPL-2.0-or-later
"""Records a slice of a real guest's memory for tests/guestmm/test_recorded.py.

::

    PYTHONPATH=. tools/python tests/guest/record_pages.py trixie-6.12

boots the kernel's guest, has it capture into small and huge pages, stops its vCPUs and writes
``tests/guestmm/recorded/KERNEL.npz``: some 4 KiB pages of the vmemmap with their physical addresses, what
/proc/kpageflags said of their page frames just before and after, and which page frames the media framework
lists as pinned. To be repeated for a new kernel.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from guest_ram import OneFile, memory_of
from numpy.typing import NDArray

from vcapdev.gallery.lookalike_scenes import shared_blocks
from vcapdev.gallery.scene import Picture
from vcapdev.gallery.stage import expected_file
from vcapdev.guestmm.kernel import Kernel, attach
from vcapdev.guestmm.media import buffers
from vcapdev.guestmm.memory import PAGE_SHIFT, PAGE_SIZE, GuestMemory
from vcapdev.guestmm.pagetable import FRAME, LARGE, PRESENT, PageTable
from vcapdev.progress import Silent
from vcapdev.run.capture import EXPECT
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair
from vcapdev.run.prepare import prepare
from vcapdev.vm.agent import Agent

HERE = Path(__file__).parents[1] / "guestmm" / "recorded"
PER_PAGE = PAGE_SIZE // 64  # struct pages in a page of the vmemmap
SCENE = ("vcap-scene", "--expect", EXPECT, "--frames", "100000", "--memory", "thp")
MEMORY = 640  # MiB: huge pages are off in small guests
#: Bits of /proc/kpageflags (Documentation/admin-guide/mm/pagemap.rst), a few vmemmap pages of each.
BITS = {
    **{"lru": 5, "slab": 7, "buddy": 10, "anon": 12, "swapbacked": 14},
    **{"head": 15, "tail": 16, "table": 26, "reserved": 32},
}
MOST = 4  # vmemmap pages of each kind
DEADLINE = 60.0


def page_flags(agent: Agent) -> NDArray[np.uint64]:
    """What the kernel says of each page frame."""
    data = agent.pull("/proc/kpageflags")
    return np.frombuffer(data[: len(data) // 8 * 8], dtype=np.uint64)


def tables(kernel: Kernel, virtual: int) -> list[int]:
    """Physical addresses of the tables on the way to an address, and of the page itself."""
    table, found = kernel.table.top, []
    for level in range(kernel.table.levels - 1, -1, -1):
        found.append(table)
        entry = kernel.memory.u64(table + 8 * ((virtual >> (PAGE_SHIFT + 9 * level)) & 511))
        if not entry & PRESENT or entry & LARGE:
            break
        table = entry & FRAME
    where = kernel.table.translate(virtual)
    return [*found, where & ~(PAGE_SIZE - 1)]


def choose(flags: NDArray[np.uint64], steady: NDArray[np.bool_], pinned: NDArray[np.int64]) -> list[int]:
    """Numbers of vmemmap pages: those with most of each kind, those of pinned pages, and of heads."""
    chosen: set[int] = set()
    for bit in BITS.values():
        rows = np.flatnonzero((flags >> np.uint64(bit) & np.uint64(1)).astype(bool) & steady)
        counts = np.bincount(rows // PER_PAGE)
        chosen |= {int(page) for page in np.argsort(-counts, kind="stable")[:MOST] if counts[page]}
    counts = np.bincount(pinned // PER_PAGE)
    chosen |= {int(page) for page in np.argsort(-counts, kind="stable")[:MOST] if counts[page]}
    tail = (flags >> np.uint64(BITS["tail"]) & np.uint64(1)).astype(bool)
    for page in list(chosen):
        first = page * PER_PAGE
        while first > 0 and tail[first]:
            first -= 1
        chosen |= {first // PER_PAGE, (first + 2) // PER_PAGE}
    return sorted(chosen)


def record(name: str) -> Path:
    """Boot, capture, stop, write."""
    options = RunOptions(kernel=name, memory=MEMORY, cold=False)
    with tempfile.TemporaryDirectory(prefix="vcaprec-") as work:
        pair = Pair(options, prepare(options, Silent()), Path(work))
        try:
            agent = pair.start()
            agent.run(["sh", "-ec", "\n".join(shared_blocks()["thp"]["setup"])])
            agent.push(expected_file(Picture()), EXPECT)
            lines: list[str] = []
            process = agent.spawn(SCENE, on_stdout=lines.append)
            agent.wait_for(lambda: len(lines) > 8 or process.status is not None, DEADLINE, "frames")
            assert process.status is None, process.stderr
            before = page_flags(agent)
            pair.vm.qmp.execute("stop")
            with memory_of(pair.vm) as memory:
                kernel = still(attach(memory), memory)
            pair.vm.qmp.execute("cont")
            after = page_flags(agent)
        finally:
            pair.stop()
    return write(name, kernel, before, after)


def still(kernel: Kernel, memory: GuestMemory) -> Kernel:
    """The same kernel over a copy of its RAM."""
    data = np.frombuffer(memory.segments[0].data.tobytes(), np.uint8)
    copy = GuestMemory(OneFile(-1, data))  # type: ignore[arg-type]
    return replace(
        kernel, memory=copy, table=PageTable(copy, kernel.table.top, kernel.table.levels), cache={}
    )


def write(name: str, kernel: Kernel, before: NDArray[np.uint64], after: NDArray[np.uint64]) -> Path:
    """Choose what is worth keeping, and keep it."""
    pinned = np.unique(np.concatenate([buffer.pfns for buffer in buffers(kernel) if buffer.pinned]))
    count = min(len(before), len(after), kernel.vmemmap.pages)
    pinned = pinned[(pinned >= 0) & (pinned < count)]
    asked = np.uint64(sum(1 << bit for bit in BITS.values()))
    steady = (before[:count] & asked) == (after[:count] & asked)
    numbers = choose(after[:count], steady, pinned)
    step = PER_PAGE * kernel.layout.size
    places = sorted({place for n in numbers for place in tables(kernel, kernel.vmemmap.base + n * step)})
    ram = kernel.memory.segments[0].data
    rows = np.concatenate([np.arange(n * PER_PAGE, (n + 1) * PER_PAGE) for n in numbers])
    rows = rows[rows < count]
    path = HERE / f"{name}.npz"
    HERE.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        about=np.array(json.dumps(about(name, kernel, len(ram)))),
        places=np.array(places, dtype=np.int64),
        content=np.stack([ram[place : place + PAGE_SIZE] for place in places]),
        pfns=rows,
        before=before[rows],
        after=after[rows],
        pinned=pinned[np.isin(pinned, rows)],
    )
    return path


def about(name: str, kernel: Kernel, ram: int) -> dict[str, object]:
    """All but the memory: where things are in it, and what is read out of BTF."""
    return {
        "kernel": name,
        "release": kernel.release,
        "note": kernel.note.text.decode(),
        "top": kernel.table.top,
        "levels": kernel.table.levels,
        "base": kernel.vmemmap.base,
        "pages": int(kernel.vmemmap.pages),
        "ram": ram,
        "zero_pfn": kernel.zero_pfn,
        "layout": asdict(kernel.layout),
        "flags": {"numbers": dict(kernel.flags.numbers), "mask": kernel.flags.mask},
        "types": {"values": dict(kernel.types.values), "top_byte": kernel.types.top_byte},
    }


if __name__ == "__main__":
    for one in sys.argv[1:]:
        print(record(one), (HERE / f"{one}.npz").stat().st_size)
