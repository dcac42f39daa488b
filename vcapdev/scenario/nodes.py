# SPDX-License-Identifier: GPL-2.0-or-later
"""YAML with its places: every complaint names the file, the line and the column.

The file is not constructed but only composed (PyYAML's nodes know where they stand); what a node may be is
asked of it by the kinds of :mod:`vcapdev.scenario.kinds`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import UsageError

_DEEPEST = 40  # levels of nesting
_MOST_NODES = 50_000  # an alias that multiplies itself ends here

Node = yaml.Node


class ScenarioError(UsageError):
    """A scenario file is wrong; the text begins with its path, line and column, as a compiler's does."""


class Place:
    """Makes complaints about the nodes of one file."""

    def __init__(self, file: str) -> None:
        self.file = file

    def wrong(self, node: Node | None, text: str) -> ScenarioError:
        """A complaint about a node; about the file as a whole where there is none."""
        if node is None:
            return ScenarioError(f"{self.file}: {text}")
        mark = node.start_mark
        return ScenarioError(f"{self.file}:{mark.line + 1}:{mark.column + 1}: {text}")


def read_text(path: Path) -> str:
    """The file's text. :raise ScenarioError: there is none, or it is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(
            f"{path}: {error.strerror or error}; name a scenario file or a directory"
        ) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: not UTF-8 text (byte {error.start})") from None


def compose(text: str, place: Place) -> Node:
    """The node of a file with one document.

    :raise ScenarioError: it is no YAML, is empty, or nests without end.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place.file}:{mark.line + 1}:{mark.column + 1}" if mark else place.file
        raise ScenarioError(f"{where}: no valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ScenarioError(f"{place.file}: no valid YAML: {why[:200]}") from None
    if node is None:
        raise place.wrong(None, "the file is empty")
    _bounded(node, place)
    return node


def _bounded(node: Node, place: Place) -> None:
    """Refuse what an alias makes endless."""
    seen = 0
    pending = [(node, 0)]
    while pending:
        each, depth = pending.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_NODES:
            raise place.wrong(each, "nested too deeply, or aliases that multiply themselves")
        pending += [(child, depth + 1) for child in children(each)]


def children(node: Node) -> Iterator[Node]:
    """The nodes right below one."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def scalar(node: Node) -> Any:
    """A scalar as YAML reads it: text, number, True, None. Anything else is ``NotImplemented``."""
    if not isinstance(node, yaml.ScalarNode):
        return NotImplemented
    loader = yaml.SafeLoader("")
    try:
        if node.tag.endswith((":int", ":float", ":bool", ":null")):
            return loader.construct_object(node)
        return node.value if node.tag.endswith((":str", ":timestamp", ":merge")) else NotImplemented
    except (ValueError, yaml.YAMLError):
        return node.value
    finally:
        loader.dispose()


def pairs(node: Node, place: Place) -> list[tuple[str, Node, Node]]:
    """The keys of a mapping: text, the key's node, the value's.

    :raise ScenarioError: it is no mapping, a key is no text, or is there twice.
    """
    if not isinstance(node, yaml.MappingNode):
        raise place.wrong(node, f"a mapping (key: value) is wanted here, not {said(node)}")
    found: dict[str, tuple[str, Node, Node]] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise place.wrong(key, "a key must be a word")
        if key.value in found:
            line = found[key.value][1].start_mark.line + 1
            raise place.wrong(key, f"the key {key.value!r} is here twice; the first is in line {line}")
        found[key.value] = key.value, key, value
    return list(found.values())


def said(node: Node) -> str:
    """What a node is, in words."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    value = str(node.value)
    return repr(value if len(value) <= 40 else value[:37] + "...")


def hint(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'this'?``, or all that is known."""
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def substituted(node: Node, values: Mapping[str, str]) -> Node:
    """The same with ``${name}`` replaced in every text; what is nothing else may become a number by that."""
    if isinstance(node, yaml.SequenceNode):
        below: Any = [substituted(child, values) for child in node.value]
        return yaml.SequenceNode(node.tag, below, node.start_mark, node.end_mark)
    if isinstance(node, yaml.MappingNode):
        below = [(substituted(key, values), substituted(value, values)) for key, value in node.value]
        return yaml.MappingNode(node.tag, below, node.start_mark, node.end_mark)
    text = node.value
    for name, value in values.items():
        text = text.replace("${" + name + "}", value)
    if text == node.value:
        return node
    return yaml.ScalarNode(
        _tag(node, text), text, node.start_mark, node.end_mark, getattr(node, "style", None)
    )


def _tag(node: Node, text: str) -> str:
    alone = re.fullmatch(r"\$\{[A-Za-z_-]+\}", node.value)
    if getattr(node, "style", None) is not None and not alone:  # quoted: it stays text
        return str(node.tag)
    resolver = yaml.SafeLoader("")
    try:
        return str(resolver.resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]
    finally:
        resolver.dispose()
