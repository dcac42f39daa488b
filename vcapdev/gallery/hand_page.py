# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/mutants.md and the hand-made mutants' part of docs/audit.md.

``vcapdev mutants --page docs/mutants.md`` writes them; what they say of kernels that were not played stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import SetupError
from vcapdev.gallery import matrix, page
from vcapdev.gallery.lookalike import AUDITED
from vcapdev.gallery.provenance import told
from vcapdev.image.recipe import recipe_names

Json = dict[str, Any]

_IDEAS = Path(__file__).with_name("ideas.yaml")
#: Between these lines of docs/audit.md are the figures of the mutants.
AUDIT_BEGIN, AUDIT_END = "<!-- mutants: figures -->", "<!-- end of the mutants' figures -->"

HEAD = """\
# The mutants, and what caught them

A checker is worth what it catches. `make mutants` builds drivers with one small fault each
([guest/mutants](../guest/mutants), [how to write one](howto/mutant.md)), plays each in a guest, and compares
what the checker says with what it must say: which rule fires, which RISC instruction, which buffer and which
page of it are blamed. This page is what came of it, kernel by kernel. `make mutants PAGE=docs/mutants.md`
writes it, with `KERNEL=...` one kernel's part.

How to read it:
- *rule* is the one that must fire; *fired* are all that did, the first first. Overwriting memory that
  belongs to others breaks several rules at once.
- *blamed* is what the first verdict of the rule names. For faults at a release that is the program that
  wrote to the page ("program"), for the others the instruction. Where all pages of a buffer are wrong, the
  one with the lowest page frame is named.
- *caught by* "frames": no page is wrong, and no rule is broken. The data are the right ones on the wrong
  page of the same buffer, or were never copied back; only the comparison of frames can tell, as it does in
  every run. "guest": the kernel itself stumbles over the fault before the card writes anything.
- Under "not played": what the kernel cannot have. videobuf was replaced by videobuf2 in Linux 6.6 for bttv,
  so the faults of one have no place in the other; their counterparts are named alike, with `vb2-` in front.
- All judgements, the bad ones too, are made again with the vCPUs stopped: [what came of that](audit.md).

Some faults have to be met between the two fields of a frame. On a busy host a single try can miss that
moment, hence their scenes try several times.

What no mutant shows, and why: a write after DMA was switched off (`dma-off`) would be a fault of the card,
and is proved on synthetic memory (tests/dmacheck). Writing to a page of a shared file that is being written
to disk (`stable-page`) is no fault of a driver: a look-alike (`slow-file`) shows it.

## Ideas, and what became of them
Ways in which a capture driver gets the pages of its buffers wrong: M numbers are from a study of videobuf
and bttv, O numbers were added since. A name stands for the fault in videobuf, with `vb2-` in front for the
same in videobuf2; faults in what bttv has for both are played as they are.
"""


@dataclass(frozen=True)
class Idea:
    """A way to get it wrong; the mutants that do so, or why there is none."""

    number: str
    text: str
    mutants: tuple[str, ...]
    reason: str


def ideas(path: Path = _IDEAS) -> tuple[list[Idea], dict[str, str]]:
    """All ideas, and mutants of videobuf that have no counterpart for videobuf2: the reason, by name.

    :raise SetupError: the file is not as it must be.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = [
            Idea(str(number), one["idea"], tuple(one.get("mutants", ())), one.get("reason", ""))
            for number, one in data["ideas"].items()
        ]
        return found, {str(name): str(reason) for name, reason in data["videobuf only"].items()}
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise SetupError(
            f"{path.name} cannot be read ({said}); it is part of vcapdev: install it again"
        ) from None


def head() -> str:
    """Everything of docs/mutants.md that is about no kernel in particular."""
    found, alone = ideas()
    lines = ["| | idea | mutants | |", "|---|---|---|---|"]
    for idea in found:
        names = ", ".join(f"`{name}`" for name in idea.mutants)
        lines.append(f"| {idea.number} | {idea.text} | {names} | {idea.reason} |")
    lines += ["", "Faults of videobuf without a counterpart in videobuf2:", ""]
    lines += [f"- `{name}`: {reason}" for name, reason in sorted(alone.items())]
    return HEAD + "\n" + "\n".join(lines) + "\n"


def write(path: Path, rows: Sequence[matrix.Row], about: Json) -> None:
    """Put what came of one kernel into the page, and its audit into audit.md beside it.

    :raise SetupError: a file cannot be written.
    """
    kernel = str(about["kernel"])
    page.renew(path, head(), {kernel: matrix.markdown(rows, about)}, recipe_names())
    _write_audit(path.with_name("audit.md"), kernel, audited(rows), about)


def audited(rows: Sequence[matrix.Row]) -> Counter[str]:
    """The audit's figures of all mutants together."""
    return sum((Counter(row.audit) for row in rows), Counter())


def audit_part(text: str, kernel: str, figures: Mapping[str, int], about: Json) -> str:
    """The part between the marks, with one kernel's figures replaced.

    :param text: the part as it was.
    """
    rows = {
        found[1]: [int(cell) for cell in found[2].split("|")]
        for found in re.finditer(r"^\| (\S+) \|((?: \d+ \|)*? \d+) \|$", text, re.M)
    }
    notes = dict(re.findall(r"^- (\S+): (.*)$", text, re.M))
    rows[kernel], notes[kernel] = [figures.get(name, 0) for name in AUDITED], told(about)
    rows.pop("together", None)
    kernels = [name for name in recipe_names() if name in rows]
    together = [sum(rows[name][place] for name in kernels) for place in range(len(AUDITED))]
    sums = dict(zip(AUDITED, together, strict=True))
    heads = ("kernel", *AUDITED)
    lines = [
        f"{sums['disagreed']} of {sums['pages']} pages, {sums['bad']} of them bad,"
        " were judged otherwise with the vCPUs stopped.",
        "",
        f"| {' | '.join(name.replace('_', ' ') for name in heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {name} | {' | '.join(map(str, rows[name]))} |" for name in kernels),
        f"| together | {' | '.join(map(str, together))} |",
        "",
        *(f"- {name}: {notes[name]}" for name in kernels if name in notes),
    ]
    return "\n".join(lines)


def _write_audit(path: Path, kernel: str, figures: Mapping[str, int], about: Json) -> None:
    """No page, or no marks in it: nothing."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if AUDIT_BEGIN not in text or AUDIT_END not in text:
        return
    before, _, rest = text.partition(AUDIT_BEGIN)
    part, _, after = rest.partition(AUDIT_END)
    new = audit_part(part, kernel, figures, about)
    path.write_text(f"{before}{AUDIT_BEGIN}\n{new}\n{AUDIT_END}{after}", encoding="utf-8")
