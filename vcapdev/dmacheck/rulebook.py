# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/rules.md, made of the rules themselves and of the altered drivers that prove them.

``python -m vcapdev.dmacheck.rulebook`` writes it to standard output, with ``--check FILE`` it says whether a
file is what it would write. ``--tables FILE`` writes the tables of rules and oddities in a file anew, between
their marks: docs/report.md has them.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from vcapdev.dmacheck.oddities import ODDITIES
from vcapdev.dmacheck.rules import (
    ALL_RULES,
    CONTRACT_RULES,
    DEVICE_RULES,
    DMAAPI_RULES,
    PAGE_RULES,
    PIN_RULES,
    Rule,
)
from vcapdev.resources import resource_dir

WIDTH = 110
_HEAD = """\
# The rules

What a device may do to memory, as the checker holds it to. This page is made of the rules' own texts by
`make rules`; edit them in `vcapdev/dmacheck/rules/`.

Several rules look at the same page. It is blamed under the first that it breaks, in the order in which
they stand here. V-numbers are those of the project's list of violations, R are reads, D the DMA API, P and
S what was added to it. A verdict says how sure it is:

- *certain at any single stable look*: two reads that agree are enough, wherever they fall;
- *certain when seen both before and after the bytes moved*: what was bad at one of two looks only is
  counted as `passing`;
- *certain once confirmed with the vCPUs stopped*: the guest stands still while it is looked at again;
- the others are certain by when they are judged.

Where DMA turns out to have been stopped before the verdict is made, there is none (`raced-with-stop`).
`make mutants` plays the altered drivers named here, and the tests in `tests/dmacheck` prove every rule,
and the silence about every harmless state, on memory made by hand. L-numbers are the harmless states of
that list.
"""
_PARTS: tuple[tuple[str, str, Sequence[Rule]], ...] = (
    ("Pages at the moment of a write", "judged together for all pages of a batch.", PAGE_RULES),
    ("Pins", "judged when pages are released, or should have been.", PIN_RULES),
    ("What the device does", "when it writes, where a write ends, what it fetches.", DEVICE_RULES),
    ("The media framework's contract", "whose the buffer is, where it ends.", CONTRACT_RULES),
    ("The DMA API", "judged with `--iommu`: what the driver has mapped for the device.", DMAAPI_RULES),
)


def proofs(directory: Path) -> dict[str, list[tuple[str, str]]]:
    """Altered drivers by the rule that must fire, each with its name and title.

    :param directory: holds a YAML file for each.
    """
    by_id = {rule.id: rule.name for rule in ALL_RULES}
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(directory.glob("*.yaml")):
        content = yaml.safe_load(path.read_text("utf-8"))
        for rule in str(content["rule"]).split(" or "):  # either is enough
            found.setdefault(by_id.get(rule, rule), []).append((path.stem, str(content["title"])))
    return found


def rulebook(mutants: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """The whole page."""
    lines = [_HEAD, *_overview(mutants)]
    for title, what, rules in _PARTS:
        lines += ["", f"## {title}", what[0].upper() + what[1:]]
        for rule in rules:
            lines += _section(rule, mutants.get(rule.name, ()))
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """A page whose tables of rules and oddities, each between two marks, are those of the code.

    :raise ValueError: the page lacks a mark.
    """
    rules = [
        f"| [`{rule.name}`](rules.md#{_anchor(rule)}) | {rule.id} | {rule.severity} | {rule.sentence} |"
        for rule in ALL_RULES
    ]
    oddities = [f"| `{name}` | {what} |" for name, what in ODDITIES.items()]
    text = _between(text, "rules", ["| rule | id | severity | says |", "|---|---|---|---|", *rules])
    return _between(text, "oddities", ["| name | what it is |", "|---|---|", *oddities])


def _between(text: str, name: str, lines: Sequence[str]) -> str:
    start, end = f"<!-- {name}: made by make rules -->\n", f"<!-- end of {name} -->\n"
    shape = re.compile(f"({re.escape(start)}).*({re.escape(end)})", re.S)
    made, count = shape.subn(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)
    if count != 1:
        raise ValueError(f"no table between {start.strip()} and {end.strip()}")
    return made


def _overview(mutants: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    lines = ["| rule | id | severity | proved by |", "|---|---|---|---|"]
    for rule in ALL_RULES:
        count = len(mutants.get(rule.name, ()))
        proof = f"{count} altered driver{'s' * (count != 1)}" if count else _short(rule)
        lines.append(f"| [`{rule.name}`](#{_anchor(rule)}) | {rule.id} | {rule.severity} | {proof} |")
    return lines


def _anchor(rule: Rule) -> str:
    """As the heading of a rule is linked to."""
    return f"{rule.name}-{rule.id.lower()}"


def _section(rule: Rule, mutants: Sequence[tuple[str, str]]) -> list[str]:
    lines = ["", f"### {rule.name} ({rule.id})", *_text(f"{_sentence(rule.sentence)}"), ""]
    lines += _item("severity", rule.severity)
    lines += _item("certainty", rule.certainty)
    lines += _item("facts", rule.facts)
    lines += _item("why it is certain", rule.why)
    lines += [f"- looks like: `{rule.looks}`"]
    if mutants:
        lines += ["- proved by:"]
        for name, title in mutants:
            lines += _text(f"  - `{name}`: {title}", "    ")
    else:
        lines += _item("proved by", rule.proof or "memory made by hand only")
    if rule.unjudged:
        lines += _item("not judged", rule.unjudged)
    lines += ["- harmless states near it:"]
    for near in rule.near:
        lines += _text(f"  - {near}", "    ")
    return lines


def _short(rule: Rule) -> str:
    """What proves a rule without an altered driver, in the table."""
    return rule.proof.partition(":")[0] or "memory made by hand"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _item(label: str, text: str) -> list[str]:
    return _text(f"- {label}: {text}", "  ")


def _text(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0, or 1 when the file to be checked is another."""
    parser = argparse.ArgumentParser(prog="vcapdev.dmacheck.rulebook", description="make docs/rules.md")
    parser.add_argument("--check", metavar="FILE", type=Path, help="compare instead of writing")
    parser.add_argument("--tables", metavar="FILE", type=Path, help="write the tables in it anew")
    options = parser.parse_args(arguments)
    if options.tables is not None:
        options.tables.write_text(with_tables(options.tables.read_text("utf-8")), "utf-8")
        return 0
    text = rulebook(proofs(resource_dir("guest") / "mutants"))
    if options.check is None:
        sys.stdout.write(text)
        return 0
    if options.check.read_text("utf-8") == text:
        return 0
    print(f"{options.check}: not what the rules say; write it anew with make rules")
    return 1


if __name__ == "__main__":
    sys.exit(main())
