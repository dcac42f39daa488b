# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers that are found once: a queue of buffers goes round, and the same pages come again and again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar
from weakref import ReferenceType, ref

T = TypeVar("T")
_KEPT = 256


class Recall(Generic[T]):
    """What was found out about some objects together, as long as these very objects are there.

    They must be such as are never changed, and can be referred to weakly, as arrays. What is found depends on
    nothing else.

    :param most: answers that are remembered.
    """

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._found: dict[tuple[int, ...], tuple[tuple[ReferenceType[Any], ...], T]] = {}

    def __call__(self, find: Callable[[], T], *objects: object) -> T:
        """What ``find`` says about the objects."""
        key = tuple(map(id, objects))
        known = self._found.get(key)
        if known is not None and all(there() is each for there, each in zip(known[0], objects, strict=True)):
            return known[1]
        found = find()
        keep(self._found, key, (tuple(map(ref, objects)), found), self._most)
        return found


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def keep(memory: dict[K, V], key: K, value: V, most: int) -> None:
    """Remember a value, and forget the oldest where there are ``most``."""
    memory.pop(key, None)
    if len(memory) >= most:
        memory.pop(next(iter(memory)))
    memory[key] = value
