# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``vcapdev scenario`` and ``vcapdev matrix``: declared once, checked before anything runs."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vcapdev.errors import UsageError
from vcapdev.run.options import own_modules

_SHARD = re.compile(r"(\d{1,4})/(\d{1,4})\Z")
_MOST_JOBS = 64


@dataclass(frozen=True)
class ScenarioOptions:
    """What to play, how, and what to write.

    :ivar shard: (number from 1, of how many).
    :ivar merge: the files are results of shards (--json), not scenarios.
    :ivar matrix: print the grid, and the first bad kernel.
    """

    files: tuple[Path, ...] = ()
    kernels: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    jobs: int = 1
    shard: tuple[int, int] = (1, 1)
    modules: tuple[Path, ...] = ()
    known: tuple[Path, ...] = ()
    cold: bool = False
    record: bool = False
    merge: bool = False
    matrix: bool = False
    listing: bool = False
    exit_bisect: bool = False
    qemu_opts: tuple[str, ...] = ()
    junit: Path | None = None
    ktap: Path | None = None
    json: Path | None = None
    html: Path | None = None
    trace: Path | None = None
    grid: Path | None = None

    @property
    def outputs(self) -> dict[str, Path]:
        """Which files are to be written."""
        named = ("junit", "ktap", "json", "html", "trace", "grid")
        return {name: path for name in named if (path := getattr(self, name)) is not None}


def add_arguments(parser: argparse.ArgumentParser, *, matrix: bool = False) -> None:
    """Declare the options on ``parser``."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE",
                        help="scenario files, or directories of them (those of vcapdev)")  # fmt: skip
    what = parser.add_argument_group("what to play")
    what.add_argument("--kernel", action="append", default=[], metavar="NAME", required=matrix,
                      help="image recipe; repeatable (what the scenario names)")  # fmt: skip
    what.add_argument("-k", action="append", default=[], dest="select", metavar="TEXT",
                      help="only tests with this in their names (=NAME: that one); repeatable")  # fmt: skip
    what.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="only this share of them")
    what.add_argument("--module", action="append", default=[], type=Path, metavar="FILE.ko",
                      help="your module in the place of the stock one; repeatable")  # fmt: skip
    what.add_argument("--modules", action="append", default=[], type=Path, metavar="DIR",
                      help="all modules of a directory likewise; repeatable")  # fmt: skip
    what.add_argument("--list", action="store_true", dest="listing", help="only say what would be played")
    how = parser.add_argument_group("how")
    how.add_argument(
        "-j", type=_jobs, default=1, dest="jobs", metavar="N", help="guests at a time (%(default)s)"
    )
    how.add_argument("--cold", action="store_true", help="boot each guest, do not restore it from a snapshot")
    how.add_argument("--qemu-opts", default="", metavar="TEXT", help="more QEMU options")
    how.add_argument("--known", action="append", default=[], type=Path, metavar="FILE",
                     help="known findings, by key and with an expiry; repeatable")  # fmt: skip
    how.add_argument("--record", action="store_true", help="write baselines of v4l2-compliance anew")
    how.add_argument("--merge", action="store_true", help="FILEs are results of shards (--json): join them")
    how.add_argument("--exit-bisect", action="store_true", help="exit with 0 good, 1 bad, 125 cannot tell")
    out = parser.add_argument_group("what comes out")
    for name, text in (("junit", "JUnit XML"), ("ktap", "KTAP version 1"), ("json", "everything, as JSON"),
                       ("html", "one page for people"), ("trace", "timelines for Perfetto or Chrome"),
                       ("grid", "the table of tests and kernels, as Markdown")):  # fmt: skip
        out.add_argument(f"--{name}", type=Path, metavar="FILE", help=text)


def _shard(text: str) -> tuple[int, int]:
    found = _SHARD.match(text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text}: give I/N with I from 1 to N, such as 2/5")
    return int(found[1]), int(found[2])


def _jobs(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= _MOST_JOBS:
        raise argparse.ArgumentTypeError(f"{text}: give a number from 1 to {_MOST_JOBS}")
    return int(text)


def from_arguments(args: argparse.Namespace, *, matrix: bool = False) -> ScenarioOptions:
    """Check what argparse cannot.

    :raise UsageError: names the option, what is wrong and what would be right.
    """
    options = ScenarioOptions(
        files=tuple(args.files), kernels=tuple(dict.fromkeys(args.kernel)), select=tuple(args.select),
        jobs=args.jobs, shard=args.shard, modules=own_modules(args),
        known=tuple(args.known), cold=args.cold, record=args.record, merge=args.merge, matrix=matrix,
        listing=args.listing, exit_bisect=args.exit_bisect, qemu_opts=_words(args.qemu_opts),
        junit=args.junit, ktap=args.ktap, json=args.json, html=args.html, trace=args.trace, grid=args.grid,
    )  # fmt: skip
    if options.merge and not options.files:
        raise UsageError("--merge: name the results (--json) of the shards")
    _check_outputs(options.outputs)
    _check_kernels(options.kernels)
    return options


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--qemu-opts {text}: {error}") from error


def _check_outputs(outputs: dict[str, Path]) -> None:
    """Not after an hour of guests."""
    for name, path in outputs.items():
        if path.is_dir():
            raise UsageError(f"--{name} {path}: this is a directory; name a file")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"--{name} {path}: there is no directory {path.absolute().parent}")


def _check_kernels(kernels: Sequence[str]) -> None:
    from vcapdev.image.recipe import load_recipe

    for name in kernels:
        load_recipe(name)
