# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects what people read: a splat of one screen, a first line that recognises repetitions, plain JSON."""

import json

from fakecard import FakeCard, cards
from synthetic import SyntheticGuest

from vcapdev.dmacheck.rules import NOT_DIRTIED
from vcapdev.dmacheck.verdict import Evidence, Sight, Verdict

card = cards(["6.1"])
A = 2000


def make(card):
    card.guest.anon(A)
    batch = card.program(A)
    card.write(batch)
    card.field()
    card.guest.anon(A, pins=0)
    card.write(batch)
    return card.found[-1]


def test_the_splat_says_everything_on_one_screen(card):
    lines = make(card).splat().splitlines()
    assert lines[0] == "vcapdev: not-pinned (V3): DMA write to an anonymous page, program for user pages"
    assert 15 <= len(lines) <= 24
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in (
        "before",
        "after",
        "now",
        "history",
        "owner then",
        "owner now",
        "frame 7, odd field, line 0",
    ):
        assert part in text
    assert "WRITE 0 (instruction at 0x5000)" in text
    assert "page 1 of 1, bytes 0x0 to 0xfff" in text
    assert "refcount 1025, pins 1" in text
    assert f"pfn {A:#x}" in text


def test_the_first_line_is_the_same_in_every_run():
    keys = set()
    for pfn in (2000, 3000):
        guest = SyntheticGuest()
        card = FakeCard(guest)
        guest.anon(pfn, pins=0)
        card.write(card.program(pfn))
        keys.add(card.found[0].key)
        assert card.found[0].splat().splitlines()[0] == card.found[0].key
        guest.close()
    assert len(keys) == 1


def test_json_is_plain_and_complete(card):
    verdict = make(card)
    value = json.loads(json.dumps(verdict.to_json()))
    assert value["rule"] == "not-pinned"
    assert value["pfn"] == A
    assert value["instruction"]["instruction"] == "WRITE 0"
    assert value["buffer"]["pages"] == 1
    assert value["evidence"]["after"]["refcount"] == 1
    assert value["evidence"]["history"]
    assert value["evidence"]["vcpus_stopped"] is True
    assert set(value["owner"]) == {"then", "now"}
    assert value["count"] == 1


def test_even_the_longest_verdict_fits():
    evidence = Evidence(
        history=[Sight(f"field {i} after", "pinned " * 30) for i in range(20)],
        owner_then=["pid 1 " + "x" * 300] * 4,
        owner_now=["pid 2 " + "y " * 300] * 4,
        notes=["z " * 400] * 5,
    )
    verdict = Verdict(NOT_DIRTIED, "s" * 300, 1, 4096, None, None, evidence)
    lines = verdict.splat().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("how many")


def test_a_guest_that_names_processes_oddly_cannot_break_lines(card):
    verdict = make(card)
    verdict.evidence.owner_now = ["pid 1 (a\nb\x1b[31m)"]
    assert all(line.isprintable() for line in verdict.splat().splitlines())
