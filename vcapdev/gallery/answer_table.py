# SPDX-License-Identifier: GPL-2.0-or-later
"""The table behind ``make answer``, answer.yaml: its cells, what was expected of them, and the sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import UsageError
from vcapdev.gallery.lookalike_scenes import shared_blocks
from vcapdev.gallery.proof import parse
from vcapdev.gallery.scene import Scene
from vcapdev.run.capture import EXPECT

_TABLE = Path(__file__).with_name("answer.yaml")
_FRAMES = 8
_TIMEOUT = 180.0  # seconds for a cell's program
_AXES = ("kernel", "driver", "memory", "event")

Json = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One driver, one kind of memory, one event, on one kernel."""

    kernel: str
    driver: str
    memory: str
    event: str

    @property
    def name(self) -> str:
        """For people and file names."""
        return f"{self.driver}/{self.memory}/{self.event}"

    def fits(self, selector: Mapping[str, Any]) -> bool:
        """Whether a selector means this cell: globs by axis, several as ``a|b``; what is not named fits."""
        return all(_any(str(selector[axis]), getattr(self, axis)) for axis in _AXES if axis in selector)


@dataclass(frozen=True)
class Expected:
    """What was written down before the run. ``data`` may name several as ``a|b``."""

    wrong: str = "no"
    data: str = "kept"
    refused: bool = False


@dataclass(frozen=True)
class Shown:
    """What has to be true of each of the cells that ``cells`` selects."""

    cells: Mapping[str, str]
    claim: Mapping[str, Any]


@dataclass(frozen=True)
class Sentence:
    """One sentence of the answer, and what shows it."""

    says: str
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Table:
    """All of answer.yaml."""

    drivers: Mapping[str, Json]
    memories: Mapping[str, Json]
    events: Mapping[str, Json]
    expectations: list[Json]
    explanations: list[Json]
    sentences: list[Sentence]
    blocks: Mapping[str, Json] = field(default_factory=dict)
    cannot: list[Json] = field(default_factory=list)
    proofs: list[Json] = field(default_factory=list)
    escapes: list[Json] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    verdict: Sentence | None = None

    def cells(self, kernel: str) -> Iterator[Cell]:
        """Every cell, those of one driver together."""
        for driver in self.drivers:
            for memory in self.memories:
                for event in self.events:
                    yield Cell(kernel, driver, memory, event)

    def senseless(self, cell: Cell) -> str | None:
        """Why a cell cannot be: on any kernel, or on its own."""
        reason = self.events[cell.event].get("sense", {}).get(cell.memory)
        if reason is None:
            reason = next((line["why"] for line in self.cannot if cell.fits(line)), None)
        return None if reason is None else " ".join(str(reason).split())

    def claims(self, cell: Cell) -> tuple[str, ...]:
        """What must have been seen for the cell to be an answer."""
        return tuple(str(claim) for line in self.proofs if cell.fits(line) for claim in line["claims"])

    def gives_away(self, cell: Cell) -> bool:
        """Whether the program itself parts with the buffer's pages, or with its life."""
        return bool(self.events[cell.event].get("gives-away", False))

    def expected(self, cell: Cell) -> Expected:
        """What was expected of it."""
        for line in self.expectations:
            if cell.fits(line):
                return Expected(**{name: line[name] for name in ("wrong", "data", "refused") if name in line})
        return Expected()

    def explanation(self, cell: Cell, differs: Mapping[str, Any]) -> str:
        """Why it came otherwise, "" where nobody has found out.

        An explanation is for what it names only (``wrong``, ``data``, ``refused``): it must name all that
        differs, as it was seen.
        """
        for line in self.explanations if differs else ():
            if cell.fits(line) and all(_means(line.get(name), seen) for name, seen in differs.items()):
                return " ".join(line["why"].split())
        return ""

    def escape(self, cell: Cell) -> str:
        """Why no rule tells of the loss, "" where nobody has found out."""
        return next((" ".join(line["why"].split()) for line in self.escapes if cell.fits(line)), "")

    def scene(self, cell: Cell, variant: str | None) -> Scene:
        """What is played for it, with an altered driver's modules under the name ``variant``."""
        memory, event = self.memories[cell.memory], self.events[cell.event]
        blocks = [self.blocks[name] for name in (*memory.get("needs", ()), *event.get("needs", ()))]
        act = event.get("run-on", {}).get(cell.memory, event["run"])
        words = ["vcap-scene", "--expect", EXPECT, "--frames", str(event.get("frames", _FRAMES))]
        return Scene(
            cell.name,
            str(event["says"]),
            program=(*words, *memory["run"].split(), *act.split()),
            setup=tuple(line for block in blocks for line in block.get("setup", ())),
            teardown=tuple(line for block in reversed(blocks) for line in block.get("teardown", ())),
            modules=variant,
            clock="paced",  # so that a program can act between a frame's first line and its last
            timeout=_TIMEOUT,
        )

    def modules(self, cell: Cell) -> tuple[str, ...]:
        """Kernel modules that its memory takes."""
        return tuple(self.memories[cell.memory].get("modules", ()))


def load_table(path: Path = _TABLE) -> Table:
    """Read it.

    :raise UsageError: what is wrong with it.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        sentences = [_sentence(one) for one in data["sentences"]]
        for line in data["proof"]:
            for claim in line["claims"]:
                for one in str(claim).split("|"):
                    parse(one)
        return Table(
            data["drivers"], data["memories"], data["events"], data["expected"], data["explained"] or [],
            sentences, {**shared_blocks(), **data["blocks"]}, data["cannot"], data["proof"],
            data["escapes"] or [], [" ".join(text.split()) for text in data["limits"]],
            _sentence(data["verdict"]),
        )  # fmt: skip
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path.name}: {error}") from error


def _sentence(one: Json) -> Sentence:
    return Sentence(" ".join(one["says"].split()), tuple(Shown(**shown) for shown in one["shown"]))


def _means(words: Any, seen: object) -> bool:
    """Whether an explanation's word for a difference, or one of several, is what was seen."""
    return words == seen or (isinstance(words, str) and seen in words.split("|"))


def _any(globs: str, value: str) -> bool:
    return any(fnmatchcase(value, glob) for glob in globs.split("|"))
