# SPDX-License-Identifier: GPL-2.0-or-later
"""Play mutants that a machine made: what catches each one, and which ones nothing catches.

A mutant is played in the *acts*, short captures, that run the changed statement, until something notices it:
a rule of the checker, the guest's kernel, or the program, which compares frames, answers, memory and the
card's settings. A mutant whose module is byte for byte the unaltered one is equivalent, and so is one that a
person has shown to be, as long as nothing notices it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from vcapdev.gallery import scene
from vcapdev.gallery.acts import Act
from vcapdev.gallery.mutate import Mutation
from vcapdev.gallery.scene import Outcome
from vcapdev.gallery.stage import Stage
from vcapdev.image.drivertree import Change
from vcapdev.image.kbuild import Built

NO_ACT = "no act runs this statement"
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
    """A mutant that nothing notices, and that a person has looked at, and why that is so.

    It is known by what it does and to which line, so that a line above it may change.

    :ivar same: whether it does the same as the original. If not, it escapes.
    """

    file: str  # without its directory
    function: str
    line: str  # the source line, without its indentation
    kind: str
    title: str
    reason: str
    same: bool = True
    below: str = ""  # the next line, where a function has the line more than once
    changes: int = 1  # it is about, where the same can be done in several places of the line

    def covers(self, mutation: Mutation) -> bool:
        """Whether it is about this mutant."""
        same = (mutation.function, mutation.text, mutation.kind) == (self.function, self.line, self.kind)
        same = same and self.below in ("", mutation.below)
        return same and mutation.title == self.title and mutation.file.endswith(f"/{self.file}")


@dataclass
class Machine:
    """Plays mutants on one stage.

    :param build: builds a file with another content. Called from another thread, one call at a time.
    :param texts: the files as they are.
    :param acts: for a mutant, those that run the changed statement.
    :param settings: by act, the card's settings at its end with the driver as it is.
    :param known: what people have found out about equivalent ones.
    :param others: stages of acts that want another machine.
    :ivar modules: of the mutant that is being played, for the stages' ``variants``.
    """

    stage: Stage
    build: Callable[[Change], Built]
    texts: Mapping[str, str]
    acts: Callable[[Mutation], Sequence[Act]]
    settings: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    known: Sequence[Equivalence] = ()
    modules: dict[str, Mapping[str, Path]] = field(default_factory=dict)
    others: Mapping[scene.Machine, Stage] = field(default_factory=dict)
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

    @property
    def boots(self) -> int:
        """Of all guests."""
        return sum(stage.boots for stage in (self.stage, *self.others.values()))

    def _fate(self, mutant: Mutation, built: Built) -> Fate:
        kernel = self.stage.kernel
        if built.error:
            return Fate(kernel, mutant, Caught.BROKEN, built.error)
        if _content(built) == self._original(mutant.file):
            return Fate(kernel, mutant, Caught.EQUIVALENT, "the compiler makes the same code of it")
        acts = self.acts(mutant)
        if not acts:
            return Fate(kernel, mutant, Caught.UNREACHED, NO_ACT)
        fate = self._play(mutant, acts, built.modules)
        return explained(fate, self.known)

    def _original(self, file: str) -> bytes:
        """The module of a file as it is, built the same way."""
        if file not in self._originals:
            self._originals[file] = _content(self.build(change(f"unaltered {file}", file, self.texts[file])))
        return self._originals[file]

    def _play(self, mutant: Mutation, acts: Sequence[Act], modules: Mapping[str, Path]) -> Fate:
        """Play until something notices."""
        self.modules[mutant.name] = modules
        pages, seconds = 0, 0.0
        try:
            for act in acts:
                outcome, caught, by = self._act(act, mutant.name)
                pages, seconds = pages + outcome.pages_checked, seconds + outcome.seconds
                if caught is not Caught.ESCAPED:
                    break
        finally:
            del self.modules[mutant.name]
        played = act.name if caught is not Caught.ESCAPED else ", ".join(each.name for each in acts)
        return Fate(self.stage.kernel, mutant, caught, by, played, pages, round(seconds, 1))

    def _act(self, act: Act, variant: str) -> tuple[Outcome, Caught, str]:
        """One act; a frame that is lost may be the fault of a slow host, so it has to be lost twice."""
        stage = self.others.get(act.scene.machine, self.stage)
        for _ in range(2):
            outcome = stage.run_scene(act.with_driver(variant))
            caught, by = verdict_on(outcome, act, stage, self.settings.get(act.name, {}))
            if caught is not Caught.FRAMES:
                break
        return outcome, caught, by


def verdict_on(
    outcome: Outcome, act: Act, stage: Stage, settings: Mapping[str, int] | None = None
) -> tuple[Caught, str]:
    """What noticed that something is wrong, the checker first."""
    if outcome.rules:
        return Caught.RULE, ", ".join(sorted(outcome.rules))
    if outcome.failures:
        return Caught.GUEST, outcome.failures[0].title
    if outcome.trouble:
        loading = outcome.trouble.startswith(("insmod", "rmmod"))
        return Caught.GUEST if loading else Caught.FRAMES, outcome.trouble
    missed = act.missed(outcome, stage, settings)
    return (Caught.FRAMES, missed) if missed else (Caught.ESCAPED, "")


def explained(fate: Fate, known: Sequence[Equivalence]) -> Fate:
    """The same with what is known of a mutant that nothing has noticed."""
    found = next((one for one in known if one.covers(fate.mutation)), None)
    if fate.caught is not Caught.ESCAPED or found is None:
        return fate
    return replace(fate, caught=Caught.EQUIVALENT if found.same else Caught.ESCAPED, by=found.reason)


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
