# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the proof that a look-alike's state was reached: what is counted, and what a claim means."""

from __future__ import annotations

import pytest

from vcapdev.gallery.proof import evidence, holds, parse, told
from vcapdev.gallery.scene import GuestReport, Outcome, ProgramResult, Scene

EVENTS = [
    {"event": "act", "act": "munmap", "errno": 0},
    {"event": "act", "act": "munmap", "errno": 22},
    {"event": "frame", "caught": 1, "during": 0, "queued": {"thp": 512, "pages": 512}},
    {"event": "frame", "caught": 1, "during": 1, "queued": {"thp": 512}, "device": {"mmap": 3}},
    {"event": "after-close", "caught": 1, "queued": {"thp": 512}},
    {
        "event": "summary",
        "frames": 2,
        "read_back": {"intact": 1, "lost": 1},
        "acts": [{"act": "ksm", "done": 2, "refused": 1}, {"act": "ksm", "done": 1}],
        "vmstat": {"pswpout": 7},
        "watched": {"/a/memory.events:max": [10, 14], "/gone": [-1, -1]},
    },
]


def outcome(events: list[dict[str, object]]) -> Outcome:
    made = Outcome(Scene("s", "t", ("p",)), "k", program=ProgramResult(0, events, ""))
    made.status = {"oddities": {"orphan": 5}}
    made.stats = {"fields": 9, "mode": "paced"}
    made.reports = [GuestReport("out-of-memory", "killed", False)]
    return made


def test_what_guest_and_checker_counted_comes_by_name() -> None:
    counts = evidence(outcome(EVENTS))
    expected = {
        "caught": 2, "during": 1, "queued.thp": 1024, "device.mmap": 3, "told.munmap": 1, "acts.ksm": 3,
        "refused.ksm": 1, "read_back.lost": 1, "vmstat.pswpout": 7, "watched.memory.events:max": 14,
        "grown.memory.events:max": 4, "oddities.orphan": 5, "card.fields": 9, "kernel_log.out-of-memory": 1,
    }  # fmt: skip
    assert {name: counts[name] for name in expected} == expected


def test_states_of_pages_count_by_what_they_came_to() -> None:
    made = outcome([])
    made.status["states"] = [
        "anonymous, lru, mapped, pins 1", "anonymous, lru, unmapped, pins 1",
        "anonymous, lru, mapped, pins 1 > anonymous, lru, unmapped, pins 1",
        "no mapping, dirty, unmapped, pins 1 > no mapping, dirty, mapped, pins 1",
    ]  # fmt: skip
    counts = evidence(made)
    assert (counts["states.unmapped"], counts["states.ownerless"]) == (1, 1)


def test_nonsense_from_the_guest_is_let_pass() -> None:
    nonsense: list[dict[str, object]] = [
        {"event": "frame", "queued": 5, "caught": "yes"},
        {"event": "summary", "acts": {"a": 1}, "vmstat": [], "watched": {"x": 3}, "frames": True},
        {"event": "summary", "acts": [3, {"act": None}], "read_back": {"lost": None}},
    ]
    counts = evidence(outcome(nonsense))
    assert not any(counts[name] for name in ("caught", "frames", "read_back.lost", "watched.x"))


@pytest.mark.parametrize(
    ("claim", "true"),
    [("caught > 1", True), ("caught > 2", False), ("caught < 3", True), ("queued.thp == 1024", True),
     ("queued.thp >= queued.pages", True), ("queued.pages >= queued.thp", False),
     ("never.counted == 0", True), ("device.mmap <= 2", False)],
)  # fmt: skip
def test_a_claim_compares_a_count_with_a_number_or_another(claim: str, true: bool) -> None:
    assert holds(claim, evidence(outcome(EVENTS))) is true


def test_claims_are_told_with_their_numbers() -> None:
    assert told(["caught > 1", "x == 0"], evidence(outcome(EVENTS))) == "caught > 1 (2), x == 0 (0)"


@pytest.mark.parametrize("claim", ["caught", "caught => 1", "caught > 1 2", ""])
def test_what_is_no_claim_is_refused(claim: str) -> None:
    with pytest.raises(ValueError, match="is not NAME OP"):
        parse(claim)
