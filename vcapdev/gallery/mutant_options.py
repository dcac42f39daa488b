# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``vcapdev mutants``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from vcapdev.errors import UsageError
from vcapdev.image.recipe import recipe_names
from vcapdev.serve.options import share

#: One of each framework: what is changed by machine is the same C on the others.
MACHINE_KERNELS = ("bookworm-6.1", "trixie-6.12")


@dataclass(frozen=True)
class MutantOptions:
    """What to play."""

    kernels: tuple[str, ...] = (MACHINE_KERNELS[0],)
    kind: str = "hand"
    only: tuple[str, ...] = ()  # names, or parts of them; empty: all
    count: int = 200  # mutants by machine that compile
    report: Path | None = None
    page: Path | None = None
    audit: float = 1.0  # share of judgements that are judged again with the vCPUs stopped
    qemu: str | None = None
    accel: str = "auto"
    resume: bool = False  # those by machine: go on with what is in ``report``
    guests: int = 0  # at a time; 0: as many as the machine has room for

    @property
    def kernel(self) -> str:
        """The only kernel, or the first."""
        return self.kernels[0]

    def on(self, kernel: str) -> MutantOptions:
        """The same for one kernel."""
        return replace(self, kernels=(kernel,), report=self.directory(kernel))

    def directory(self, kernel: str) -> Path | None:
        """Where the report on a kernel goes: each has its own where there are several."""
        return self.report and (self.report / kernel if len(self.kernels) > 1 else self.report)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vcapdev mutants`` on ``parser``."""
    default = MutantOptions()
    parser.add_argument("--kernel", action="append", default=[], metavar="NAME",
                        help="image recipe; repeatable (all; for those by machine"
                        f" {' and '.join(MACHINE_KERNELS)})")  # fmt: skip
    parser.add_argument("--kind", default=default.kind, choices=("hand", "machine"),
                        help="hand: the diffs of guest/mutants;"
                        " machine: small changes all over the driver (%(default)s)")  # fmt: skip
    parser.add_argument("--count", type=int, default=default.count, metavar="N",
                        help="so many by machine that compile (%(default)s)")  # fmt: skip
    parser.add_argument("-k", action="append", default=[], metavar="TEXT",
                        help="only mutants with TEXT in their name; repeatable")  # fmt: skip
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write mutants.json and mutants.md there, of several kernels in a directory each",
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="write the page of docs/, or of one kernel its part; not with -k",
    )
    parser.add_argument("--audit", type=share, default=default.audit, metavar="SHARE",
                        help="by hand: judge so many judgements, as 1%%, again"
                        " with the vCPUs stopped (100%%)")  # fmt: skip
    parser.add_argument("--resume", action="store_true",
                        help="by machine: go on where the run that wrote DIR was interrupted")  # fmt: skip
    parser.add_argument("--guests", type=int, default=default.guests, metavar="N",
                        help="guests at a time (as many as there are CPUs and memory)")  # fmt: skip
    parser.add_argument("--qemu", metavar="FILE", help="QEMU 10.1 or later with vfio-user-pci")
    parser.add_argument("--accel", default=default.accel, choices=("auto", "kvm", "tcg"))


def from_arguments(args: argparse.Namespace) -> MutantOptions:
    """The options as they were given.

    :raise UsageError: there is no such kernel, or a page is wanted of a part of the mutants.
    """
    known = recipe_names()
    for kernel in args.kernel:
        if kernel not in known:
            raise UsageError(f"--kernel {kernel}: there are {', '.join(known)}")
    if args.page is not None and args.k:
        raise UsageError("--page is of all mutants, and -k plays some; leave out one of both")
    default = known if args.kind == "hand" else MACHINE_KERNELS
    return MutantOptions(
        kernels=tuple(dict.fromkeys(args.kernel or default)), kind=args.kind, only=tuple(args.k),
        count=max(args.count, 1), report=args.report, page=args.page, audit=args.audit, qemu=args.qemu,
        accel=args.accel, resume=args.resume, guests=max(args.guests, 0),
    )  # fmt: skip
