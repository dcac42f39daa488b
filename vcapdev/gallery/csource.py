# SPDX-License-Identifier: GPL-2.0-or-later
"""Just enough reading of kernel C to name its functions and statements by their place in the text.

No preprocessing, no types: comments, strings and directives are blanked, braces and parentheses matched, and
each function body is read as a tree of statements. Macros that take a statement (``list_for_each_entry``)
are read as loops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_BLANKED = re.compile(
    r"""/\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | ^[ \t]*\#(?:\\\n|[^\n])*""",
    re.S | re.M | re.X,
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_LABEL = re.compile(r"(?:case\b[^:?]*|default\s*|[A-Za-z_]\w*\s*):(?!:)")
_DECLARED = re.compile(r"((?:const\s+|unsigned\s+|struct\s+|enum\s+)*[A-Za-z_]\w*)\s*([*\s]+)\s*(\w+)")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


class ReadError(ValueError):
    """The text is not the kind of C that is understood here; says where."""


@dataclass
class Statement:
    """One statement: ``text[start:end]``.

    :ivar kind: "if", "loop", "switch", "block", "return", "goto", "label", "simple" (an expression or a
        declaration) or "empty".
    :ivar condition: where the parenthesised condition's inside lies.
    :ivar parts: the statements inside; of an "if" the branches.
    """

    kind: str
    start: int
    end: int
    condition: tuple[int, int] | None = None
    parts: list[Statement] = field(default_factory=list)

    def walk(self) -> Iterator[Statement]:
        """This one and all inside it, in the order of the text."""
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass(frozen=True)
class Function:
    """A function: its name, and its body as a block."""

    name: str
    body: Statement
    parameters: tuple[int, int] = (0, 0)  # where they stand, without the parentheses


def blank(text: str) -> str:
    """The same length, with spaces for comments, the inside of literals, and directives."""

    def spaces(match: re.Match[str]) -> str:
        found = match[0]
        if found[0] in "\"'":
            return found[0] + "x" * (len(found) - 2) + found[0]
        return re.sub(r"[^\n]", " ", found)

    return _BLANKED.sub(spaces, text)


def functions(text: str) -> list[Function]:
    """All functions of a file.

    :raise ReadError: braces or parentheses do not match.
    """
    plain = blank(text)
    found: list[Function] = []
    at = 0
    while (at := plain.find("{", at)) >= 0:
        end = _matching(plain, at)
        head = _function_head(plain, at)
        if head is not None:
            reader = _Reader(plain)
            found.append(Function(head[0], reader.block(at), head[1]))
        at = end
    return found


def variables(plain: str, function: Function) -> dict[str, str]:
    """Types of a function's parameters and local variables by name; a pointer's type ends with a star."""
    found: dict[str, str] = {}
    start, end = function.parameters
    for each in plain[start:end].split(","):
        _declare(found, each)
    for statement in function.body.walk():
        if statement.kind == "simple":
            first, *more = plain[statement.start : statement.end].rstrip(";").split(",")
            name = _declare(found, first.partition("=")[0])
            for other in more if name else ():
                if word := re.fullmatch(r"\s*(\**)\s*(\w+)\s*(?:=.*)?", other, re.S):
                    found[word[2]] = found[name].rstrip("* ") + word[1]
    return found


def _declare(found: dict[str, str], text: str) -> str:
    """Note what ``text`` declares, if it declares anything; gives its name."""
    match = _DECLARED.fullmatch(text.strip())
    if match is None or match[1].split()[0] in ("return", "goto", "else", "case"):
        return ""
    found[match[3]] = " ".join(match[1].split()) + match[2].strip()
    return match[3]


def arguments(plain: str, opening: int) -> list[tuple[int, int]]:
    """Where the arguments of a call stand, without blanks around them; ``opening`` is its parenthesis."""
    end, found, begin, at = _matching(plain, opening) - 1, [], opening + 1, opening + 1
    while at <= end:
        if at == end or plain[at] == ",":
            text = plain[begin:at]
            if text.strip():
                found.append((at - len(text.lstrip()), begin + len(text.rstrip())))
            begin = at + 1
        at = _matching(plain, at) if at < end and plain[at] in _PAIRS else at + 1
    return found


def _function_head(plain: str, brace: int) -> tuple[str, tuple[int, int]] | None:
    """Name and parameters in front of a brace; None where that is no function's."""
    head = plain[:brace].rstrip()
    if not head.endswith(")"):
        return None
    depth, at = 0, len(head)
    while at:
        at -= 1
        depth += (head[at] == ")") - (head[at] == "(")
        if not depth:
            break
    name = re.search(r"([A-Za-z_]\w*)\s*$", head[:at])
    return (name[1], (at + 1, len(head) - 1)) if name else None


def _matching(plain: str, at: int) -> int:
    """Just behind the bracket that closes the one at ``at``."""
    expected: list[str] = []
    for place in range(at, len(plain)):
        char = plain[place]
        if char in _PAIRS:
            expected.append(_PAIRS[char])
        elif char in ")]}":
            if not expected or expected.pop() != char:
                raise ReadError(f"unmatched {char} at offset {place}")
            if not expected:
                return place + 1
    raise ReadError(f"{plain[at]} at offset {at} is never closed")


class _Reader:
    """Reads statements out of blanked text."""

    def __init__(self, plain: str) -> None:
        self._plain = plain

    def block(self, at: int) -> Statement:
        """The block whose brace is at ``at``."""
        end = _matching(self._plain, at)
        parts: list[Statement] = []
        place = self._space(at + 1)
        while place < end - 1:
            parts.append(self._statement(place))
            place = self._space(parts[-1].end)
        return Statement("block", at, end, parts=parts)

    def _space(self, at: int) -> int:
        while at < len(self._plain) and self._plain[at].isspace():
            at += 1
        return at

    def _statement(self, at: int) -> Statement:
        plain = self._plain
        if plain[at] == "{":
            return self.block(at)
        if plain[at] == ";":
            return Statement("empty", at, at + 1)
        label = _LABEL.match(plain, at)
        if label and not re.match(r"(?:if|for|while|switch|return|do)\b", label[0]):
            return Statement("label", at, label.end())
        name = _NAME.match(plain, at)
        word = name[0] if name else ""
        if word == "if":
            return self._if(at)
        if word == "do":
            return self._do(at)
        if word in ("for", "while", "switch"):
            return self._headed(at, "switch" if word == "switch" else "loop")
        if word in ("return", "goto", "break", "continue"):
            kind = "goto" if word in ("break", "continue") else word
            return Statement(kind, at, self._semicolon(at))
        if name and self._takes_statement(name.end()):
            return self._headed(at, "loop")
        return Statement("simple", at, self._semicolon(at))

    def _takes_statement(self, at: int) -> bool:
        """Whether a macro call is followed by a statement of its own."""
        opening = self._space(at)
        if self._plain[opening : opening + 1] != "(":
            return False
        after = self._space(_matching(self._plain, opening))
        return bool(re.match(r"[A-Za-z_{]", self._plain[after : after + 1]))

    def _head(self, at: int) -> tuple[int, int]:
        opening = self._plain.index("(", at)
        return opening + 1, _matching(self._plain, opening) - 1

    def _headed(self, at: int, kind: str) -> Statement:
        condition = self._head(at)
        body = self._statement(self._space(condition[1] + 1))
        return Statement(kind, at, body.end, condition, [body])

    def _if(self, at: int) -> Statement:
        found = self._headed(at, "if")
        after = self._space(found.end)
        if re.match(r"else\b", self._plain[after : after + 5]):
            other = self._statement(self._space(after + 4))
            found.parts.append(other)
            found.end = other.end
        return found

    def _do(self, at: int) -> Statement:
        body = self._statement(self._space(at + 2))
        condition = self._head(body.end)
        return Statement("loop", at, self._semicolon(condition[1]), condition, [body])

    def _semicolon(self, at: int) -> int:
        """Just behind the semicolon that ends what begins at ``at``."""
        while at < len(self._plain):
            char = self._plain[at]
            if char == ";":
                return at + 1
            at = _matching(self._plain, at) if char in _PAIRS else at + 1
        raise ReadError("a statement does not end")
