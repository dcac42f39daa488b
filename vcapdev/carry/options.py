# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of ``vcapdev bundle``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from vcapdev.errors import UsageError


@dataclass(frozen=True, slots=True)
class CarryOptions:
    """What goes into the bundle.

    :ivar building: also what it takes to build modules: headers, sources, a compiler.
    :ivar snapshots: also guests that have booted.
    :ivar foreign: also the programs that scenarios bring into guests.
    """

    path: Path
    kernels: tuple[str, ...] = ("bookworm-6.1",)
    building: bool = False
    snapshots: bool = True
    foreign: bool = True
    lock: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options on ``parser``."""
    parser.add_argument("path", type=Path, metavar="FILE", help="where to; a bundle there is replaced")
    parser.add_argument("--kernel", action="append", default=[], metavar="NAME",
                        help="image recipe; repeatable (bookworm-6.1)")  # fmt: skip
    parser.add_argument(
        "--lock", type=Path, metavar="FILE", help="take exactly the packages of this lock file"
    )
    parser.add_argument("--with-build", action="store_true", dest="building",
                        help="also headers, sources and compiler, to build modules")  # fmt: skip
    parser.add_argument("--no-snapshots", action="store_false", dest="snapshots",
                        help="without guests that have booted: smaller, but these boot there")  # fmt: skip
    parser.add_argument("--no-ffmpeg", action="store_false", dest="foreign",
                        help="without ffmpeg, which one scenario brings into its guest")  # fmt: skip


def from_arguments(args: argparse.Namespace) -> CarryOptions:
    """Check what argparse cannot.

    :raise UsageError: there is a directory, or something that is no bundle.
    """
    path = args.path.absolute()
    if path.is_dir():
        raise UsageError(f"{args.path} is a directory; name the file that the bundle is to be")
    if not path.parent.is_dir():
        raise UsageError(f"{args.path}: there is no directory {path.parent}")
    kernels = tuple(dict.fromkeys(args.kernel)) or ("bookworm-6.1",)
    return CarryOptions(path, kernels, args.building, args.snapshots, args.foreign, args.lock)
