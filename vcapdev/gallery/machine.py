# SPDX-License-Identifier: GPL-2.0-or-later
"""Play mutants that a machine made: what catches each one, and which ones nothing catches.

A mutant is played in a few *acts*, short captures that use its file, until something notices it: a rule of
the checker, the guest's kernel, or the program that compares frames. A mutant whose module is byte for byte
the unaltered one is equivalent; of one in a function that no act ever runs nothing can be said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vcapdev.gallery.acts import Act, acts_for
from vcapdev.gallery.mutate import Mutation
from vcapdev.gallery.scene import Outcome
from vcapdev.gallery.stage import Stage
from vcapdev.image.drivertree import Change
from vcapdev.image.kbuild import Built

_AHEAD = 4  # modules that are built while the guest plays another


class Caught(StrEnum):
    """What noticed a mutant."""

    RULE = "rule"
    GUEST = "guest"
    FRAMES = "frames"
    EQUIVALENT = "equivalent"
    UNREACHED = "not run"
    ESCAPED = "escaped"
    BROKEN = "does not compile"

    @property
    def counts(self) -> bool:
        """Whether the mutant is one of those that could have been caught."""
        return self not in (Caught.EQUIVALENT, Caught.UNREACHED, Caught.BROKEN)


@dataclass(frozen=True)
class Fate:
    """What became of one mutant. ``by`` are the rules, the kernel's complaint, or the reason."""

    kernel: str
    mutation: Mutation
    caught: Caught
    by: str = ""
    act: str = ""
    pages: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Equivalence:
    """A mutant that a person has found to do the same as the original, and why."""

    file: str
    function: str
    title: str
    reason: str

    def covers(self, mutation: Mutation) -> bool:
        """Whether it is about this mutant."""
        same = mutation.function == self.function and mutation.title == self.title
        return same and mutation.file.endswith(self.file)


@dataclass
class Machine:
    """Plays mutants on one stage.

    :param build: builds a file with another content. Called from another thread, one call at a time.
    :param texts: the files as they are.
    :param known: what people have found out about equivalent ones.
    :param unreached: functions that no act runs.
    :ivar modules: of the mutant that is being played, for the stage's ``variants``.
    """

    stage: Stage
    build: Callable[[Change], Built]
    texts: Mapping[str, str]
    known: Sequence[Equivalence] = ()
    unreached: Collection[str] = ()
    modules: dict[str, Mapping[str, Path]] = field(default_factory=dict)
    _originals: dict[str, bytes] = field(default_factory=dict)

    def play(self, mutants: Sequence[Mutation]) -> Iterator[Fate]:
        """The fate of each, in order, as soon as it is known.

        :raise VcapdevError: the machine is at fault, not a mutant.
        """
        with _ahead() as builder:
            waiting: list[Future[Built]] = []
            for number, mutant in enumerate(mutants):
                for later in mutants[number + len(waiting) : number + _AHEAD]:
                    changed = later.apply(self.texts[later.file])
                    waiting.append(builder.submit(self.build, change(later.name, later.file, changed)))
                yield self._fate(mutant, waiting.pop(0).result())

    def _fate(self, mutant: Mutation, built: Built) -> Fate:
        kernel = self.stage.kernel
        if built.error:
            return Fate(kernel, mutant, Caught.BROKEN, built.error)
        if _content(built) == self._original(mutant.file):
            return Fate(kernel, mutant, Caught.EQUIVALENT, "the compiler makes the same code of it")
        reason = next((one.reason for one in self.known if one.covers(mutant)), "")
        if mutant.function in self.unreached:
            return Fate(kernel, mutant, Caught.UNREACHED, f"no act runs {mutant.function}")
        fate = self._acts(mutant, built.modules)
        if fate.caught is Caught.ESCAPED and reason:
            return Fate(kernel, mutant, Caught.EQUIVALENT, reason, fate.act, fate.pages, fate.seconds)
        return fate

    def _original(self, file: str) -> bytes:
        """The module of a file as it is, built the same way."""
        if file not in self._originals:
            self._originals[file] = _content(self.build(change(f"unaltered {file}", file, self.texts[file])))
        return self._originals[file]

    def _acts(self, mutant: Mutation, modules: Mapping[str, Path]) -> Fate:
        """Play until something notices."""
        self.modules[mutant.name] = modules
        pages, seconds, last = 0, 0.0, ""
        try:
            for act in acts_for(mutant.file):
                outcome, caught, by = self._act(act, mutant.name)
                pages, seconds, last = pages + outcome.pages_checked, seconds + outcome.seconds, act.name
                if caught is not Caught.ESCAPED:
                    break
        finally:
            del self.modules[mutant.name]
        return Fate(self.stage.kernel, mutant, caught, by, last, pages, round(seconds, 1))

    def _act(self, act: Act, variant: str) -> tuple[Outcome, Caught, str]:
        """One act; a frame that is lost may be the fault of a slow host, so it has to be lost twice."""
        for _ in range(2):
            outcome = self.stage.run_scene(act.with_driver(variant))
            caught, by = verdict_on(outcome, act, self.stage)
            if caught is not Caught.FRAMES:
                break
        return outcome, caught, by


def verdict_on(outcome: Outcome, act: Act, stage: Stage) -> tuple[Caught, str]:
    """What noticed that something is wrong, the checker first."""
    if outcome.rules:
        return Caught.RULE, ", ".join(sorted(outcome.rules))
    if outcome.failures:
        return Caught.GUEST, outcome.failures[0].title
    if outcome.trouble:
        return Caught.FRAMES, outcome.trouble
    missed = act.missed(outcome, stage)
    return (Caught.FRAMES, missed) if missed else (Caught.ESCAPED, "")


def change(name: str, file: str, text: str) -> Change:
    """A file with other content, to be built."""
    return Change(name, texts={file: text.encode("utf-8", "surrogateescape")})


def _content(built: Built) -> bytes:
    return b"".join(path.read_bytes() for _, path in sorted(built.modules.items()))


@contextmanager
def _ahead() -> Iterator[ThreadPoolExecutor]:
    """One thread that builds; what has not begun when it is left is not built."""
    builder = ThreadPoolExecutor(1, "build")
    try:
        yield builder
    finally:
        builder.shutdown(wait=True, cancel_futures=True)
