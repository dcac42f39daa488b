# SPDX-License-Identifier: GPL-2.0-or-later
"""What a value of a scenario file may be: one definition reads nodes, and tells its JSON schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

from vcapdev.scenario.nodes import Node, Place, hint, pairs, said, scalar

Json = dict[str, Any]

#: Any scalar may be, or hold, a variable of an ``each``; it is checked once that is known.
_VARIABLE: Json = {"type": "string", "pattern": r"\$\{[A-Za-z_-]+\}"}


class Kind(Protocol):
    """A sort of value."""

    def read(self, node: Node, place: Place) -> Any:
        """The value. :raise ScenarioError: it is not of this kind."""

    def schema(self) -> Json:
        """Its JSON schema (draft 2020-12)."""


@dataclass(frozen=True)
class Text:
    """Text; with ``pattern`` it has to match as a whole, and ``like`` says in words what that means."""

    pattern: str | None = None
    like: str = "text"
    regex: bool = False  # it is a regular expression itself

    def read(self, node: Node, place: Place) -> str:
        value = scalar(node)
        if not isinstance(value, str):
            if isinstance(node, yaml.ScalarNode) and self.pattern and re.fullmatch(self.pattern, node.value):
                return str(node.value)
            quote = " (put it in quotes)" if isinstance(node, yaml.ScalarNode) else ""
            raise place.wrong(node, f"{self.like} is wanted here, not {said(node)}{quote}")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise place.wrong(node, f"{self.like} is wanted here, not {said(node)}")
        if self.regex:
            try:
                re.compile(value)
            except re.error as error:
                raise place.wrong(node, f"{value!r} is no regular expression: {error}") from None
        return value

    def schema(self) -> Json:
        if self.pattern:
            pattern = {"type": ["string", "number"], "pattern": f"^(?:{self.pattern})$"}
            return {"anyOf": [pattern, _VARIABLE]}
        return {"type": "string", **({"format": "regex"} if self.regex else {})}


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, node: Node, place: Place) -> str:
        value = node.value if isinstance(node, yaml.ScalarNode) else None
        if value not in self.words:
            raise place.wrong(node, f"{said(node)} cannot be{hint(str(value), self.words)}")
        return str(value)

    def schema(self) -> Json:
        return {"anyOf": [{"enum": list(self.words)}, _VARIABLE]}


@dataclass(frozen=True)
class Number:
    """A whole number."""

    low: int
    high: int

    def read(self, node: Node, place: Place) -> int:
        value = scalar(node)
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise place.wrong(
                node, f"a number from {self.low} to {self.high} is wanted here, not {said(node)}"
            )
        return value

    def schema(self) -> Json:
        return {"anyOf": [{"type": "integer", "minimum": self.low, "maximum": self.high}, _VARIABLE]}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, node: Node, place: Place) -> bool:
        value = scalar(node)
        if not isinstance(value, bool):
            raise place.wrong(node, f"true or false is wanted here, not {said(node)}")
        return value

    def schema(self) -> Json:
        return {"anyOf": [{"type": "boolean"}, _VARIABLE]}


@dataclass(frozen=True)
class Scalar:
    """Text or a number, as text."""

    def read(self, node: Node, place: Place) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise place.wrong(node, f"one value is wanted here, not {said(node)}")
        return str(node.value)

    def schema(self) -> Json:
        return {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True)
class ListOf:
    """A list; with ``single`` one value stands for a list of it alone."""

    item: Kind
    single: bool = False
    least: int = 1

    def read(self, node: Node, place: Place) -> tuple[Any, ...]:
        if self.single and not isinstance(node, yaml.SequenceNode):
            return (self.item.read(node, place),)
        if not isinstance(node, yaml.SequenceNode):
            raise place.wrong(node, f"a list is wanted here, not {said(node)}")
        if len(node.value) < self.least:
            raise place.wrong(node, "the list is empty")
        return tuple(self.item.read(each, place) for each in node.value)

    def schema(self) -> Json:
        inner = self.item.schema()
        whole: Json = {"type": "array", "items": inner, "minItems": self.least}
        return {"anyOf": [inner, whole]} if self.single else whole


@dataclass(frozen=True)
class MapOf:
    """A mapping whose keys are the author's own."""

    item: Kind
    keys: Kind = field(default_factory=Scalar)

    def read(self, node: Node, place: Place) -> dict[str, Any]:
        found = {}
        for name, key, value in pairs(node, place):
            self.keys.read(key, place)
            found[name] = self.item.read(value, place)
        return found

    def schema(self) -> Json:
        return {"type": "object", "additionalProperties": self.item.schema()}


@dataclass(frozen=True)
class Key:
    """A key of a section: what its value may be, and what it means."""

    kind: Kind
    text: str
    required: bool = False


@dataclass(frozen=True)
class Section:
    """A mapping with known keys. The value is a dict of those that are there."""

    keys: Mapping[str, Key]
    what: str = "here"

    def read(self, node: Node, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, key, value in pairs(node, place):
            if name not in self.keys:
                raise place.wrong(key, f"there is no key {name!r} {self.what}{hint(name, list(self.keys))}")
            found[name] = self.keys[name].kind.read(value, place)
        for name, one in self.keys.items():
            if one.required and name not in found:
                raise place.wrong(node, f"the key {name!r} is missing {self.what}: {one.text}")
        return found

    def schema(self) -> Json:
        properties = {name: described(one.kind.schema(), one.text) for name, one in self.keys.items()}
        required = [name for name, one in self.keys.items() if one.required]
        whole: Json = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**whole, "required": required} if required else whole


@dataclass(frozen=True)
class Either:
    """A value of one of several kinds; told apart by the sort of node."""

    kinds: Sequence[Kind]
    like: str

    def read(self, node: Node, place: Place) -> Any:
        fitting = [kind for kind in self.kinds if _may(kind, node)]
        if not fitting:
            raise place.wrong(node, f"{self.like} is wanted here, not {said(node)}")
        return fitting[0].read(node, place)

    def schema(self) -> Json:
        return {"anyOf": [kind.schema() for kind in self.kinds]}


def _may(kind: Kind, node: Node) -> bool:
    """Whether a node is of the sort that a kind reads at all."""
    if isinstance(kind, Section | MapOf):
        return isinstance(node, yaml.MappingNode)
    if isinstance(kind, ListOf):
        return isinstance(node, yaml.SequenceNode)
    if isinstance(kind, Number):
        return isinstance(scalar(node), int) and not isinstance(scalar(node), bool)
    if isinstance(kind, Flag):
        return isinstance(scalar(node), bool)
    return isinstance(node, yaml.ScalarNode)


def described(schema: Json, text: str) -> Json:
    """The same with what it means."""
    return {"description": text, **schema}
