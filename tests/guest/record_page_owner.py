# SPDX-License-Identifier: GPL-2.0-or-later
"""Records what page_owner keeps of some pages, for tests/guestmm/test_pageowner_recorded.py.

::

    PYTHONPATH=.:tests/guest tools/python tests/guest/record_page_owner.py TREE

boots the kernel that was built in TREE with CONFIG_PAGE_OWNER=y, CONFIG_DEBUG_FS=y and debug information, has
it capture, stops its vCPUs and writes ``tests/guestmm/recorded_owners/RELEASE.npz``: the memory that the
decoder reads for some pages, and what the kernel itself says of them in /sys/kernel/debug/page_owner.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from drgn import Architecture, Platform, Program
from guest_ram import OneFile, memory_of

from vcapdev.gallery.scene import Picture
from vcapdev.gallery.stage import expected_file
from vcapdev.guestmm.btfwriter import BtfWriter
from vcapdev.guestmm.kallsyms import Kallsyms
from vcapdev.guestmm.kernel import Kernel, attach
from vcapdev.guestmm.media import buffers
from vcapdev.guestmm.memory import PAGE_SIZE, GuestMemory
from vcapdev.guestmm.pageowner import PageOwners
from vcapdev.guestmm.pagetable import PageTable
from vcapdev.progress import Silent
from vcapdev.run.capture import EXPECT
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair
from vcapdev.run.prepare import prepare

DIRECTORY = Path(__file__).parents[1] / "guestmm" / "recorded_owners"
SCENE = ("vcap-scene", "--expect", EXPECT, "--frames", "100000")
TYPES = ("page_owner", "stack_record", "handle_parts", "page_ext_operations", "page_ext_flags", "mem_section")
DEADLINE = 120.0
PAGES = 8  # of the capture's buffers, and as many of the kernel's


class Noted(GuestMemory):
    """Guest memory that remembers which pages were read."""

    def __init__(self, memory: Any) -> None:
        super().__init__(memory)
        self.pages: set[int] = set()

    def read(self, address: int, size: int) -> bytes:
        self.pages |= set(range(address // PAGE_SIZE, (address + size - 1) // PAGE_SIZE + 1))
        return super().read(address, size)


class NotedSymbols:
    """The kernel's symbols; remembers what was asked."""

    def __init__(self, symbols: Kallsyms) -> None:
        self._symbols = symbols
        self.addresses: dict[str, int | None] = {}
        self.places: dict[int, tuple[str, int, int] | None] = {}

    def address(self, name: str) -> int | None:
        self.addresses[name] = self._symbols.address(name)
        return self.addresses[name]

    def at(self, address: int) -> tuple[str, int, int] | None:
        self.places[address] = self._symbols.at(address)
        return self.places[address]


def record(tree: Path) -> Path:
    """Boot, capture, stop, ask the kernel, write."""
    options = RunOptions(kdir=tree, append="page_owner=on", swap="none", pressure="none")
    with tempfile.TemporaryDirectory(prefix="vcaprec-") as work:
        pair = Pair(options, prepare(options, Silent()), Path(work))
        try:
            agent = pair.start()
            agent.run(["mount", "-t", "debugfs", "none", "/sys/kernel/debug"])
            agent.push(expected_file(Picture()), EXPECT)
            lines: list[str] = []
            process = agent.spawn(SCENE, on_stdout=lines.append)
            agent.wait_for(lambda: len(lines) > 8 or process.status is not None, DEADLINE, "frames")
            assert process.status is None, process.stderr
            pair.vm.qmp.execute("stop")
            with memory_of(pair.vm) as memory:
                ram = np.frombuffer(memory.segments[0].data.tobytes(), np.uint8)
                live = attach(memory)
                copy = GuestMemory(cast(Any, OneFile(-1, ram)))
                table = PageTable(copy, live.table.top, live.table.levels)
                kernel = replace(live, memory=copy, table=table, cache={})
                pinned = np.concatenate([each.pfns for each in buffers(kernel) if each.pinned])
            pair.vm.qmp.execute("cont")
            pfns = [*pinned[:PAGES].tolist(), *steady(kernel)]
            said = told(agent, pfns)
        finally:
            pair.stop()
    return write(tree, kernel, ram, pfns, said)


def steady(kernel: Kernel) -> list[int]:
    """Some pages that a boot has allocated and that nobody gives back."""
    owners = PageOwners(kernel)
    found = []
    for pfn in range(0x1000, kernel.vmemmap.pages, 61):
        owner = owners.read(pfn)
        if owner is None or not owner.allocated or pfn % (1 << owner.order):
            continue  # the kernel tells of the first page of an allocation only
        if any("kernel_init" in each for each in owner.stack):
            found.append(pfn)
        if len(found) == PAGES:
            break
    return found


def told(agent: Any, pfns: list[int]) -> dict[str, str]:
    """What /sys/kernel/debug/page_owner says of these pages: its paragraphs, by page frame."""
    agent.run(["sh", "-c", "cat /sys/kernel/debug/page_owner > /tmp/owners"], timeout=DEADLINE)
    text = agent.pull("/tmp/owners", timeout=DEADLINE).decode()
    paragraphs = text.split("\n\n")
    return {str(pfn): next((each for each in paragraphs if f"PFN {pfn} " in each), "") for pfn in pfns}


def write(tree: Path, kernel: Kernel, ram: Any, pfns: list[int], said: dict[str, str]) -> Path:
    """Keep just what the decoder reads."""
    memory, symbols = Noted(OneFile(-1, ram)), NotedSymbols(kernel.symbols)
    noted = replace(
        kernel, memory=memory, symbols=cast(Kallsyms, symbols), cache={},
        table=PageTable(memory, kernel.table.top, kernel.table.levels),
    )  # fmt: skip
    owners = PageOwners(noted)
    for pfn in pfns:
        owners.read(pfn)
    program = Program(Platform(Architecture.X86_64))
    module = program.extra_module("vmlinux", create=True)
    module = module[0] if isinstance(module, tuple) else module
    module.address_ranges = [(0, (1 << 64) - 1)]
    module.try_file(str(tree / "vmlinux"), force=True)
    types = BtfWriter(program, TYPES)
    missing = [name for name in TYPES if not types.add(name)]
    assert not missing, missing
    about = {
        "release": kernel.release, "ram": len(ram), "top": kernel.table.top, "levels": kernel.table.levels,
        "note": kernel.note.text.decode(), "symbols": symbols.addresses, "pfns": pfns, "said": said,
        "places": {str(address): place for address, place in symbols.places.items()},
    }  # fmt: skip
    pages = sorted(memory.pages)
    DIRECTORY.mkdir(exist_ok=True)
    path = DIRECTORY / f"{kernel.release}.npz"
    np.savez_compressed(
        path,
        about=np.array(json.dumps(about)),
        btf=np.frombuffer(types.blob(), np.uint8),
        places=np.array(pages, dtype=np.int64) * PAGE_SIZE,
        content=np.stack([ram[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] for page in pages]),
    )
    return path


if __name__ == "__main__":
    for one in sys.argv[1:]:
        made = record(Path(one))
        print(made.name, made.stat().st_size)
