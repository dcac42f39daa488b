# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of ``vcapdev watch``."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

from vcapdev.errors import UsageError
from vcapdev.scenario.model import Test

_KBUILD = ("Kbuild", "Makefile")
_USUAL = ("=capture-mmap", "=capture-userptr")


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What is watched, and what is played whenever it has changed.

    :ivar select: parts of the names of the tests, as with ``vcapdev scenario -k``.
    """

    module: Path
    kernel: str = "bookworm-6.1"
    files: tuple[Path, ...] = ()
    select: tuple[str, ...] = _USUAL
    once: bool = False
    init: bool = False

    def again(self, test: Test) -> str:
        """The one command that builds what is saved now, and plays ``test`` with it."""
        words = ["vcapdev", "watch", "--once", "--module", str(self.module), "--kernel", self.kernel]
        return shlex.join([*words, "-k", f"={test.name}", *map(str, self.files)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options on ``parser``."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE",
                        help="scenario files, or directories of them (two of vcapdev's)")  # fmt: skip
    parser.add_argument("--module", required=True, type=Path, metavar="DIR",
                        help="sources of a module that is built out of tree, and its Kbuild")  # fmt: skip
    parser.add_argument("--kernel", default="bookworm-6.1", metavar="NAME", help="image recipe (%(default)s)")
    parser.add_argument("-k", action="append", default=[], dest="select", metavar="TEXT",
                        help="only tests with this in their names (=NAME: that one); repeatable")  # fmt: skip
    parser.add_argument("--init", action="store_true",
                        help="begin with the stock driver's sources, written to the empty DIR")  # fmt: skip
    parser.add_argument("--once", action="store_true", help="build and play once, then exit")


def from_arguments(args: argparse.Namespace) -> WatchOptions:
    """Check what argparse cannot.

    :raise UsageError: there are no such sources.
    """
    if args.init:
        if args.module.exists() and (not args.module.is_dir() or any(args.module.iterdir())):
            raise UsageError(f"--init: {args.module} is not empty; name a new directory")
    elif not args.module.is_dir():
        raise UsageError(
            f"--module {args.module}: no such directory; name the one with the sources, or add --init"
        )
    elif not any((args.module / name).is_file() for name in _KBUILD):
        raise UsageError(f"--module {args.module} has no Kbuild or Makefile that says: obj-m := NAME.o")
    if ":" in str(args.module.absolute()) or " " in str(args.module.absolute()):
        raise UsageError(f"--module {args.module}: the kernel's build takes no blank or colon in a path")
    select = tuple(args.select) or (() if args.files else _USUAL)
    return WatchOptions(args.module.absolute(), args.kernel, tuple(args.files), select, args.once, args.init)
