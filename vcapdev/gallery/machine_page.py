# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/mutants-machine.md from the reports of one run per kernel::

    python -m vcapdev.gallery.machine_page DIRECTORY... > docs/mutants-machine.md

What people have found out about escaped changes since a run (equivalents.yaml) goes into the page as well.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vcapdev.errors import VcapdevError
from vcapdev.gallery.equivalents import load_equivalents
from vcapdev.gallery.machine import Equivalence, Fate, explained
from vcapdev.gallery.machine_report import markdown, read
from vcapdev.gallery.page import assembled, renew
from vcapdev.image.recipe import recipe_names

Json = dict[str, Any]

HEAD = """\
# Mutants by machine

`make mutants KIND=machine` makes small changes all over the C of the driver's DMA and RISC code, builds each,
and plays it in the short captures that run the changed statement, until something notices it
([how](howto/mutant.md#by-machine)). This page holds the fates of one run per kernel, caught and not,
as the same command writes it.

How to read it:
- *rule*, *guest*, *frames*: what noticed the change. Where several did, a rule goes before the kernel's word,
  and that before the program's.
- *escaped*: something is different, and nothing noticed it. Each has a sentence that says why.
- *equivalent*: the compiler makes the same code of it, or a person has looked at it and found that nothing is
  different; the reason stands beside it.
- *sittings*: the run was interrupted and went on (`--resume`). Acts were added in between; what had escaped
  until then was played again with them.
- *could be caught* is the denominator of the rate: all that compiled, but for the equivalent ones. Changes in
  statements that no capture runs are not chosen at all; how many there are is said, function by function.

The mutants by hand, each with a fault that matters, are in [mutants.md](mutants.md).
"""


def page(reports: Sequence[Path], known: Sequence[Equivalence]) -> str:
    """The whole page. :raise UsageError: a directory holds no report."""
    return assembled(HEAD, dict(_section(*read(directory), known) for directory in reports), recipe_names())


def write(path: Path, fates: Sequence[Fate], about: Json, known: Sequence[Equivalence]) -> None:
    """Put one kernel's part into the page. :raise SetupError: it cannot be written."""
    renew(path, HEAD, dict([_section(fates, about, known)]), recipe_names())


def _section(fates: Sequence[Fate], about: Json, known: Sequence[Equivalence]) -> tuple[str, str]:
    return str(about["kernel"]), markdown([explained(fate, known) for fate in fates], about)


def main(arguments: Sequence[str]) -> int:
    """Print the page."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        sys.stdout.write(page([Path(each) for each in arguments], load_equivalents()))
    except VcapdevError as error:
        print(error, file=sys.stderr)
        return int(error.exit_status)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
