# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``vcapdev lookalikes``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LookalikeOptions:
    """What is to be played."""

    kernels: tuple[str, ...] = ()  # all
    names: tuple[str, ...] = ()  # parts of names; all
    report: Path | None = None
    listing: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vcapdev lookalikes`` on ``parser``."""
    parser.add_argument("--kernel", action="append", default=[], metavar="NAME",
                        help="image recipe; repeatable (all)")  # fmt: skip
    parser.add_argument("-k", action="append", default=[], dest="names", metavar="NAME",
                        help="only scenes with this in their name; repeatable")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="DIR", help="write lookalikes.json and .md there")
    parser.add_argument("--list", action="store_true", dest="listing", help="name the scenes, and play none")
