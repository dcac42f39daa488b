# SPDX-License-Identifier: GPL-2.0-or-later
"""A look-alike: a legitimate scene that comes near a violation, and about which the checker must be silent.

Silence alone proves nothing: each look-alike carries claims (:mod:`vcapdev.gallery.proof`) that show that the
state it is for was really reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from vcapdev.gallery.proof import evidence, holds, told
from vcapdev.gallery.scene import Outcome, Scene
from vcapdev.report.model import audit_of

T = TypeVar("T")

#: What is kept of an audit: pages (clean and bad by the live look), and judgements.
AUDITED = (
    "judgements", "pages", "bad", "agreed", "turned", "mended", "disagreed", "raced_with_stop", "not_stopped"
)  # fmt: skip
NOT_OFFERED = 4  # exit status of vcap-scene: this kernel has no such memory, or refuses it


class Result(StrEnum):
    """What came of a look-alike."""

    SILENT = "silent"  # the state was reached, and nothing was reported
    FALSE = "FALSE VERDICT"
    EMPTY = "not reached"  # nothing was reported, but the state was not there either
    REFUSED = "refused"  # this kernel does not offer it, as the table says
    ABSENT = "not here"  # this kernel cannot have it: it was not played
    FAILED = "failed"

    @property
    def good(self) -> bool:
        """Whether it is as it must be."""
        return self in (Result.SILENT, Result.REFUSED, Result.ABSENT)


@dataclass(frozen=True)
class Lookalike:
    """One legitimate scene.

    :ivar states: the legitimate states that it makes, as docs/lookalikes.md numbers them.
    :ivar proof: claims that hold when the state was reached; ``proof_on`` has others for some kernels (glob).
    :ivar refusal: kernels (glob) that may refuse the memory or the way, and why.
    :ivar own_fault: whether the program throws its own data away, so that frames may be lost.
    :ivar modules: kernel modules that are loaded for it.
    """

    scene: Scene
    states: tuple[str, ...]
    proof: tuple[str, ...]
    proof_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refusal: Mapping[str, str] = field(default_factory=dict)
    own_fault: bool = False
    modules: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The scene's name."""
        return self.scene.name

    def claims(self, kernel: str) -> tuple[str, ...]:
        """What has to be proved on a kernel."""
        return _first(self.proof_on, kernel, self.proof)

    def refusal_on(self, kernel: str) -> str:
        """Why this kernel may refuse it; "" when it must not."""
        return _first(self.refusal, kernel, "")


@dataclass(frozen=True)
class Played:
    """One look-alike on one kernel."""

    lookalike: str
    title: str
    kernel: str
    result: Result
    why: str = ""  # reason, what was missed, or the rules that fired; the proof where it is silent
    pages: int = 0
    frames: int = 0
    triples: frozenset[tuple[str, str]] = frozenset()  # of (kernel, state or transition)
    seconds: float = 0.0
    audit: Mapping[str, int] = field(default_factory=dict)  # figures of docs/audit.md
    made: Mapping[str, Any] = field(default_factory=dict)  # by what run; shared by all that it played


def not_played(lookalike: Lookalike, kernel: str, why: str) -> Played:
    """A kernel that cannot have the scene."""
    return Played(lookalike.name, lookalike.scene.title, kernel, Result.ABSENT, why)


def judge(lookalike: Lookalike, outcome: Outcome) -> Played:
    """What came of it."""
    result, why = _judged(lookalike, outcome)
    return Played(
        lookalike.name, lookalike.scene.title, outcome.kernel, result, why,
        pages=outcome.pages_checked, frames=outcome.frames.captured, seconds=outcome.seconds,
        triples=frozenset((outcome.kernel, state) for state in outcome.states),
        audit=audited(outcome),
    )  # fmt: skip


def audited(outcome: Outcome) -> dict[str, int]:
    """The figures of a scene's audit; nothing where none was asked for."""
    audit = audit_of(outcome.status)
    return {} if audit is None else {name: getattr(audit, name) for name in AUDITED}


def _judged(lookalike: Lookalike, outcome: Outcome) -> tuple[Result, str]:
    if outcome.rules:
        return Result.FALSE, ", ".join(sorted(outcome.rules))
    refused = _refused(lookalike, outcome)
    if refused is not None:
        return refused
    shortfalls = outcome.shortfalls() + _of_frames(lookalike, outcome) + of_audit(outcome)
    if shortfalls:
        return Result.FAILED, "; ".join(shortfalls)
    claims, counts = lookalike.claims(outcome.kernel), evidence(outcome)
    missed = [claim for claim in claims if not holds(claim, counts)]
    if missed:
        return Result.EMPTY, told(missed, counts)
    return Result.SILENT, told(claims, counts)


def of_audit(outcome: Outcome) -> list[str]:
    """A page that was judged otherwise with the vCPUs stopped: the checker is wrong in one of both."""
    audit = audit_of(outcome.status)
    return audit.defects() if audit is not None else []


def _refused(lookalike: Lookalike, outcome: Outcome) -> tuple[Result, str] | None:
    """What the kernel does not offer is a reason only where the table says so."""
    program = outcome.program
    if program is None or program.status != NOT_OFFERED:
        return None
    event = next((e for e in program.events if e.get("event") == "not-offered"), {})
    said = f"{event.get('what', 'something')}: {event.get('text', 'no reason given')}"
    why = lookalike.refusal_on(outcome.kernel)
    return (
        (Result.REFUSED, f"{why} ({said})") if why else (Result.FAILED, f"unexpectedly not offered: {said}")
    )


def _of_frames(lookalike: Lookalike, outcome: Outcome) -> list[str]:
    """Whether the program read back what the card had sent, at once and after the close."""
    if lookalike.own_fault:
        unchecked = outcome.status.get("unchecked_writes")
        found = [f"the guest's kernel: {report.title}" for report in outcome.failures]
        return found + ([f"{unchecked} writes could not be checked"] if unchecked else [])
    counts, found = evidence(outcome), []
    for when, name in (("", "read_back"), (" after the close", "after_close")):
        bad = counts[f"{name}.partial"] + counts[f"{name}.lost"]
        if bad:
            found.append(f"{bad} frames were not what the card had sent{when}")
    return [*found, _first_bad(outcome)] if found else found


def _first_bad(outcome: Outcome) -> str:
    """Where to look: the first frame that was not what it should be."""
    for event in outcome.program.events if outcome.program is not None else ():
        if event.get("read_back") in ("partial", "lost"):
            place = f"{event.get('event')} {event.get('index')}, buffer {event.get('buffer')}"
            return f"{place} {event['read_back']}: pages {event.get('bad_pages')}"
    return "it did not say which"


def _first(table: Mapping[str, T], kernel: str, otherwise: T) -> T:
    return next((value for glob, value in table.items() if fnmatchcase(kernel, glob)), otherwise)
