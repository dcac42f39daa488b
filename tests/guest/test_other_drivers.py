# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects that buffers are found without knowing a driver: vivid's, of two allocators that bttv has not."""

from __future__ import annotations

import numpy as np
import pytest
from guest_ram import memory_of

import vcapdev
from vcapdev.guestmm.kernel import Kernel, attach
from vcapdev.guestmm.media import Media
from vcapdev.guestmm.mediabuffer import MediaBuffer
from vcapdev.guestmm.pages import PageFacts, PageSet
from vcapdev.image.modules import ModuleTree, load_order
from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare
from vcapdev.testing import Guest

pytestmark = pytest.mark.guest

PICTURE = "--set-fmt-video=width=640,height=480,pixelformat=YUYV"
SIZE = 640 * 480 * 2
COUNT = 4


@pytest.mark.parametrize(
    ("kernel", "allocator", "memory"),
    [
        pytest.param("bookworm-6.1", "vmalloc", "userptr", marks=vcapdev.guest(kernel="bookworm-6.1")),
        pytest.param("trixie-6.12", "dma_contig", "mmap", marks=vcapdev.guest(kernel="trixie-6.12")),
    ],
)
def test_buffers_of_vivid(guest: Guest, kernel: str, allocator: str, memory: str) -> None:
    """It is a card of software: nothing of it comes from the device that the checker watches."""
    device = load_vivid(guest, kernel, allocators=int(allocator == "dma_contig"))
    stream = {"userptr": "user", "mmap": "mmap"}[memory]
    process = guest.spawn(["v4l2-ctl", "-d", device, PICTURE, f"--stream-{stream}={COUNT}"])
    with memory_of(guest.vm) as ram:
        attached = attach(ram)
        media = Media.of(attached)
        try:
            guest.wait(
                lambda: len([one for one in media.buffers() if one.owned]) == COUNT, 30, "vivid's buffers"
            )
            found = media.buffers()
            assert media.why_not == ""
            assert [(one.memory, one.length, one.index) for one in found] == [
                (memory, SIZE, number) for number in range(COUNT)
            ]
            for one in found:
                assert media.opener(one) == f"pid {process.pid} (v4l2-ctl)"
                check_pages(attached, one, pinned=memory == "userptr")
            held = media.pins()
            assert set(held) == ({one.key for one in found} if memory == "userptr" else set())
        finally:
            process.kill()
            process.wait(30)
        guest.wait(lambda: not media.buffers(), 30, "the end of vivid's buffers")


def check_pages(kernel: Kernel, buffer: MediaBuffer, *, pinned: bool) -> None:
    facts = look(kernel, buffer)
    assert facts.present.all()
    assert facts.pinned.tolist() == [pinned] * len(buffer.pfns)
    if not pinned:  # coherent memory of one piece
        assert (np.diff(buffer.pfns) == 1).all()


def look(kernel: Kernel, buffer: MediaBuffer) -> PageFacts:
    pages = PageSet(kernel, buffer.pfns)
    pages.read()
    return pages.facts()


def load_vivid(guest: Guest, kernel: str, **parameters: int) -> str:
    """Load it with all that it needs from the kernel's package, which the guest's image leaves out."""
    tree = ModuleTree(prepare(RunOptions(kernel=kernel), Silent()).guest.modules)
    loaded = guest.modules()
    for module in load_order(tree, ["vivid"]):
        if module.info.name not in loaded:
            last = module.info.name == "vivid"
            guest.load(module.source, **({"n_devs": 1, "node_types": 1, **parameters} if last else {}))
    names = guest.run("for d in /sys/class/video4linux/*; do echo ${d##*/} $(cat $d/name); done").stdout
    return next(f"/dev/{line.split()[0]}" for line in names.splitlines() if "vivid" in line)
