# SPDX-License-Identifier: GPL-2.0-or-later
"""Does a verdict blame what it has to: the instruction, the page of the buffer, in the right words?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

NOTHING = "none"
PROGRAM = "program"
UNBLAMED = "unblamed"


def of_rule(verdicts: Sequence[Json], rule: str) -> list[Json]:
    """The verdicts of a rule; "A or B" means either, where luck decides what the card meets first."""
    return [verdict for verdict in verdicts if verdict.get("rule") in either(rule)]


def either(rule: str) -> frozenset[str]:
    """The names in "A or B"."""
    return frozenset(rule.split(" or "))


def describe(verdict: Json) -> str:
    """In a few words: instruction, page of the buffer, and what the verdict is about."""
    instruction, target = verdict.get("instruction"), verdict.get("buffer")
    words = [_word(verdict)] if instruction else []
    if target:
        words.append(f"page {target['page'] + 1} of {target['pages']}")
    if not target and verdict.get("pages"):
        words.append("1 page" if verdict["pages"] == 1 else f"{verdict['pages']} pages")
    return ", ".join(words) or "nothing in particular"


def wrong(verdicts: Sequence[Json], blame: Mapping[str, Any]) -> str:
    """Why none of a rule's verdicts blames what ``blame`` says; "" when one does.

    Keys of ``blame``: ``instruction``, its first word (or a list of such), "program" where a whole program is
    blamed (for a page that was released, or never was), "none" where nothing is; ``page``, "first", "last" or
    a number from 1, of the pages that the program writes, or "any" of them; ``buffer``, words that one line
    about the framework's buffer must hold; ``pages``, how many the verdict is about; ``says``, words that its
    first line must hold; ``unblamed``, why there is no ``instruction``, ``buffer`` or ``page``: for people.
    """
    if not verdicts:
        return "there is no verdict"
    reasons = [_reason(verdict, blame) for verdict in verdicts]
    return "" if "" in reasons else reasons[0]


def _reason(verdict: Json, blame: Mapping[str, Any]) -> str:
    for name, wanted in blame.items():
        if name == UNBLAMED:
            continue
        if name not in _CHECKS:
            return f"blame has no key {name!r}"
        if reason := _CHECKS[name](verdict, wanted):
            return reason
    return ""


def _word(verdict: Json) -> str:
    found = verdict.get("instruction")
    text = str(found["instruction"]) if found else NOTHING
    return PROGRAM if text.startswith("a program") else text.split()[0]


def _instruction(verdict: Json, wanted: Any) -> str:
    word, names = _word(verdict), wanted if isinstance(wanted, list) else [wanted]
    return "" if word in names else f"instruction {word} is blamed, not {' or '.join(names)}"


def _page(verdict: Json, wanted: Any) -> str:
    target = verdict.get("buffer")
    if not target:
        return f"no page of a buffer is blamed, not the {wanted} one"
    found = target["page"] + 1
    number = {"first": 1, "last": target["pages"], "any": found}.get(wanted, wanted)
    return "" if found == number else f"page {found} of {target['pages']} is blamed, not the {wanted} one"


def _buffer(verdict: Json, wanted: Any) -> str:
    evidence = verdict.get("evidence") or {}
    lines = [*evidence.get("buffer", ()), *evidence.get("notes", ())]
    if any(str(wanted) in line for line in lines):
        return ""
    return f"no buffer is named with {wanted!r}: {'; '.join(lines) or 'none at all'}"


def _pages(verdict: Json, wanted: Any) -> str:
    found = verdict.get("pages")
    return "" if found == wanted else f"{found} pages are blamed, not {wanted}"


def _says(verdict: Json, wanted: Any) -> str:
    text = str(verdict.get("key", ""))
    return "" if str(wanted) in text else f"it says {text!r}, without {wanted!r}"


_CHECKS = {"instruction": _instruction, "buffer": _buffer, "page": _page, "pages": _pages, "says": _says}
