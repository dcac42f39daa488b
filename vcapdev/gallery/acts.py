# SPDX-License-Identifier: GPL-2.0-or-later
"""Short captures that together use all of a driver's ways to set up DMA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vcapdev.bt878.pattern import KIND_VBI, PictureKey, Shot, picture
from vcapdev.gallery.scene import Outcome, Picture, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.run.capture import EXPECT

_FRAMES = 8
_TIMEOUT = 30.0  # seconds for an act; one or two on an idle machine
_PATIENCE = 3000  # ms without a frame after which the program gives up
_VBI_FILE = "/tmp/vbi"
_VBI_LINES, _VBI_STRIDE, _VBI_BYTES = 16, 2048, 2044  # of a field; of a line in memory, and written (PAL)


@dataclass(frozen=True)
class Act:
    """One capture. ``check`` looks at what the program left in the guest; "" when all is well."""

    scene: Scene
    check: Callable[[Stage], str] | None = None

    @property
    def name(self) -> str:
        """The scene's."""
        return self.scene.name

    def with_driver(self, variant: str | None) -> Scene:
        """The same with another driver."""
        return replace(self.scene, modules=variant)

    def missed(self, outcome: Outcome, stage: Stage) -> str:
        """What the program itself has noticed, "" for nothing."""
        program, frames = outcome.program, outcome.frames
        if program is not None and program.status not in (0, 1):
            last = (program.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return f"status {program.status}: {last}"[:200]
        if outcome.bad_frames:
            return f"{outcome.bad_frames} of {frames.captured} frames damaged"
        if frames.errors:
            return f"{frames.errors} frames given back as failed"
        return self.check(stage) if self.check is not None and stage.up else ""


def _capture(name: str, title: str, shown: Picture, io: str, *more: str) -> Act:
    size = f"{shown.width}x{shown.height}"
    words = ["vcap-capture", "--io", io, "--size", size, "--norm", shown.norm, "--format", shown.format]
    words += ["--field", shown.field, "--frames", str(_FRAMES), "--expect", EXPECT, "--hold-ms", "200"]
    words += ["--timeout-ms", str(_PATIENCE), *more]
    return Act(Scene(name, title, tuple(words), picture=shown, timeout=_TIMEOUT))


def _vbi() -> Act:
    count = 4
    words = ("v4l2-ctl", "-d", "/dev/vbi0", "--set-standard=pal", "--stream-mmap",
             f"--stream-count={count}", f"--stream-to={_VBI_FILE}")  # fmt: skip
    scene = Scene("vbi", "teletext lines", words, teardown=(f"test -s {_VBI_FILE}",), timeout=_TIMEOUT)
    return Act(scene, lambda stage: vbi_damage(stage.pull(_VBI_FILE), count))


def vbi_damage(data: bytes, frames: int) -> str:
    """What is wrong with captured VBI lines (PAL, both fields of each frame); "" for nothing."""
    size = 2 * _VBI_LINES * _VBI_STRIDE
    if len(data) != frames * size:
        return f"{len(data)} bytes of VBI lines came, not {frames * size}"
    shape = (frames, 2, _VBI_LINES, _VBI_STRIDE)
    got = np.frombuffer(data, np.uint8).reshape(shape)
    numbers = got[..., :4].copy().view("<u4")[..., 0]
    if (numbers != numbers[:, :1, :1]).any():
        return "a VBI buffer mixes frames"
    for frame in range(frames):
        for parity in (0, 1):
            key = PictureKey(KIND_VBI, parity, 576, _VBI_LINES, _VBI_BYTES)
            sent = Shot(picture(key), int(numbers[frame, 0, 0])).plane(0)
            if not np.array_equal(got[frame, parity, :, :_VBI_BYTES], sent):
                return f"the VBI lines of buffer {frame}, field {parity} are not what the card sent"
    return ""


_SMALL = Picture(width=384, height=288)
_POOL = ("--buffers", "4", "--pool", "8", "--pageout", "idle,queued")

USERPTR = _capture("userptr", "user memory that is swapped out", Picture(), "userptr", *_POOL)
UNALIGNED = _capture(
    "unaligned", "user memory that begins within a page", _SMALL, "userptr",
    "--buffers", "3", "--pool", "5", "--offset", "52", "--clean",
)  # fmt: skip
MMAP = _capture("mmap", "the driver's own buffers", _SMALL, "mmap")
READ = _capture("read", "read() into the program's memory", _SMALL, "read")
PIECES = _capture(
    "pieces", "read() in pieces, out of a buffer of the kernel", _SMALL, "read", "--piece", "10000"
)
PLANAR = _capture("planar", "three planes", Picture(format="YU12"), "userptr", *_POOL)
SMALL_PLANES = _capture(
    "small-planes", "three planes of a field each", replace(_SMALL, format="422P"), "mmap"
)
ONE_FIELD = _capture("one-field", "one field only", replace(_SMALL, field="top"), "mmap")
SEQUENTIAL = _capture("sequential", "one field behind the other", Picture(field="seq-tb"), "mmap")
VBI = _vbi()
#: In the order in which they are played.
ACTS = (USERPTR, UNALIGNED, MMAP, READ, PIECES, PLANAR, SMALL_PLANES, ONE_FIELD, SEQUENTIAL, VBI)
_BY_FILE = {
    "bttv-risc.c": (USERPTR, PLANAR, SMALL_PLANES, ONE_FIELD, SEQUENTIAL, VBI),
    "bttv-vbi.c": (VBI, USERPTR),
}


def acts_for(file: str) -> tuple[Act, ...]:
    """The acts that use a file of the driver."""
    return _BY_FILE.get(file.rpartition("/")[2], (USERPTR, UNALIGNED, MMAP, READ, PIECES))
