# SPDX-License-Identifier: GPL-2.0-or-later
"""A scene: one short act in a guest that is up already, and what has to come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from vcapdev.dmacheck.rules import UNLISTED
from vcapdev.report.model import Frames

Json = dict[str, Any]

ALL = ("*",)


@dataclass(frozen=True)
class Picture:
    """What is captured; it decides the content of the file that the program compares frames with."""

    norm: str = "PAL"
    format: str = "YUYV"
    width: int = 768
    height: int = 576
    field: str = "interlaced"


@dataclass(frozen=True)
class Machine:
    """What a scene needs of its guest. Scenes with equal needs share a boot."""

    memory: int = 256  # MiB
    swap: str = "disk"  # "disk", "zram" or "none"
    append: str = ""  # more kernel parameters
    cpus: int = 1
    iommu: bool = False  # whether a vIOMMU stands between card and RAM
    qemu_opts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expectation:
    """What must come of a scene.

    ``rules`` must all fire, ``also`` may, no other may; ``silent`` says that none may and every frame must be
    intact. ``statuses`` are the exit statuses that the program may have (minus the signal's number when it is
    killed).
    """

    rules: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()
    silent: bool = False
    statuses: frozenset[int] = frozenset({0})


_DAMAGE = frozenset(("free-page", "kernel-page", "recycled", "bad-count"))  # rules


@dataclass(frozen=True)
class Scene:
    """One act.

    :ivar kernels: globs of recipe names that have the state at all; ``why_not`` says why others do not
        (glob of names: reason).
    :ivar setup: lines for the guest's shell before the program, ``teardown`` after it (run in any case).
    :ivar modules: name of the driver variant that must be loaded, None for the kernel's own.
    :ivar program: words of the program whose frames count; ``beside`` are others that run meanwhile, and are
        ended after it.
    :ivar files: path in the guest: content, written before the setup.
    :ivar unload: whether loading and unloading the driver belong to the scene: it gets a freshly loaded one,
        which is unloaded while the checker still looks.
    :ivar ruins: whether the guest cannot be trusted afterwards, so that the next scene needs a fresh one.
    """

    name: str
    title: str
    program: tuple[str, ...]
    kernels: tuple[str, ...] = ALL
    setup: tuple[str, ...] = ()
    teardown: tuple[str, ...] = ()
    modules: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)  # module: its parameters
    beside: tuple[tuple[str, ...], ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    expect: Expectation = field(default_factory=Expectation)
    why_not: Mapping[str, str] = field(default_factory=dict)
    picture: Picture = field(default_factory=Picture)
    machine: Machine = field(default_factory=Machine)
    clock: str = "fast"
    timeout: float = 60.0  # seconds for the program
    unload: bool = False
    ruins: bool = False

    def reason_against(self, kernel: str) -> str | None:
        """Why the scene cannot be played on a kernel (name of a recipe), None when it can."""
        for glob, reason in self.why_not.items():
            if fnmatchcase(kernel, glob):
                return reason
        if any(fnmatchcase(kernel, glob) for glob in self.kernels):
            return None
        return f"this is for {', '.join(self.kernels)} only"


@dataclass(frozen=True)
class GuestReport:
    """Something that the guest's kernel complained about itself. ``failure``: no slow host causes it."""

    kind: str
    title: str
    failure: bool
    text: str = ""


@dataclass
class ProgramResult:
    """How the program ended: its status as in ``vcapdev.vm.agent.Result``, and its events (JSON lines)."""

    status: int | None  # None: it did not end by itself
    events: list[Json]
    stderr: str
    pid: int | None = None


@dataclass
class Outcome:
    """What came of a scene.

    :ivar trouble: why it could not be played to its end ("" when it was): guest crash, time-out, ....
    :ivar status: the checker's figures at the end, see ``docs/control.md``.
    :ivar stats: what the card counted during the scene.
    """

    scene: Scene
    kernel: str
    verdicts: list[Json] = field(default_factory=list)
    reports: list[GuestReport] = field(default_factory=list)
    program: ProgramResult | None = None
    frames: Frames = field(default_factory=Frames)
    status: Json = field(default_factory=dict)
    stats: Json = field(default_factory=dict)
    pins_left: int = 0
    trouble: str = ""
    seconds: float = 0.0

    @property
    def rules(self) -> frozenset[str]:
        """Names of the rules that fired."""
        return frozenset(str(verdict.get("rule")) for verdict in self.verdicts)

    @property
    def damaged(self) -> bool:
        """Whether the card has written to memory that was not given to it: the guest may fail of it later."""
        return not self.rules.isdisjoint(_DAMAGE)

    @property
    def failures(self) -> list[GuestReport]:
        """Complaints of the guest's kernel that no slow host causes."""
        return [report for report in self.reports if report.failure]

    @property
    def bad_frames(self) -> int:
        """How often a frame was found torn or damaged; vcap-scene looks at some of them twice."""
        return self.frames.torn + self.frames.damaged

    @property
    def pages_checked(self) -> int:
        """Pages that were judged, each as often as it was."""
        return int(self.status.get("pages_checked", 0))

    @property
    def states(self) -> frozenset[str]:
        """Distinct page states, and transitions between two of them, that were judged."""
        return frozenset(map(str, self.status.get("states", ())))

    def shortfalls(self) -> list[str]:
        """In what the scene differs from its expectation; empty when it went as it must."""
        found = [self.trouble] if self.trouble else []
        found += self._of_rules()
        found += self._of_program()
        if self.status.get("defects"):
            found.append(f"a defect of the checker: {self.status['defects'][0]}")
        if not self.status.get("attached"):
            found.append(f"the checker was not attached: {self.status.get('why_not') or 'no reason given'}")
        elif not self.pages_checked:
            found.append("no page was judged")
        return found

    def _of_rules(self) -> list[str]:
        expect = self.scene.expect
        missing = sorted(expect.rules - self.rules)
        strange = sorted(self.rules - expect.rules - expect.also)
        found = [f"{rule} did not fire" for rule in missing]
        return found + [f"{rule} fired" for rule in strange]

    def _of_program(self) -> list[str]:
        expect, found = self.scene.expect, []
        if self.program is not None and self.program.status not in expect.statuses:
            last = (self.program.stderr.strip().splitlines() or ["it said nothing"])[-1]
            found.append(f"the program ended with status {self.program.status}: {last}")
        if expect.silent:
            found += [f"the guest's kernel: {report.title}" for report in self.failures]
            if self.bad_frames:
                found.append(f"{self.bad_frames} of {self.frames.captured} frames arrived damaged")
            if self.status.get("unchecked_writes"):
                found.append(f"{self.status['unchecked_writes']} writes could not be checked")
            found += self._of_buffers()
        return found

    def _of_buffers(self) -> list[str]:
        """The kernel's own drivers write to nothing but buffers that can be found."""
        lost = int((self.status.get("contract") or {}).get("not_found", 0))
        stray = [one for one in self.status.get("hazards") or () if one.get("rule") == UNLISTED.name]
        found = [f"no buffer was found behind {lost} programs"] if lost else []
        return found + [f"{one['pages']} pages were in no queue's list" for one in stray]
