# SPDX-License-Identifier: GPL-2.0-or-later
"""Records a kernel that only its vmlinux explains, for tests/guestmm/test_dwarf_recorded.py.

::

    PYTHONPATH=.:tests/guest tools/python tests/guest/record_dwarf.py TREE

boots the kernel that was built in TREE with DWARF and without BTF, has it capture, stops its vCPUs and writes
``tests/guestmm/recorded_dwarf/RELEASE.npz``: what was taken from its vmlinux, the memory that attaching reads
with that alone (the kernel's symbol table is left out), some pages of the vmemmap, and what /proc/kpageflags
said of their page frames just before and after.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
from guest_ram import OneFile, memory_of
from numpy.typing import NDArray
from record_page_owner import Noted, NotedSymbols
from record_pages import PER_PAGE, choose, page_flags, tables

from vcapdev.gallery.scene import Picture
from vcapdev.gallery.stage import expected_file
from vcapdev.guestmm import kernel as kernel_module
from vcapdev.guestmm.debugfile import DebugFile
from vcapdev.guestmm.kallsyms import Kallsyms
from vcapdev.guestmm.kernel import Kernel, attach
from vcapdev.guestmm.media import buffers
from vcapdev.guestmm.memory import PAGE_SIZE, GuestMemory
from vcapdev.progress import Silent
from vcapdev.run.capture import EXPECT
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair
from vcapdev.run.prepare import prepare

DIRECTORY = Path(__file__).parents[1] / "guestmm" / "recorded_dwarf"
SCENE = ("vcap-scene", "--expect", EXPECT, "--frames", "100000")
COMPARED = ("init_uts_ns", "_stext", "node_data", "init_top_pgt")
DEADLINE = 120.0


class Looked(Noted):
    """Remembers what is looked at, not the whole pages that are searched for a BTF which is not there."""

    def read(self, address: int, size: int) -> bytes:
        return super().read(address, size) if size < PAGE_SIZE else GuestMemory.read(self, address, size)


def record(tree: Path) -> Path:
    """Boot, capture, stop, write."""
    options = RunOptions(kdir=tree, swap="none", pressure="none")
    file = DebugFile.load(tree / "vmlinux")
    with tempfile.TemporaryDirectory(prefix="vcaprec-") as work:
        pair = Pair(options, prepare(options, Silent()), Path(work))
        try:
            agent = pair.start()
            agent.push(expected_file(Picture()), EXPECT)
            lines: list[str] = []
            process = agent.spawn(SCENE, on_stdout=lines.append)
            agent.wait_for(lambda: len(lines) > 8 or process.status is not None, DEADLINE, "frames")
            assert process.status is None, process.stderr
            before = page_flags(agent)
            pair.vm.qmp.execute("stop")
            with memory_of(pair.vm) as memory:
                ram = np.frombuffer(memory.segments[0].data.tobytes(), np.uint8)
            pair.vm.qmp.execute("cont")
            after = page_flags(agent)
        finally:
            pair.stop()
    return write(file, ram, before, after)


def write(file: DebugFile, ram: Any, before: NDArray[np.uint64], after: NDArray[np.uint64]) -> Path:
    """Keep what attaching reads, and pages of the vmemmap that are worth looking at."""
    memory, asked = Looked(OneFile(-1, ram)), []

    def symbols(note: Any, *_: object) -> Kallsyms:
        asked.append(NotedSymbols(file.kallsyms(note)))
        return cast(Kallsyms, asked[0])

    with mock.patch.object(kernel_module, "_read_symbols", symbols):
        kernel = attach(memory, debug_file=file)
    note = ram.tobytes().find(kernel.note.text)
    pinned = pinned_by_media(attach(GuestMemory(cast(Any, OneFile(-1, ram))), debug_file=file))
    count = min(len(before), len(after), kernel.vmemmap.pages)
    numbers = choose(after[:count], before[:count] == after[:count], pinned)
    base, step = kernel.vmemmap.base, PER_PAGE * kernel.layout.size
    pages = {*memory.pages, note // PAGE_SIZE, (note + len(kernel.note.text)) // PAGE_SIZE}
    pages |= {place // PAGE_SIZE for number in numbers for place in tables(kernel, base + number * step)}
    names = {*COMPARED, *asked[0].addresses} & set(file.symbols)
    rows = np.concatenate([np.arange(n * PER_PAGE, (n + 1) * PER_PAGE) for n in numbers])
    rows = rows[rows < count]
    about = {
        "release": kernel.release, "ram": len(ram), "build_id": file.build_id,
        "symbols": {name: file.symbols[name] for name in sorted(names)},
    }  # fmt: skip
    places = sorted(pages)
    DIRECTORY.mkdir(exist_ok=True)
    path = DIRECTORY / f"{kernel.release}.npz"
    np.savez_compressed(
        path,
        about=np.array(json.dumps(about)),
        types=np.frombuffer(file.btf, np.uint8),
        places=np.array(places, dtype=np.int64) * PAGE_SIZE,
        content=np.stack([ram[place * PAGE_SIZE : (place + 1) * PAGE_SIZE] for place in places]),
        pfns=rows,
        before=before[rows],
        after=after[rows],
        pinned=pinned[np.isin(pinned, rows)],
    )
    return path


def pinned_by_media(kernel: Kernel) -> NDArray[np.int64]:
    """Page frames that the media framework has pinned, by its own lists."""
    return np.unique(np.concatenate([buffer.pfns for buffer in buffers(kernel) if buffer.pinned]))


if __name__ == "__main__":
    for one in sys.argv[1:]:
        made = record(Path(one))
        print(made.name, made.stat().st_size)
