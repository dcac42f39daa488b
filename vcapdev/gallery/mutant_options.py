# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``vcapdev mutants``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from vcapdev.run.options import RunOptions


@dataclass(frozen=True)
class MutantOptions:
    """What to play."""

    kernel: str = RunOptions().kernel
    kind: str = "hand"
    only: tuple[str, ...] = ()  # names, or parts of them; empty: all
    count: int = 200  # mutants by machine that compile
    report: Path | None = None
    qemu: str | None = None
    accel: str = "auto"
    resume: bool = False  # those by machine: go on with what is in ``report``
    guests: int = 0  # at a time; 0: as many as the machine has room for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vcapdev mutants`` on ``parser``."""
    default = MutantOptions()
    parser.add_argument("--kernel", default=default.kernel, metavar="NAME", help="image recipe (%(default)s)")
    parser.add_argument("--kind", default=default.kind, choices=("hand", "machine"),
                        help="hand: the diffs of guest/mutants;"
                        " machine: small changes all over the driver (%(default)s)")  # fmt: skip
    parser.add_argument("--count", type=int, default=default.count, metavar="N",
                        help="so many by machine that compile (%(default)s)")  # fmt: skip
    parser.add_argument("-k", action="append", default=[], metavar="TEXT",
                        help="only mutants with TEXT in their name; repeatable")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="DIR", help="write mutants.json and mutants.md there")
    parser.add_argument("--resume", action="store_true",
                        help="by machine: go on where the run that wrote DIR was interrupted")  # fmt: skip
    parser.add_argument("--guests", type=int, default=default.guests, metavar="N",
                        help="guests at a time (as many as there are CPUs and memory)")  # fmt: skip
    parser.add_argument("--qemu", metavar="FILE", help="QEMU 10.1 or later with vfio-user-pci")
    parser.add_argument("--accel", default=default.accel, choices=("auto", "kvm", "tcg"))


def from_arguments(args: argparse.Namespace) -> MutantOptions:
    """The options as they were given."""
    return MutantOptions(
        kernel=args.kernel, kind=args.kind, only=tuple(args.k), count=max(args.count, 1), report=args.report,
        qemu=args.qemu, accel=args.accel, resume=args.resume, guests=max(args.guests, 0),
    )  # fmt: skip
