# SPDX-License-Identifier: GPL-2.0-or-later
"""Proof that a scene reached the state that it is for: what guest and checker counted, and claims about it.

A claim is ``NAME OP NAME`` or ``NAME OP NUMBER`` with ``>``, ``<``, ``>=``, ``==`` or ``<=``. Names are those
of :func:`evidence`: ``queued.thp`` (pages with that flag when their buffer was queued, all frames together),
``acts.munmap`` (how often it was done), ``vmstat.pswpout`` (growth), ``oddities.orphan`` (the checker's),
``hazards.stable-page`` (pages of a hazard that it tells of), and so on; ``told.munmap`` counts events of an
act, which come even where the program does not live to sum up; ``states.unmapped`` and ``states.ownerless``
are the distinct states of pages under DMA that no program maps, and that are of no mapping at all. What
nobody counted is 0.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vcapdev.gallery.scene import Outcome

Json = dict[str, Any]

_VIEWS = ("before", "queued", "acted", "done", "device")  # guest/src/scene/scene.h, struct buffer
_TOTALS = ("frames", "errors", "missed", "write_protected", "shared_pages")
_OPERATORS: Mapping[str, Callable[[int, int], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "==": operator.eq,
    "<=": operator.le,
}


def evidence(outcome: Outcome) -> Counter[str]:
    """Everything that was counted in a scene, by name. What the guest says wrongly is let pass."""
    counts: Counter[str] = Counter()
    for event in outcome.program.events if outcome.program is not None else ():
        if event.get("event") == "frame":
            _frame(counts, event)
        elif event.get("event") == "summary":
            _summary(counts, event)
        elif event.get("event") == "act" and event.get("errno") == 0:
            counts[f"told.{event.get('act')}"] += 1
    ends = {state.rpartition(" > ")[2] for state in outcome.states}  # of a transition, what it led to
    counts["states.unmapped"] = sum("unmapped" in state.split(", ") for state in ends)
    counts["states.ownerless"] = sum("no mapping" in state.split(", ") for state in ends)
    for report in outcome.reports:
        counts[f"kernel_log.{report.kind}"] += 1
    for hazard in outcome.status.get("hazards") or ():
        if isinstance(hazard, dict):
            counts[f"hazards.{hazard.get('rule')}"] += _number(hazard.get("pages"))
    _numbers(counts, "oddities", outcome.status.get("oddities"))
    _numbers(counts, "pins", outcome.status.get("pins"))
    _numbers(counts, "card", outcome.stats)
    return counts


def parse(claim: str) -> tuple[str, str, str]:
    """The parts of a claim. :raise ValueError: it is none."""
    words = claim.split()
    if len(words) != 3 or words[1] not in _OPERATORS:
        raise ValueError(f"{claim!r} is not NAME OP NAME or NAME OP NUMBER")
    return words[0], words[1], words[2]


def holds(claim: str, counts: Counter[str]) -> bool:
    """Whether a claim is true."""
    left, sign, right = parse(claim)
    return _OPERATORS[sign](_value(left, counts), _value(right, counts))


def told(claims: Iterable[str], counts: Counter[str]) -> str:
    """The claims with the numbers behind them, for people."""
    return ", ".join(f"{claim} ({_value(parse(claim)[0], counts)})" for claim in claims)


def _value(name: str, counts: Counter[str]) -> int:
    return int(name) if name.lstrip("-").isdigit() else counts[name]


def _number(value: Any) -> int:
    return value if type(value) is int else 0


def _numbers(counts: Counter[str], prefix: str, values: Any) -> None:
    if isinstance(values, dict):
        for name, value in values.items():
            counts[f"{prefix}.{name}"] += _number(value)


def _frame(counts: Counter[str], event: Json) -> None:
    counts["caught"] += _number(event.get("caught"))
    counts["during"] += _number(event.get("during"))
    for view in _VIEWS:
        _numbers(counts, view, event.get(view))


def _summary(counts: Counter[str], event: Json) -> None:
    for name in _TOTALS:
        counts[name] += _number(event.get(name))
    for name in ("read_back", "after_close", "vmstat"):
        _numbers(counts, name, event.get(name))
    acts = event.get("acts")
    for act in acts if isinstance(acts, list) else ():
        if isinstance(act, dict):
            counts[f"acts.{act.get('act')}"] += _number(act.get("done"))
            counts[f"refused.{act.get('act')}"] += _number(act.get("refused"))
    watched = event.get("watched")
    for path, pair in watched.items() if isinstance(watched, dict) else ():
        if isinstance(pair, list) and len(pair) == 2:
            name = str(path).rsplit("/", 1)[-1]
            counts[f"watched.{name}"] += _number(pair[1])
            counts[f"grown.{name}"] += _number(pair[1]) - _number(pair[0])
