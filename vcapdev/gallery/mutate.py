# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants by machine: small changes to a C file, each of which a careless hand could have made.

Nine kinds: a call or an assignment is dropped, two neighbours that depend on each other are swapped, a
condition is inverted, something is off by one, an error path is skipped, a field or an argument is mistaken
for another, a flag is wrong. Nothing here knows whether a change compiles, or means anything; that is found
out by building and playing it. Overlay is left alone: nothing here can show what it draws.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vcapdev.gallery.csource import Function, Statement, arguments, blank, functions, variables
from vcapdev.gallery.depends import depend

KINDS = (
    "drop-call",
    "drop-assignment",
    "swap",
    "invert",
    "off-by-one",
    "skip-error-path",
    "wrong-field",
    "wrong-argument",
    "wrong-flag",
)

#: What is said to people, or checked in vain as long as nothing is wrong: without it all works as before.
_TALK = re.compile(
    r"(?:dprintk|printk|pr_\w+|dev_\w+|\w*_?printk|v4l2_\w*print\w*|WARN\w*|(?:VM_)?BUG(?:_ON)?|MAGIC_CHECK|might_\w+"
    r"|lockdep_\w+|EXPORT_\w+|MODULE_\w+|module_param\w*)\b"
)
_CALL = re.compile(r"[A-Za-z_]\w*\s*\(")
_MEMBER = re.compile(r"\b([A-Za-z_]\w*)(->|\.)([A-Za-z_]\w*)\b(?!\s*\()")
_OFF_BY_ONE = (
    (re.compile(r"(?<![<>=!\-+*/&|])<(?![<=])"), "<="),
    (re.compile(r"<=(?!=)"), "<"),
    (re.compile(r"(?<![->=])>(?![>=])"), ">="),
    (re.compile(r"(?<!>)>=(?!=)"), ">"),
    (re.compile(r"\+ ?1\b(?!\s*<<)"), "+ 0"),
    (re.compile(r"- ?1\b(?!\s*<<)"), "- 0"),
    (re.compile(r"(?<=[\w\])] = )0(?=;)"), "1"),
)
#: Counts of pages, bytes and lines, where they are handed to a call: the classic place to be one off.
_COUNT = re.compile(
    r"(?:[\w>-]*?)(?:nr_pages|num_pages|nr_frames|size|length|offset|bpl|lines|count|sglen|nents)"
)
_FLAGS = (
    (re.compile(r"\bDMA_FROM_DEVICE\b"), "DMA_TO_DEVICE"),
    (re.compile(r"\s*\|\s*(?:FOLL_LONGTERM|FOLL_WRITE|FOLL_FORCE)\b"), ""),
    (re.compile(r"(?<==)\s*(?:FOLL_\w+)\b"), " 0"),
    (re.compile(r"\bREAD\b"), "WRITE"),
    (re.compile(r"& ~PAGE_MASK\b"), "& PAGE_MASK"),
    (re.compile(r"& PAGE_MASK\b"), ""),
    (re.compile(r"\s*\|\s*BT848_RISC_(?:SOL|EOL|RESYNC|IRQ)\b"), ""),
    (re.compile(r"(?<=\|=)\s*BT848_RISC_(?:SOL|EOL|IRQ)\b"), " 0"),
    (re.compile(r"\bBT848_RISC_WRITE123\b"), "BT848_RISC_WRITE1S23"),
    (re.compile(r"\bBT848_RISC_WRITE1S23\b"), "BT848_RISC_WRITE123"),
    (re.compile(r"\bBT848_FIFO_STATUS_FM1\b"), "BT848_FIFO_STATUS_FM3"),
    (re.compile(r"\bBT848_FIFO_STATUS_FM3\b"), "BT848_FIFO_STATUS_FM1"),
    (re.compile(r"\bBT848_FIFO_STATUS_VRE\b"), "BT848_FIFO_STATUS_VRO"),
    (re.compile(r"\bRISC_SLOT_O_"), "RISC_SLOT_E_"),
    (re.compile(r"(?<== )true\b"), "false"),
    (re.compile(r"(?<== )false\b"), "true"),
)
_ASSIGNED = re.compile(r"(?:\*\(\w+\+\+\)|[A-Za-z_]\w*(?:->|\.|\[)[\w.\->\[\] ]*?)\s*(?:[-+|&]|<<|>>)?=(?!=)")
_STEPPED = re.compile(r"[A-Za-z_]\w*\s*(?:[-+|&]|<<|>>)=")
_UNPLAYED = re.compile(r"overlay|_screen_")


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
    text: str = ""  # of the line, without its indentation
    needs: int = 0  # where the statement begins that must run for the change to mean anything
    below: str = ""  # the line behind it, for lines that a function has more than once

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
    wanted = [function for function in functions(text) if not _UNPLAYED.search(function.name)]
    found = {
        (one.start, one.end, one.new): one
        for function in wanted
        for one in _Finder(file, text, function).all()
        if one.old != one.new
    }
    return sorted(found.values(), key=lambda one: (one.start, one.end, one.kind, one.new))


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
        self._types = variables(self._plain, function)

    def all(self) -> Iterator[Mutation]:
        """Every change of every kind."""
        for statement in self._function.body.walk():
            if statement.kind == "simple":
                yield from self._calls(statement)
                yield from self._assignments(statement)
            elif statement.kind == "if":
                yield from self._conditions(statement)
            yield from self._swaps(statement)
            if statement.kind in ("simple", "return") or statement.condition:
                yield from self._expressions(statement)

    def _one(self, kind: str, start: int, end: int, new: str, needs: int) -> Mutation:
        line = self._text.count("\n", 0, start)
        text, below = (each.strip() for each in [*self._text.splitlines(), ""][line : line + 2])
        return Mutation(
            kind, self._file, self._function.name, line + 1, start, end, self._text[start:end], new,
            text, needs, below,
        )  # fmt: skip

    def _calls(self, statement: Statement) -> Iterator[Mutation]:
        text = self._plain[statement.start : statement.end]
        if _CALL.match(text) and text.endswith(");") and not _TALK.match(text):
            yield self._one("drop-call", statement.start, statement.end - 1, "", statement.start)

    def _assignments(self, statement: Statement) -> Iterator[Mutation]:
        text = self._plain[statement.start : statement.end]
        if _ASSIGNED.match(text) or _STEPPED.match(text):
            yield self._one("drop-assignment", statement.start, statement.end - 1, "", statement.start)

    def _conditions(self, statement: Statement) -> Iterator[Mutation]:
        assert statement.condition is not None
        start, end = statement.condition
        if _TALK.match(self._plain, start):
            return
        condition = self._text[start:end]
        yield self._one("invert", start, end, f"!({condition})", statement.start)
        if _leaves(statement.parts[0]) and len(statement.parts) == 1:
            inside = statement.parts[0]
            needs = inside.parts[0].start if inside.kind == "block" else inside.start
            yield self._one("skip-error-path", start, end, f"0 && ({condition})", needs)

    def _swaps(self, block: Statement) -> Iterator[Mutation]:
        for first, second in zip(block.parts, block.parts[1:], strict=False):
            if block.kind == "block" and self._acts(first) and self._acts(second):
                plain = [self._plain[each.start : each.end] for each in (first, second)]
                one, gap, other = (
                    self._text[first.start : first.end],
                    self._text[first.end : second.start],
                    self._text[second.start : second.end],
                )
                if depend(*plain) and not _commute(*plain):
                    yield self._one("swap", first.start, second.end, other + gap + one, first.start)

    def _acts(self, statement: Statement) -> bool:
        """An expression that does something: a call or an assignment, not a declaration."""
        text = self._plain[statement.start : statement.end]
        if statement.kind != "simple" or _TALK.match(text):
            return False
        return bool(re.match(r"\*\(\w+\+\+\)|\*?[\w.\->\[\]]+\s*(?:\(|[-+|&]?=(?!=)|\+\+|--)", text))

    def _expressions(self, statement: Statement) -> Iterator[Mutation]:
        start, end = statement.condition or (statement.start, statement.end)
        if _TALK.match(self._plain, start):
            return
        for kind, patterns in (("off-by-one", _OFF_BY_ONE), ("wrong-flag", _FLAGS)):
            for pattern, new in patterns:
                for match in pattern.finditer(self._plain, start, end):
                    yield self._one(kind, match.start(), match.end(), new, statement.start)
        for match in _MEMBER.finditer(self._plain, start, end):
            yield from self._fields(match, statement.start)
        yield from self._arguments(start, end, statement.start)

    def _fields(self, match: re.Match[str], needs: int) -> Iterator[Mutation]:
        """The member that the file uses next to this one, of the same variable."""
        base, arrow, member = match.groups()
        own = self._plain[self._function.body.start : self._function.body.end]
        others = [m[3] for m in _MEMBER.finditer(own) if m[1] == base and m[2] == arrow and m[3] != member]
        if others:
            other = min(set(others), key=lambda o: (_far(o, member), o))
            yield self._one("wrong-field", match.start(3), match.end(3), other, needs)

    def _arguments(self, start: int, end: int, needs: int) -> Iterator[Mutation]:
        """Arguments of a call: one less, exchanged with the next, or another variable of that type."""
        for call in _CALL.finditer(self._plain, start, end):
            if _TALK.match(call[0]) or re.match(r"(?:if|for|while|switch|sizeof|return)\b", call[0]):
                continue
            given = arguments(self._plain, call.end() - 1)
            for one, two in given:
                text = self._plain[one:two]
                if _COUNT.fullmatch(text):
                    yield self._one("off-by-one", one, two, f"{self._text[one:two]} - 1", needs)
                for name in self._alike(text):
                    yield self._one("wrong-argument", one, two, name, needs)
            for (one, two), (three, four) in pairwise(given):
                left, right = self._plain[one:two].strip(), self._plain[three:four].strip()
                if left != right and self._number(left) and self._number(right):
                    gap = self._text[two:three]
                    changed = self._text[three:four] + gap + self._text[one:two]
                    yield self._one("wrong-argument", one, four, changed, needs)

    def _alike(self, name: str) -> list[str]:
        """The other variable of the same type whose name is most alike."""
        kind = self._types.get(name)
        others = [each for each, type_ in self._types.items() if type_ == kind and each != name]
        return [min(others, key=lambda o: (_far(o, name), o))] if kind and others else []

    def _number(self, text: str) -> bool:
        if re.fullmatch(r"\d+", text):
            return True
        if re.fullmatch(r"\w+", text):
            return self._types.get(text, "*").endswith(("int", "long", "size_t", "u32", "__s32"))
        return bool(
            re.fullmatch(
                r"[\w>-]+->(?:\w*size|nr_pages|num_pages|width|height|offset|[hv]shift|length)", text
            )
        )


def _commute(first: str, second: str) -> bool:
    """Two steps of one variable by sums, or by bits that are set: their order is the same to all."""
    step = re.compile(r"([\w.\->]+)\s*([-+|])=(?!=)(?!.*\w\s*\().*;$", re.S)
    one, other = step.match(first), step.match(second)
    if one is None or other is None or one[1] != other[1]:
        return False
    return (one[2] == "|") == (other[2] == "|")


def _far(one: str, other: str) -> float:
    """How little two names look alike: a slip takes the one that looks most alike."""
    return -difflib.SequenceMatcher(None, one, other).ratio()


def _leaves(statement: Statement) -> bool:
    """Whether a branch ends by leaving the function or jumping to its end."""
    last = statement.parts[-1] if statement.kind == "block" and statement.parts else statement
    return last.kind in ("return", "goto")
