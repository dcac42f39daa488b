# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``vcapdev answer``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AnswerOptions:
    """What to play; no kernel: all of them."""

    kernels: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    report: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vcapdev answer`` on ``parser``."""
    parser.add_argument(
        "--kernel", action="append", default=[], metavar="NAME", help="image recipe; repeatable (all)"
    )
    parser.add_argument("-k", action="append", default=[], metavar="TEXT",
                        help="only cells with TEXT in driver/memory/event; repeatable")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="DIR", help="write answer.md and answer.json there")


def from_arguments(args: argparse.Namespace) -> AnswerOptions:
    """The options as they were given."""
    return AnswerOptions(tuple(args.kernel), tuple(args.k), args.report)
