# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``vcapdev serve``, after QEMU's conventions for back ends."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from vcapdev.errors import UsageError
from vcapdev.serve.ram import parse as parse_ram

CLOCKS = ("paced", "real", "fast", "step")
NORMS = ("PAL", "NTSC", "SECAM")
_WITH_VALUE = (
    *("socket_path", "fd", "control", "qmp", "board", "revision", "norm", "clock", "iommu", "vmlinux"),
)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What one device process is to be."""

    socket_path: Path | None = None
    fd: int | None = None
    control: Path | None = None
    qmp: Path | None = None
    board: str | None = None
    revision: int | None = None
    norm: str = "PAL"
    clock: str = "paced"
    hold: bool = False
    audit: float = 0.0  # share of judgements that are judged again with the vCPUs stopped, 0 to 1
    audit_seed: int = 0
    iommu: str | None = None  # the guest has a vIOMMU, and RAM lies so: see vcapdev.serve.ram
    vmlinux: Path | None = None
    with_parent: bool = False

    def command_line(self) -> list[str]:
        """The words behind ``vcapdev serve`` that mean these options."""
        words: list[str] = []
        for name in _WITH_VALUE:
            if (value := getattr(self, name)) is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        if self.audit:
            words += ["--audit", f"{self.audit:%}", "--audit-seed", str(self.audit_seed)]
        switches = {"--hold": self.hold, "--with-parent": self.with_parent}
        return words + [switch for switch, on in switches.items() if on]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vcapdev serve`` on ``parser``."""
    default = ServeOptions()
    socket = parser.add_mutually_exclusive_group(required=True)
    socket.add_argument("--socket-path", type=Path, metavar="PATH", help="listen for QEMU at a new socket")
    socket.add_argument("--fd", type=int, metavar="N", help="an open socket instead, listening or connected")
    parser.add_argument("--control", type=Path, metavar="PATH", help="socket for commands (docs/control.md)")
    parser.add_argument("--qmp", type=Path, metavar="PATH",
                        help="a QMP socket of the VM, to stop it while a finding is looked at")  # fmt: skip
    parser.add_argument("--board", metavar="NAME", help="a name, or a YAML file; vcapdev list boards")
    parser.add_argument("--revision", type=number, metavar="N", help="PCI revision: 0x11 or 0x02")
    parser.add_argument("--norm", default=default.norm, type=str.upper, choices=NORMS,
                        help="what the camera sends (%(default)s)")  # fmt: skip
    parser.add_argument("--clock", default=default.clock, choices=CLOCKS, help="(%(default)s)")
    parser.add_argument("--hold", action="store_true",
                        help="stop guest and card at the first finding, until a client says so")  # fmt: skip
    parser.add_argument("--audit", type=share, default=default.audit, metavar="SHARE",
                        help="judge a share of judgements again with the guest stopped, as 1%%")  # fmt: skip
    parser.add_argument("--audit-seed", type=int, default=default.audit_seed, metavar="N",
                        help="which judgements those are (%(default)s)")  # fmt: skip
    parser.add_argument("--iommu", metavar="RAM",
                        help="the guest has a vIOMMU; RAM: how much of it a q35 has, as 256M, or where it "
                        "lies, as START+SIZE@OFFSET,...")  # fmt: skip
    parser.add_argument("--vmlinux", type=Path, metavar="FILE",
                        help="the guest's vmlinux with DWARF, if it has no BTF or kallsyms")  # fmt: skip
    parser.add_argument("--with-parent", action="store_true", help="end when the parent process ends")


def number(text: str) -> int:
    """An integer, also as 0x11. (vcapdev.usage knows it by its name.)"""
    return int(text, 0)


def share(text: str) -> float:
    """A share as ``1%`` or ``0.01``, from 0 to 1. (vcapdev.usage knows it by its name.)"""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def from_arguments(args: argparse.Namespace) -> ServeOptions:
    """Check what argparse cannot.

    :raise UsageError: names the option and what would be right.
    """
    if args.revision not in (None, 0x11, 0x02):
        raise UsageError(f"--revision {args.revision:#x}: the chip was made as 0x11 and 0x02")
    if args.hold and args.control is None:
        raise UsageError("--hold: nobody could let the guest go on again; give --control PATH, too")
    if args.iommu is not None:
        try:
            parse_ram(args.iommu)
        except ValueError:
            raise UsageError(
                f"--iommu {args.iommu}: give a q35 machine's RAM, as 256M or 4G, or START+SIZE@OFFSET,..."
            ) from None
    return ServeOptions(
        socket_path=args.socket_path,
        fd=args.fd,
        control=args.control,
        qmp=args.qmp,
        board=args.board,
        revision=args.revision,
        norm=args.norm,
        clock=args.clock,
        hold=args.hold,
        audit=args.audit,
        audit_seed=args.audit_seed,
        iommu=args.iommu,
        vmlinux=args.vmlinux,
        with_parent=args.with_parent,
    )
