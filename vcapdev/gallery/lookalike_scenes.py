# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the table of look-alikes, lookalikes.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import UsageError
from vcapdev.gallery.lookalike import NOT_OFFERED, Lookalike
from vcapdev.gallery.proof import parse
from vcapdev.gallery.scene import Expectation, Machine, Scene
from vcapdev.run.capture import EXPECT

_TABLE = Path(__file__).with_name("lookalikes.yaml")
_KEYS = frozenset(
    [
        *(
            "makes",
            "states",
            "run",
            "frames",
            "proof",
            "proof-on",
            "why-not",
            "refusal",
            "own-fault",
            "status",
        ),
        *("needs", "setup", "teardown", "modules", "machine", "beside"),
    ]
)
_FRAMES = 30
_TIMEOUT = 180.0  # seconds for the program

Json = dict[str, Any]


@cache
def all_lookalikes() -> tuple[Lookalike, ...]:
    """Every look-alike that comes with vcapdev."""
    return load(_TABLE)


def shared_blocks() -> Mapping[str, Json]:
    """The blocks of setup and teardown, by name.

    :raise UsageError: the table cannot be read.
    """
    try:
        blocks: Mapping[str, Json] = next(iter(yaml.safe_load_all(_TABLE.read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError, StopIteration) as error:
        raise UsageError(f"{_TABLE.name}: {error}") from error
    return blocks


def load(path: Path) -> tuple[Lookalike, ...]:
    """Read a table.

    :raise UsageError: what is wrong with it, and in which scene.
    """
    try:
        blocks, scenes = yaml.safe_load_all(path.read_text())
        return tuple(_lookalike(name, entry, blocks) for name, entry in scenes.items())
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path.name}: {error}") from error


def _lookalike(name: str, entry: Json, blocks: Mapping[str, Json]) -> Lookalike:
    unknown = set(entry) - _KEYS
    if unknown:
        raise ValueError(f"{name}: unknown {', '.join(sorted(unknown))}")
    proof_on = {glob: tuple(claims) for glob, claims in entry.get("proof-on", {}).items()}
    proof = tuple(entry.get("proof", ()))
    for claims in (proof, *proof_on.values()):
        for claim in claims:
            parse(claim)
    return Lookalike(
        _scene(name, entry, blocks),
        states=tuple(entry["states"].split()),
        proof=proof,
        proof_on=proof_on,
        refusal=entry.get("refusal", {}),
        own_fault=entry.get("own-fault", False),
        modules=tuple(entry.get("modules", ())),
    )


def _scene(name: str, entry: Json, blocks: Mapping[str, Json]) -> Scene:
    needed = [blocks[need] for need in entry.get("needs", ())]
    words = ["vcap-scene", "--expect", EXPECT, "--frames", str(entry.get("frames", _FRAMES))]
    beside = entry.get("beside")
    return Scene(
        name,
        entry["makes"],
        program=(*words, *entry.get("run", "").split()),
        setup=_lines(needed, entry, "setup"),
        teardown=_lines(reversed(needed), entry, "teardown"),
        beside=(tuple(beside.split()),) if beside else (),
        expect=_expectation(entry),
        why_not=entry.get("why-not", {}),
        machine=Machine(**entry.get("machine", {})),
        clock="paced",  # so that a program can act between a frame's first line and its last
        timeout=_TIMEOUT,
    )


def _lines(blocks: Any, entry: Json, key: str) -> tuple[str, ...]:
    """A scene's own setup comes after that of its blocks, its own teardown before."""
    own, shared = entry.get(key, []), [line for block in blocks for line in block.get(key, ())]
    return tuple([*shared, *own] if key == "setup" else [*own, *shared])


def _expectation(entry: Json) -> Expectation:
    status = entry.get("status", 0)
    statuses = set(status) if isinstance(status, list) else {int(status)}
    if entry.get("own-fault"):
        statuses.add(1)  # what the program reads is not what was sent
    if entry.get("refusal"):
        statuses.add(NOT_OFFERED)
    return Expectation(silent=not entry.get("own-fault"), statuses=frozenset(statuses))
