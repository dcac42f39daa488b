# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of ``vcapdev lookalikes``."""

from __future__ import annotations

import argparse
import secrets
from dataclasses import dataclass
from pathlib import Path

from vcapdev.serve.options import share


@dataclass(frozen=True, slots=True)
class LookalikeOptions:
    """What is to be played."""

    kernels: tuple[str, ...] = ()  # all
    names: tuple[str, ...] = ()  # parts of names; all
    report: Path | None = None
    listing: bool = False
    audit: float = 0.01  # share of judgements that are judged again with the vCPUs stopped
    audit_seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vcapdev lookalikes`` on ``parser``."""
    default = LookalikeOptions()
    parser.add_argument("--kernel", action="append", default=[], metavar="NAME",
                        help="image recipe; repeatable (all)")  # fmt: skip
    parser.add_argument("-k", action="append", default=[], dest="names", metavar="NAME",
                        help="only scenes with this in their name; repeatable")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="DIR", help="write lookalikes.json and .md there")
    parser.add_argument("--audit", type=share, default=default.audit, metavar="SHARE",
                        help="share of judgements that are made again, vCPUs stopped (1%%)")  # fmt: skip
    parser.add_argument("--audit-seed", type=int, metavar="N", help="which ones those are (random)")
    parser.add_argument("--list", action="store_true", dest="listing", help="name the scenes, and play none")


def drawn_seed(given: int | None) -> int:
    """The audit's seed: the one given, else one at random."""
    return secrets.randbits(32) if given is None else given
