# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``vcapdev run``: declared once, checked before anything is started."""

from __future__ import annotations

import argparse
import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vcapdev.errors import UsageError
from vcapdev.serve.options import number, share

NORMS = ("PAL", "NTSC", "SECAM")
FORMATS = (  # what bttv of Linux 6.1 enumerates; Y41P is the chip's alone
    *("YUYV", "UYVY", "RGB4", "BGR4", "BGR3", "RGBP", "RGBR", "RGBO", "RGBQ", "GREY", "HI24"),
    *("422P", "YU12", "YV12", "411P", "YUV9", "YVU9"),
)
ON_VIOLATION = ("continue", "stop", "bundle")
FIELDS = ("interlaced", "top", "bottom", "alternate", "seq-tb")
_SIZE = re.compile(r"(\d{1,4})x(\d{1,4})\Z")
_FAST_POOL = 80  # buffers: 350 frames a second that rest for 200 ms, what is queued, and some to spare
_MEMORY_STEP = 64  # MiB
_SMALLEST, _LARGEST = (48, 32), (924, 576)  # bttv_tvnorms, Linux 6.1


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one run is to do; the defaults are those of ``make run-guest``."""

    kernel: str = "bookworm-6.1"
    norm: str = "PAL"
    width: int = 768
    height: int = 576
    format: str = "YUYV"
    field: str = "interlaced"
    io: str = "userptr"
    frames: int = 150
    swap: str = "disk"
    pressure: str = "both"
    clock: str = "paced"
    board: str | None = None
    revision: int | None = None
    mutant: str | None = None
    clean: bool = False  # hand over buffers whose pages are clean; what some mutants need to show
    modules: tuple[Path, ...] = ()
    report: Path | None = None
    on_violation: str = "continue"
    bundle: Path = Path("vcapdev-bundle")
    bundle_size: int = 1024  # MiB of the memory image
    audit: float = 0.0  # share of judgements that are judged again
    audit_seed: int = 0
    shell: bool = False
    gdb: str = ""  # "driver" or "boot": where the guest waits for gdb
    show: bool = False
    kimg: Path | None = None
    kdir: Path | None = None
    vmlinux: Path | None = None
    append: str = ""
    qemu_opts: tuple[str, ...] = ()
    qemu: str | None = None
    accel: str = "auto"
    memory: int = 256
    cpus: int = 1
    iommu: bool = False
    cold: bool = False  # boot the guest; else it goes on from a snapshot
    lock: Path | None = None
    refresh: bool = False
    buffers: int = 4
    pool: int = 16

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"

    def settings(self) -> dict[str, Any]:
        """All options as JSON values, for the report."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vcapdev run`` on ``parser``."""
    default = RunOptions()
    guest = parser.add_argument_group("what to test")
    guest.add_argument("--kernel", default=default.kernel, metavar="NAME", help="image recipe (%(default)s)")
    guest.add_argument("--mutant", metavar="NAME", help="an altered driver; vcapdev list mutants")
    guest.add_argument("--module", action="append", default=[], type=Path, metavar="FILE.ko",
                       help="your module in the place of the stock one; repeatable")  # fmt: skip
    guest.add_argument("--modules", action="append", default=[], type=Path, metavar="DIR",
                       help="all modules of a directory likewise; with --kimg: your kernel's")  # fmt: skip
    guest.add_argument("--kimg", type=Path, metavar="FILE", help="your kernel image")
    guest.add_argument("--kdir", type=Path, metavar="TREE", help="your built kernel tree: image and modules")
    guest.add_argument("--vmlinux", type=Path, metavar="FILE",
                       help="your kernel's vmlinux with DWARF, if it has no BTF (TREE/vmlinux)")  # fmt: skip
    guest.add_argument("--append", default="", metavar="TEXT", help="more kernel parameters")
    guest.add_argument("--board", metavar="NAME", help="card to be; vcapdev list boards")
    guest.add_argument("--revision", type=number, metavar="N", help="PCI revision: 0x11 or 0x02")
    _add_capture(parser, default)
    _add_machine(parser, default)
    out = parser.add_argument_group("what comes out")
    out.add_argument("--report", type=Path, metavar="DIR", help="write report.json, logs and pictures there")
    _add_evidence(out, default)
    out.add_argument("--shell", action="store_true", help="an interactive guest with /dev/video0 instead")
    out.add_argument("--gdb", nargs="?", const="driver", default=default.gdb, choices=("driver", "boot"),
                     help="wait for gdb once the driver is loaded (boot: before the first instruction), and "
                     "say how to connect it")  # fmt: skip
    out.add_argument("--show", action="store_true", help="print the commands that start guest and card")


def _add_evidence(out: Any, default: RunOptions) -> None:
    out.add_argument("--on-violation", default=default.on_violation, choices=ON_VIOLATION,
                     help="stop: a drgn prompt at the first one, the guest stands; "
                     "bundle: keep everything about it (%(default)s)")  # fmt: skip
    out.add_argument("--bundle", type=Path, metavar="DIR", help=f"where to ({default.bundle})")
    out.add_argument("--bundle-size", type=int, metavar="MIB",
                     help=f"of its memory image, at most ({default.bundle_size})")  # fmt: skip
    out.add_argument("--audit", type=share, default=default.audit, metavar="SHARE",
                     help="judge such a share of judgements again with the guest stopped: 1%%")  # fmt: skip
    out.add_argument("--audit-seed", type=int, metavar="N", help="which ones those are (random)")


def _add_capture(parser: argparse.ArgumentParser, default: RunOptions) -> None:
    capture = parser.add_argument_group("what to capture")
    capture.add_argument("--norm", default=default.norm, type=str.upper, choices=NORMS,
                         help="what the camera sends (%(default)s)")  # fmt: skip
    capture.add_argument("--size", default=default.size, metavar="WxH", help="of a frame (%(default)s)")
    capture.add_argument("--format", default=default.format, type=str.upper, metavar="FOURCC",
                         help=f"one of {' '.join(FORMATS)} (%(default)s)")  # fmt: skip
    capture.add_argument("--field", default=default.field, type=str.lower, choices=FIELDS,
                         help="how the fields lie in a frame (%(default)s)")  # fmt: skip
    capture.add_argument("--io", default=default.io, type=str.lower, choices=("userptr", "mmap", "read"),
                         help="whose memory: the program's own, or the driver's (%(default)s)")  # fmt: skip
    capture.add_argument("--frames", default=default.frames, type=int, metavar="N", help="(%(default)s)")
    capture.add_argument("--buffers", default=default.buffers, type=int, metavar="N",
                         help="buffers queued at a time (%(default)s)")  # fmt: skip
    capture.add_argument("--pool", type=int, metavar="N",
                         help="buffers to rotate over, USERPTR only "
                         f"({default.pool}; {_FAST_POOL} with --clock fast)")  # fmt: skip
    capture.add_argument("--swap", default=default.swap, choices=("zram", "disk", "none"),
                         help="where to (%(default)s)")  # fmt: skip
    capture.add_argument("--pressure", choices=("pageout", "hog", "both", "none"),
                         help="what makes the guest swap (both; none without swap)")  # fmt: skip
    capture.add_argument("--clock", default=default.clock, choices=("paced", "real", "fast"),
                         help="when fields come; docs/how-it-works.md (%(default)s)")  # fmt: skip


def _add_machine(parser: argparse.ArgumentParser, default: RunOptions) -> None:
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--qemu", metavar="FILE", help="QEMU 10.1 or later with vfio-user-pci")
    machine.add_argument("--qemu-opts", default="", metavar="TEXT", help="more QEMU options")
    machine.add_argument("--accel", default=default.accel, choices=("auto", "kvm", "tcg"),
                         help="auto: KVM if it works here (%(default)s)")  # fmt: skip
    machine.add_argument(
        "--memory", type=int, metavar="MIB", help=f"the guest's RAM ({default.memory}, more for a large pool)"
    )
    machine.add_argument("--cpus", default=default.cpus, type=int, metavar="N", help="(%(default)s)")
    machine.add_argument("--cold", action="store_true",
                         help="boot the guest; else it goes on from a snapshot, if kernel and modules are "
                         "the recipe's own")  # fmt: skip
    machine.add_argument("--iommu", action="store_true",
                         help="a vIOMMU: the card reaches only what the driver mapped for it")  # fmt: skip
    machine.add_argument(
        "--lock", type=Path, metavar="FILE", help="take exactly the packages of this lock file"
    )
    machine.add_argument("--refresh", action="store_true", help="ask the mirror for newer packages")


def from_arguments(args: argparse.Namespace) -> RunOptions:
    """Check what argparse cannot.

    :raise UsageError: names the option, what is wrong and what would be right.
    """
    width, height = _size(args.size)
    _one_of("--format", args.format, FORMATS)
    for option, low, high in (("frames", 1, 10_000_000), ("buffers", 2, 32), ("pool", 2, 256),
                              ("memory", 128, 16384), ("cpus", 1, 16),
                              ("bundle_size", 64, 65536)):  # fmt: skip
        if getattr(args, option) is not None:
            _between(option, getattr(args, option), low, high)
    pool = _pool(args)
    from vcapdev.image.mutants import STOCK

    if args.mutant == STOCK:
        args.mutant = None
    if args.mutant and (args.module or args.modules):
        raise UsageError("--mutant and --module both replace the driver; give one of them")
    if args.mutant and (args.kdir or args.kimg):
        raise UsageError("--mutant alters the driver of a packaged kernel; leave out --kdir and --kimg")
    if args.revision not in (None, 0x11, 0x02):
        raise UsageError(f"--revision {args.revision:#x}: the chip was made as 0x11 and 0x02")
    _refuse_contradictions(args)
    return RunOptions(
        kernel=args.kernel, norm=args.norm, width=width, height=height, format=args.format, field=args.field,
        io=args.io, frames=args.frames, swap=args.swap, pressure=_pressure(args), clock=args.clock,
        board=args.board, revision=args.revision, mutant=args.mutant, clean=_clean_buffers(args),
        modules=own_modules(args), report=args.report,
        shell=args.shell, gdb=args.gdb, show=args.show,
        kimg=args.kimg and _file("--kimg", args.kimg), kdir=args.kdir and args.kdir.absolute(),
        vmlinux=args.vmlinux and _file("--vmlinux", args.vmlinux),
        append=args.append, qemu_opts=_words("--qemu-opts", args.qemu_opts), qemu=args.qemu, accel=args.accel,
        memory=args.memory or _memory(args.format, width, height, pool), cpus=args.cpus, lock=args.lock,
        iommu=args.iommu, cold=_cold(args),
        on_violation=args.on_violation, bundle=args.bundle or RunOptions().bundle,
        bundle_size=args.bundle_size or RunOptions().bundle_size,
        audit=args.audit, audit_seed=_audit_seed(args),
        refresh=args.refresh, buffers=args.buffers, pool=pool,
    )  # fmt: skip


def _refuse_contradictions(args: argparse.Namespace) -> None:
    if args.gdb and args.on_violation == "stop":
        raise UsageError("--on-violation stop: it is gdb that stops the guest with --gdb; leave one out")
    if args.gdb == "driver" and args.shell:
        raise UsageError("--gdb driver: with --shell nobody waits for the driver; give --gdb boot")
    if args.shell and args.on_violation == "stop":
        raise UsageError("--on-violation stop: --shell has the terminal; leave one of them out")
    if args.shell and args.report:
        raise UsageError("--report: --shell captures nothing and writes none; leave one of them out")
    for option, value in (("--bundle", args.bundle), ("--bundle-size", args.bundle_size)):
        if value is not None and args.on_violation != "bundle":
            raise UsageError(f"{option} {value}: no bundle is asked for; add --on-violation bundle")
    if args.audit_seed is not None and not args.audit:
        raise UsageError(f"--audit-seed {args.audit_seed}: nothing is audited; add --audit 1%")
    if args.pool and args.io != "userptr":
        raise UsageError(f"--pool {args.pool} is for user memory, not --io {args.io}; leave it out")


def _pool(args: argparse.Namespace) -> int:
    """Enough buffers that none has to be used again while it still rests."""
    fast = args.clock == "fast" and args.io == "userptr"
    pool = int(args.pool or (_FAST_POOL if fast else max(RunOptions().pool, 4 * args.buffers)))
    if args.io == "userptr" and pool <= args.buffers:
        raise UsageError(f"--pool {pool}: give more than the {args.buffers} buffers of --buffers")
    return pool


def _memory(fourcc: str, width: int, height: int, pool: int) -> int:
    """MiB of RAM: the default, and for a larger pool room for the buffers that the default does not have."""
    from vcapdev.report.picture import layout_of

    default = RunOptions()
    if pool <= default.pool:
        return default.memory
    usual = default.pool * layout_of(default.format).size(default.width, default.height)
    more = max(0, pool * layout_of(fourcc).size(width, height) - usual)
    return default.memory + -(-more // (_MEMORY_STEP << 20)) * _MEMORY_STEP


def _clean_buffers(args: argparse.Namespace) -> bool:
    """Whether the altered driver shows with clean buffers only; its description says so (guest/mutants)."""
    if args.mutant is None:
        return False
    from vcapdev.image.mutants import UNALTERED, find_mutant

    needs = {} if args.mutant == UNALTERED else find_mutant(args.mutant).run
    io = needs.get("io", args.io)
    if args.io != io:
        raise UsageError(f"--io {args.io}: the altered driver {args.mutant} shows only with --io {io}")
    return bool(needs.get("clean", False))


def _cold(args: argparse.Namespace) -> bool:
    """Whether to boot: what is built anew again and again would leave a snapshot of each time."""
    own = args.mutant or args.module or args.modules or args.kimg or args.kdir or args.qemu_opts
    return bool(args.cold or own or args.shell or args.gdb)


def _audit_seed(args: argparse.Namespace) -> int:
    if args.audit_seed is not None:
        return int(args.audit_seed)
    return secrets.randbits(32) if args.audit else RunOptions().audit_seed


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.match(text)
    if not found:
        raise UsageError(f"--size {text}: give width and height, such as 768x576")
    width, height = int(found[1]), int(found[2])
    if not (_SMALLEST[0] <= width <= _LARGEST[0] and _SMALLEST[1] <= height <= _LARGEST[1]):
        raise UsageError(f"--size {text}: bttv captures from 48x32 to 924x576")
    return width, height


def _pressure(args: argparse.Namespace) -> str:
    if args.pressure == "pageout" and args.io != "userptr":
        raise UsageError(f"--pressure pageout is for user memory, not --io {args.io}; use --pressure hog")
    if args.swap != "none":
        return str(args.pressure or RunOptions().pressure)
    if args.pressure not in (None, "none"):
        raise UsageError(f"--pressure {args.pressure} needs swap to push pages to; add --swap zram or disk")
    return "none"


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value}: bttv has no such format; it has {' '.join(known)}")


def _between(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        name = option.replace("_", "-")
        raise UsageError(f"--{name} {value}: give a number from {low} to {high}")


def own_modules(args: argparse.Namespace) -> tuple[Path, ...]:
    """What --module and --modules name.

    :raise UsageError: no such file, or no such directory.
    """
    for path in args.modules:
        if not path.is_dir():
            raise UsageError(f"--modules {path}: no such directory; for one file use --module")
    files = [_file("--module", path) for path in args.module]
    return (*files, *(path.absolute() for path in args.modules))


def _file(option: str, path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{option} {path}: no such file")
    return path.absolute()


def _words(option: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from error
