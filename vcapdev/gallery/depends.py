# SPDX-License-Identifier: GPL-2.0-or-later
"""What a C statement reads and writes, well enough to tell whether its order beside another one matters.

Things are named by their text: ``dma->pages``, ``buf``. Two names are about the same thing when one is the
beginning of the other; aliases are not known. What a call does with what it is given is not known either:
it is taken to change it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

_PATH = re.compile(r"[A-Za-z_]\w*(?:\s*(?:->|\.)\s*[A-Za-z_]\w*|\[[^\[\]]*\])*")
_TARGET = re.compile(
    r"(?P<left>\*?\(?[A-Za-z_][\w.\->\[\] ]*?(?:\+\+)?\)?)\s*"
    r"(?P<sign>[-+*/|&^]|<<|>>)?=(?!=)\s*(?P<right>.*)",
    re.S,
)
_STEP = re.compile(r"(?P<name>[A-Za-z_][\w.\->\[\]]*)\s*(?:\+\+|--)\s*;?$")
_CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
_WORDS = frozenset(
    ("sizeof", "struct", "unsigned", "int", "long", "char", "void", "const", "u32", "u64", "size_t", "return")
)
#: Calls that only compute, or touch the card only: what they are given stays as it is.
_PURE = re.compile(
    r"(?:min|max|min_t|max_t|clamp|cpu_to_le\d+|le\d+_to_cpu|sg_dma_\w+|sg_next|sg_page|page_address|virt_to_page"
    r"|array_size|likely|unlikely|IS_ERR|PTR_ERR|get_order|bt(?:read|write|or|and|aor)|pfn_to_page|page_to_pfn|container_of)$"
)


@dataclass(frozen=True)
class Effects:
    """Names that a statement reads, those that it changes, and what it hands to calls that act."""

    reads: frozenset[str]
    writes: frozenset[str]
    handed: frozenset[str]


def effects(text: str) -> Effects:
    """Of one simple statement, comments blanked."""
    handed = _handed(text)
    assignment = _TARGET.match(text)
    if assignment:
        left = _paths(assignment["left"])[:1]
        reads = _paths(assignment["right"]) + (left if assignment["sign"] else [])
        return Effects(frozenset(reads), frozenset(left) | handed, handed)
    step = _STEP.match(text)
    if step:
        name = frozenset({_clean(step["name"])})
        return Effects(name, name, handed)
    return Effects(frozenset(_paths(text)), handed, handed)


def depend(first: str, second: str) -> bool:
    """Whether it matters in which order two statements stand."""
    one, other = effects(first), effects(second)
    return (
        any(_same(*pair) for pair in product(one.writes, other.writes | other.handed))
        or any(_same(*pair) for pair in product(one.handed, other.writes | other.handed))
        or any(_changes(*pair) for pair in product(one.writes, other.reads))
        or any(_changes(*pair) for pair in product(other.writes, one.reads))
    )


def _same(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return long == short or (long.startswith(short) and long[len(short)] in "-.[")


def _changes(written: str, read: str) -> bool:
    """A pointer that is read is the same whatever is written through it."""
    return _same(written, read) and not written.startswith(f"{read}->")


def _clean(path: str) -> str:
    return re.sub(r"\s+", "", path)


def _paths(text: str) -> list[str]:
    found = []
    for match in _PATH.finditer(text):
        called = text[match.end() :].lstrip().startswith("(")
        name = _clean(match[0])
        if not called and name not in _WORDS and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            found.append(name)
    return found


def _handed(text: str) -> frozenset[str]:
    """What stands between the parentheses of calls that act."""
    found: list[str] = []
    for call in _CALL.finditer(text):
        if call[1] in _WORDS or _PURE.match(call[1]):
            continue
        depth, at = 1, call.end()
        while at < len(text) and depth:
            depth += (text[at] == "(") - (text[at] == ")")
            at += 1
        found += _paths(text[call.end() : at - 1])
    return frozenset(found)
