# SPDX-License-Identifier: GPL-2.0-or-later
"""Short captures that together use all of a driver's ways to set up DMA, and the mistakes that programs make.

Every act looks at what came of it in its own way: frames are compared word for word, answers with what they
must be, kernel memory before and after with each other, and what the card was set up for with what the
driver as it is sets up (:attr:`Act.settings`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from vcapdev.bt878.pattern import KIND_VBI, PictureKey, Shot, picture
from vcapdev.gallery.scene import Machine, Outcome, Picture, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.run.capture import EXPECT

_FRAMES = 6
_TIMEOUT = 30.0  # seconds for an act; one or two on an idle machine
_SOON = 8.0  # the same for v4l2-ctl, which waits for ever where no frame comes; 0.2 on an idle machine
_PATIENCE = 2000  # ms without a frame after which the program gives up
_VBI_FILE = "/tmp/vbi"
_DEBUG, _USED = "/tmp/debug", "/tmp/slots-used"
_VBI_LINES, _VBI_STRIDE, _VBI_BYTES = 16, 2048, 2044  # of a field; of a line in memory, and written (PAL)
#: Registers that say what picture the card makes: scaling, cropping, colour, capture on or off, interrupts.
_SCALING = ("CROP", "VDELAY_LO", "VACTIVE_LO", "HDELAY_LO", "HACTIVE_LO", "HSCALE_HI", "HSCALE_LO",
            "VSCALE_HI", "VSCALE_LO", "VTC")  # fmt: skip
_SETTINGS = (
    *(f"{field}_{name}" for field in "EO" for name in _SCALING),
    "COLOR_FMT", "COLOR_CTL", "CAP_CTL", "VTOTAL_LO", "VTOTAL_HI", "GPIO_DMA_CTL",
)  # fmt: skip


@dataclass(frozen=True)
class Act:
    """One capture. ``check`` looks at what the program left in the guest; "" when all is well.

    :ivar kernels: how the names of the recipes end that can play it; none: all can.
    :ivar settings: whether it sets up the card for a picture, so that its settings at the end are known.
    """

    scene: Scene
    check: Callable[[Stage], str] | None = None
    kernels: tuple[str, ...] = ()
    settings: bool = True

    @property
    def name(self) -> str:
        """The scene's."""
        return self.scene.name

    def with_driver(self, variant: str | None) -> Scene:
        """The same with another driver."""
        return replace(self.scene, modules=variant)

    def settings_of(self, outcome: Outcome, stage: Stage) -> dict[str, int]:
        """What the driver answered, and what the card is set up for now; what is left open is not in it."""
        found = _answers(outcome)
        if self.settings and stage.up:
            registers = stage.registers()
            found |= {name: registers[name] for name in _SETTINGS if name in registers}
        return found

    def missed(self, outcome: Outcome, stage: Stage, expected: Mapping[str, int] | None = None) -> str:
        """What the program itself has noticed, "" for nothing; ``expected`` are settings of the card."""
        program, frames = outcome.program, outcome.frames
        if program is not None and program.status not in (0, 1):
            last = (program.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return f"status {program.status}: {last}"[:200]
        if outcome.bad_frames:
            return f"{outcome.bad_frames} of {frames.captured} frames damaged"
        if frames.errors:
            return f"{frames.errors} frames given back as failed"
        if program is not None and (
            wrong := [event for event in program.events if event.get("event") == "wrong"]
        ):
            return str(wrong[0].get("text"))[:200]
        said = self.check(stage) if self.check is not None and stage.up else ""
        return said or _differ(expected or {}, self.settings_of(outcome, stage) if expected else {})


def _answers(outcome: Outcome) -> dict[str, int]:
    """What the driver answered to vcap-edges, in the order of its questions."""
    found: dict[str, int] = {}
    for event in outcome.program.events if outcome.program is not None else ():
        value = event.get("value")
        if event.get("event") == "answer" and type(value) is int:
            found[f"{len(found) + 1}. {str(event.get('what'))[:80]}"] = value
    return found


def _differ(expected: Mapping[str, int], found: Mapping[str, int]) -> str:
    """What is not as with the driver as it is."""
    words = [
        f"{name} {found.get(name, 'nothing')}, not {value}"
        for name, value in expected.items()
        if found.get(name) != value
    ]
    return f"answers or settings: {'; '.join(words[:3])}"[:200] if words else ""


def _capture(name: str, title: str, shown: Picture, io: str, *more: str, setup: tuple[str, ...] = ()) -> Act:
    size = f"{shown.width}x{shown.height}"
    words = ["vcap-capture", "--io", io, "--size", size, "--norm", shown.norm, "--format", shown.format]
    words += ["--field", shown.field, "--frames", str(_FRAMES), "--expect", EXPECT, "--hold-ms", "100"]
    words += ["--timeout-ms", str(_PATIENCE), *more]
    return Act(Scene(name, title, tuple(words), picture=shown, timeout=_TIMEOUT, setup=setup))


def _scene(name: str, title: str, shown: Picture, *more: str, kernels: tuple[str, ...] = ()) -> Act:
    size = f"{shown.width}x{shown.height}"
    words = [
        "vcap-scene",
        "--size",
        size,
        "--norm",
        shown.norm,
        "--format",
        shown.format,
        "--field",
        shown.field,
    ]
    words += ["--frames", str(_FRAMES), "--expect", EXPECT, "--timeout-ms", str(_PATIENCE), *more]
    scene = Scene(name, title, tuple(words), picture=shown, timeout=_TIMEOUT)
    return Act(scene, kernels=kernels)


def _vbi() -> Act:
    count = 4
    words = ("v4l2-ctl", "-d", "/dev/vbi0", "--set-standard=pal", "--stream-mmap",
             f"--stream-count={count}", f"--stream-to={_VBI_FILE}")  # fmt: skip
    scene = Scene("vbi", "teletext lines", words, teardown=(f"test -s {_VBI_FILE}",), timeout=_SOON)
    return Act(scene, lambda stage: vbi_damage(stage.pull(_VBI_FILE), count), settings=False)


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


def _geometry() -> Act:
    """Cropped and scaled, with the comb filter: only the card's settings tell whether it is right.

    For video recorders the driver leaves out the last lines, which change places there.
    """
    crop = "top=60,left=100,width=600,height=400"
    words = ("v4l2-ctl", "-d", "/dev/video0", "--set-standard=pal", f"--set-crop={crop}",
             "--set-fmt-video=width=320,height=200,pixelformat=YUYV,field=interlaced", "--stream-mmap=3",
             "--stream-count=2", f"--stream-to={_VBI_FILE}")  # fmt: skip
    scene = Scene("cropped", "a part of the picture, scaled, of a video recorder", words, timeout=_SOON,
                  setup=(_COMB % 1, _VCR % 1), teardown=(_COMB % 0, _VCR % 0, *_UNCROP))  # fmt: skip
    return Act(scene, lambda stage: lines_left_out(stage.pull(_VBI_FILE), 640, 200))


def lines_left_out(data: bytes, stride: int, height: int) -> str:
    """What is wrong with frames whose last 8 lines, 4 a field, the driver leaves out; "" for nothing."""
    if not data or len(data) % (stride * height):
        return f"{len(data)} bytes are no frames of {stride * height}"
    frames = np.frombuffer(data, np.uint8).reshape(-1, height, stride)
    counts = [[int(line.any()) for line in frame] for frame in frames]
    left_out = any(sum(count[-8:]) == 0 < sum(count[:-8]) for count in counts)
    return "" if left_out else f"the last 8 of {height} lines came in all {len(counts)} frames"


#: Another norm and back: bttv on videobuf2 keeps what part of the picture is captured.
_UNCROP = tuple(f"v4l2-ctl -d /dev/video0 --set-standard={norm}" for norm in ("ntsc", "pal"))
_VCR = "v4l2-ctl -d /dev/video0 -c vcr_hack=%d"


def _bounced(act: Act) -> Act:
    """The same where the card reaches none of the buffers, so that the kernel copies what it wrote."""
    told = (f"mkdir -p {_DEBUG}; mount -t debugfs none {_DEBUG}",
            f"cat {_DEBUG}/swiotlb/io_tlb_used > {_USED}", f"umount {_DEBUG}")  # fmt: skip
    scene = replace(act.scene, machine=BOUNCING, teardown=(*act.scene.teardown, *told))
    return replace(act, scene=scene, check=lambda stage: slots_left(stage.pull(_USED)))


def slots_left(told: bytes) -> str:
    """What is wrong with the bounce buffer when nobody captures; "" for nothing."""
    used = told.decode("ascii", "replace").strip()
    return "" if used == "0" else f"{used} slots of the bounce buffer stay in use: pages are still mapped"


def _edges(part: str, title: str, kernels: tuple[str, ...] = ()) -> Act:
    """A part of vcap-edges."""
    scene = Scene(f"edges-{part}", title, ("vcap-edges", part), timeout=_TIMEOUT)
    return Act(scene, kernels=kernels, settings=False)


_COMB = "v4l2-ctl -d /dev/video0 -c comb_filter=%d"
_SMALL = Picture(width=384, height=288)
_SQUARE = Picture(width=512, height=512)  # 128 pages: scatterlists of that many fill whole pages themselves
#: A part of the memory is movable: pages have to leave it before they are pinned for long. What is freed in
#: the kernel's heap is overwritten, and what lies between its objects is looked after.
GROUND = Machine(append="movablecore=96M slub_debug=FZP")
BOUNCING = Machine(append="swiotlb=8192,force")
_TINY = Picture(width=192, height=144)
_POOL = ("--buffers", "4", "--pool", "6", "--pageout", "idle,queued")
_ODD = ("--buffers", "3", "--pool", "5", "--offset", "52")
_OLD, _NEW = ("-5.10", "-6.1"), ("-6.12", "-7.3")
_SINGLE = replace(_SMALL, field="alternate", height=144)

USERPTR = _capture("userptr", "user memory that is swapped out", Picture(), "userptr", *_POOL)
UNALIGNED = _capture(
    "unaligned", "user memory that begins within a page", _SQUARE, "userptr", *_ODD, "--clean"
)
MMAP = _capture("mmap", "the driver's own buffers", _SQUARE, "mmap")
READ = _capture("read", "read() into the program's memory", _SQUARE, "read")
PIECES = _capture(
    "pieces", "read() in pieces, out of a buffer of the kernel", _SQUARE, "read", "--piece", "30000"
)
MORE_PIECES = _capture(
    "more-pieces", "the same with one page more", replace(_SQUARE, height=516), "read", "--piece", "30000"
)
PLANAR = _capture("planar", "three planes", Picture(format="YU12"), "userptr", *_POOL)
SMALL_PLANES = _capture(
    "small-planes", "three planes of a field each", replace(_SMALL, format="422P"), "mmap"
)
ODD_PLANES = _capture(
    "odd-planes", "Cr before Cb, within pages", replace(_SMALL, format="YV12"),
    "userptr", *_ODD,
)  # fmt: skip
COARSE = _capture("coarse", "one chroma line in four", replace(_SMALL, format="YVU9"), "userptr", *_ODD)
TOP_PLANES = _capture(
    "top-planes", "planes of the top field", replace(_TINY, format="YU12", field="top"), "mmap"
)
BOTTOM_PLANES = _capture(
    "bottom-planes", "planes of the bottom field", replace(_TINY, format="YUV9", field="bottom"), "mmap"
)
ONE_FIELD = _capture("one-field", "one field only", replace(_SMALL, field="top"), "mmap")
BOTTOM = _capture("bottom", "the other field only", replace(_SMALL, field="bottom"), "userptr", *_ODD)
ALTERNATE = _capture("alternate", "a field a buffer, in turn", _SINGLE, "mmap")
SEQUENTIAL = _capture("sequential", "one field behind the other", Picture(field="seq-tb"), "mmap")
WIDE = _capture(
    "wide", "four bytes a pixel", Picture(format="RGB4", width=640, height=480), "userptr",
    *_ODD, setup=(_COMB % 1,),
)  # fmt: skip
WIDE = replace(WIDE, scene=replace(WIDE.scene, teardown=(_COMB % 0,)))
NARROW = _capture(
    "narrow", "a picture of a few lines", Picture(width=48, height=32), "userptr", *_ODD, setup=(_COMB % 1,)
)
NARROW = replace(NARROW, scene=replace(NARROW.scene, teardown=(_COMB % 0,)))
GEOMETRY = _geometry()
VBI = _vbi()
SHARED = _scene(
    "shared-memory", "shared memory, written back meanwhile", _SMALL, "--memory", "shmem", "--buffers", "3",
    "--do", "pageout", "--at", "done",
)  # fmt: skip
IMPORTED = _scene(
    "imported", "memory of a DMABUF", _SMALL, "--io", "dmabuf", "--memory", "udmabuf", kernels=_NEW
)
REFUSED = _edges("refused", "memory that cannot be a buffer")
LIVES = _edges("lives", "buffers mapped twice, forked, closed meanwhile")
LINES = _edges("lines", "teletext lines of all kinds")
SIDED = _edges("sided", "teletext lines of one field", _OLD)
FIRST = _edges("first", "the format of teletext lines to begin with", _NEW)
FIRST = replace(FIRST, scene=replace(FIRST.scene, unload=True))
LEAKS = _edges("leaks", "kernel memory after many lives of buffers")
BOUNCED = _bounced(
    _scene("bounced", "user memory that the kernel copies to", _SMALL, "--scatter", "--buffers", "3")
)
BOUNCED_ODD = _bounced(_capture("bounced-odd", "the same within pages, other memory each time", _SMALL,
                                "userptr", *_ODD))  # fmt: skip
BOUNCED_OWN = _bounced(_capture("bounced-own", "the driver's own buffers, copied to", _SMALL, "mmap"))
BOUNCED_READ = _bounced(
    _capture("bounced-read", "read() into memory that the kernel copies to", _SMALL, "read")
)
UNLOADED = _capture("unloaded", "the driver is loaded before and unloaded after", _TINY, "userptr", *_ODD)
UNLOADED = replace(UNLOADED, scene=replace(UNLOADED.scene, unload=True), settings=False)
#: In the order in which they are played.
ACTS = (
    UNALIGNED, USERPTR, MMAP, READ, PIECES, MORE_PIECES, PLANAR, SMALL_PLANES, ODD_PLANES, COARSE, TOP_PLANES,
    BOTTOM_PLANES, ONE_FIELD, BOTTOM, SEQUENTIAL, WIDE, NARROW, VBI, GEOMETRY,
    ALTERNATE, SHARED, IMPORTED, REFUSED, LIVES, LINES, SIDED, FIRST, LEAKS, UNLOADED,
    BOUNCED, BOUNCED_ODD, BOUNCED_OWN, BOUNCED_READ,
)  # fmt: skip


def acts_on(kernel: str) -> list[Act]:
    """The acts that a kernel (its recipe's name) can play, in order."""
    return [act for act in ACTS if not act.kernels or kernel.endswith(act.kernels)]
