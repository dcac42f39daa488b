# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants by machine: small changes to a C file, each of which a careless hand could have made.

Six kinds: a call is dropped, two neighbours are swapped, a condition is inverted, something is off by one,
an error path is skipped, a field is mistaken for another. Nothing here knows whether a change compiles, or
means anything; that is found out by building and playing it.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vcapdev.gallery.csource import Function, Statement, blank, functions

KINDS = ("drop-call", "swap", "invert", "off-by-one", "skip-error-path", "wrong-field")

#: What is said to people, or checked in vain as long as nothing is wrong: without it all works as before.
_TALK = re.compile(
    r"(?:dprintk|printk|pr_\w+|dev_\w+|\w*_?printk|v4l2_\w*print\w*|WARN\w*|BUG_ON|MAGIC_CHECK|might_\w+"
    r"|lockdep_\w+|EXPORT_\w+|MODULE_\w+|module_param\w*)\b"
)
_CALL = re.compile(r"[A-Za-z_]\w*\s*\(")
_MEMBER = re.compile(r"\b([A-Za-z_]\w*)(->|\.)([A-Za-z_]\w*)\b(?!\s*\()")
_OFF_BY_ONE = (
    (re.compile(r"(?<![<>=!\-+*/&|])<(?![<=])"), "<="),
    (re.compile(r"<=(?!=)"), "<"),
    (re.compile(r"(?<![->=])>(?![>=])"), ">="),
    (re.compile(r"(?<!>)>=(?!=)"), ">"),
    (re.compile(r"\+ 1\b(?!\s*<<)"), "+ 0"),
    (re.compile(r"- 1\b(?!\s*<<)"), "- 0"),
    (re.compile(r"(?<=[\w\])] = )0(?=;)"), "1"),
)


@dataclass(frozen=True)
class Mutation:
    """One change: ``text[start:end]`` becomes ``new``."""

    kind: str
    file: str  # path in the kernel's source
    function: str
    line: int  # from 1
    start: int
    end: int
    old: str
    new: str

    @property
    def name(self) -> str:
        """Short and distinct: ``videobuf-dma-sg.c:176 drop-call``, with a number where that is not enough."""
        return f"{self.file.rpartition('/')[2]}:{self.line} {self.kind} @{self.start}"

    @property
    def title(self) -> str:
        """The change on one line."""
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{_clip(old)} -> {_clip(new) or 'nothing'}"

    def apply(self, text: str) -> str:
        """The file with the change.

        :raise ValueError: it is another file than the one that the change was found in.
        """
        if text[self.start : self.end] != self.old:
            raise ValueError(f"{self.file} does not hold {_clip(self.old)!r} at offset {self.start}")
        return text[: self.start] + self.new + text[self.end :]

    def diff(self, text: str) -> str:
        """As a unified diff with as little context as applies."""
        before, after = text.splitlines(keepends=True), self.apply(text).splitlines(keepends=True)
        return "".join(difflib.unified_diff(before, after, f"a/{self.file}", f"b/{self.file}", n=1))


def _clip(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def mutations(file: str, text: str) -> list[Mutation]:
    """All changes that can be made to a file, in the order of the text.

    :raise ReadError: it is not C as the kernel writes it.
    """
    found = [mutation for function in functions(text) for mutation in _Finder(file, text, function).all()]
    return sorted(found, key=lambda one: (one.start, one.end, one.kind, one.new))


def choose(all_: Sequence[Mutation], count: int) -> list[Mutation]:
    """So many of them, the same each time, spread evenly over files, kinds and functions.

    Each kind of each file in turn gives its next one; within a kind they are spread over the file.
    """
    heaps: dict[tuple[str, str], list[Mutation]] = defaultdict(list)
    for mutation in all_:
        heaps[mutation.file, mutation.kind].append(mutation)
    queues = [_spread(heaps[key]) for key in sorted(heaps, key=lambda key: (KINDS.index(key[1]), key[0]))]
    chosen: list[Mutation] = []
    while queues and len(chosen) < count:
        for queue in list(queues):
            chosen.append(queue.pop(0))
            if not queue:
                queues.remove(queue)
    return sorted(chosen[:count], key=lambda one: (one.file, one.start, one.kind, one.new))


def _spread(heap: list[Mutation]) -> list[Mutation]:
    """The same in another order: far from each other first (bit-reversed places)."""
    bits = max(len(heap) - 1, 1).bit_length()
    places = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(1 << bits))
    return [heap[place] for place in places if place < len(heap)]


class _Finder:
    """Finds the changes of one function."""

    def __init__(self, file: str, text: str, function: Function) -> None:
        self._file, self._text, self._function = file, text, function
        self._plain = blank(text)

    def all(self) -> Iterator[Mutation]:
        """Every change of every kind."""
        for statement in self._function.body.walk():
            if statement.kind == "simple":
                yield from self._calls(statement)
            elif statement.kind == "if":
                yield from self._conditions(statement)
            yield from self._swaps(statement)
            if statement.kind in ("simple", "return") or statement.condition:
                yield from self._expressions(statement)

    def _one(self, kind: str, start: int, end: int, new: str) -> Mutation:
        line = self._text.count("\n", 0, start) + 1
        return Mutation(kind, self._file, self._function.name, line, start, end, self._text[start:end], new)

    def _calls(self, statement: Statement) -> Iterator[Mutation]:
        text = self._plain[statement.start : statement.end]
        if _CALL.match(text) and text.endswith(");") and not _TALK.match(text):
            yield self._one("drop-call", statement.start, statement.end - 1, "")

    def _conditions(self, statement: Statement) -> Iterator[Mutation]:
        assert statement.condition is not None
        start, end = statement.condition
        condition = self._text[start:end]
        yield self._one("invert", start, end, f"!({condition})")
        if _leaves(statement.parts[0]) and len(statement.parts) == 1:
            yield self._one("skip-error-path", start, end, f"0 && ({condition})")

    def _swaps(self, block: Statement) -> Iterator[Mutation]:
        for first, second in zip(block.parts, block.parts[1:], strict=False):
            if block.kind == "block" and self._acts(first) and self._acts(second):
                one, gap, other = (
                    self._text[first.start : first.end],
                    self._text[first.end : second.start],
                    self._text[second.start : second.end],
                )
                yield self._one("swap", first.start, second.end, other + gap + one)

    def _acts(self, statement: Statement) -> bool:
        """An expression that does something: a call or an assignment, not a declaration."""
        text = self._plain[statement.start : statement.end]
        if statement.kind != "simple" or _TALK.match(text):
            return False
        return bool(re.match(r"\*?[\w.\->\[\]]+\s*(?:\(|[-+|&]?=(?!=)|\+\+|--)", text))

    def _expressions(self, statement: Statement) -> Iterator[Mutation]:
        start, end = statement.condition or (statement.start, statement.end)
        if _TALK.match(self._plain, start):
            return
        for pattern, new in _OFF_BY_ONE:
            for match in pattern.finditer(self._plain, start, end):
                yield self._one("off-by-one", match.start(), match.end(), new)
        for match in _MEMBER.finditer(self._plain, start, end):
            yield from self._fields(match)

    def _fields(self, match: re.Match[str]) -> Iterator[Mutation]:
        """The member that the file uses next to this one, of the same variable."""
        base, arrow, member = match.groups()
        own = self._plain[self._function.body.start : self._function.body.end]
        others = [m[3] for m in _MEMBER.finditer(own) if m[1] == base and m[2] == arrow and m[3] != member]
        if others:
            place = match.start(3)
            yield self._one(
                "wrong-field", place, match.end(3), min(set(others), key=lambda o: (_far(o, member), o))
            )


def _far(one: str, other: str) -> float:
    """How little two names look alike: a slip takes the one that looks most alike."""
    return -difflib.SequenceMatcher(None, one, other).ratio()


def _leaves(statement: Statement) -> bool:
    """Whether a branch ends by leaving the function or jumping to its end."""
    last = statement.parts[-1] if statement.kind == "block" and statement.parts else statement
    return last.kind in ("return", "goto")
