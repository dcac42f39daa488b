# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the audit: it must notice a wrong live judgement, and must not blame a world that moved on."""

from __future__ import annotations

import numpy as np
import pytest
from fakecard import FakeCard, cards

from vcapdev.dmacheck.audit import Audit
from vcapdev.dmacheck.look import BatchPages

card = cards()
A, B, C = 2000, 2001, 2002


def audited(card: FakeCard, rate: float = 1.0) -> FakeCard:
    card.checker.audit = Audit(rate, 7)
    for pfn in (A, B, C):
        card.guest.anon(pfn)
    return card


def figures(card: FakeCard) -> dict[str, object]:
    status = card.checker.status()
    assert not status["defects"], status["defects"]
    return dict(status["audit"])


def test_clean_pages_are_found_clean_again(card: FakeCard) -> None:
    batch = audited(card).program(A, B, C)
    for _ in range(5):
        card.write(batch)
        card.field()
    found = figures(card)
    assert (found["judgements"], found["pages"], found["clean"], found["agreed"]) == (5, 15, 15, 15)
    assert (found["disagreed"], found["turned"], found["bad"]) == (0, 0, 0)
    assert card.pauses == 5


@pytest.mark.parametrize("spoil", ["free", "unpin", "kernel"])
def test_bad_pages_are_found_bad_again(card: FakeCard, spoil: str) -> None:
    batch = audited(card).program(A, B, C)
    card.write(batch)
    if spoil == "free":
        card.guest.free(B)
    elif spoil == "unpin":
        card.guest.anon(B, pins=0)
    else:
        card.guest.page(B, "reserved", refcount=1)
    card.write(batch)
    found = figures(card)
    assert len(card.rules) == 1
    assert (found["bad"], found["agreed"], found["disagreed"]) == (1, 6, 0)


def test_a_live_look_that_missed_something_is_a_disagreement(
    card: FakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page was bad all the time, and the live look's memory of it is of a bad page, too."""
    batch = audited(card).program(A, B)
    card.write(batch)
    card.guest.anon(B, pins=0)
    honest = BatchPages.look

    def blind(self: BatchPages) -> object:
        look = honest(self)
        if look is not None:
            look.codes[:] = 0
        return look

    monkeypatch.setattr(BatchPages, "look", blind)
    card.write(batch)
    found = figures(card)
    assert card.rules == []
    assert found["disagreed"] == 1
    assert f"page {B:#x}: live clean" in str(found["disagreements"])
    assert "with the vCPUs stopped not-pinned (V3)" in str(found["disagreements"])


def test_a_live_look_that_cried_wolf_is_a_disagreement(
    card: FakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = audited(card).program(A, B)
    card.write(batch)
    honest = BatchPages.look

    def frightened(self: BatchPages) -> object:
        look = honest(self)
        if look is not None:
            look.codes[0] = 2
        return look

    monkeypatch.setattr(BatchPages, "look", frightened)
    card.guest.anon(A, pins=2)
    card.write(batch)
    found = figures(card)
    assert card.rules == ["free-page"]
    assert (found["bad"], found["disagreed"]) == (1, 1)
    assert f"page {A:#x}: live free-page (V1)" in str(found["disagreements"])


def test_a_page_that_turns_bad_after_the_look_is_told_apart(card: FakeCard) -> None:
    batch = audited(card).program(A, B)
    card.on_pause = lambda: card.guest.anon(B, pins=0)
    card.write(batch)
    found = figures(card)
    assert (found["turned"], found["disagreed"], found["agreed"]) == (1, 0, 1)


def test_a_page_that_is_mended_after_the_look_is_told_apart(card: FakeCard) -> None:
    """A driver that queues the buffer anew pins it again: the live verdict stands, the page is another."""
    batch = audited(card).program(A, B)
    card.write(batch)
    card.guest.anon(B, pins=0)

    def pin_again() -> None:
        if card.pauses > 2:  # one for the first audit, one for the verdict, and then it is pinned again
            card.guest.anon(B)

    card.on_pause = pin_again
    card.write(batch)
    found = figures(card)
    assert card.rules == ["not-pinned"]
    assert (found["bad"], found["mended"], found["disagreed"]) == (1, 1, 0)


def test_a_page_that_was_let_go_during_the_write_is_no_disagreement(card: FakeCard) -> None:
    """Bad at the second look only: the rule takes two, and the standing world shows what the second saw."""
    batch = audited(card).program(A, B)
    card.write(batch)
    card.during = lambda: card.guest.anon(B, pins=0)
    card.write(batch)
    found = figures(card)
    assert card.rules == []
    assert (found["bad"], found["turned"], found["disagreed"]) == (0, 1, 0)


def test_a_stop_of_dma_ends_the_judgement(card: FakeCard) -> None:
    batch = audited(card).program(A, B)

    def stop() -> None:
        card.running = False
        card.guest.anon(B, pins=0)

    card.on_pause = stop
    card.write(batch)
    found = figures(card)
    assert (found["judgements"], found["raced_with_stop"]) == (0, 1)


def test_without_a_pause_nothing_is_claimed(card: FakeCard) -> None:
    batch = audited(card).program(A, B)
    card.can_pause = False
    card.write(batch)
    found = figures(card)
    assert (found["judgements"], found["not_stopped"]) == (0, 1)


def test_the_sample_follows_from_its_seed(card: FakeCard) -> None:
    drawn = []
    for seed in (1, 1, 2):
        audit = Audit(0.1, seed)
        drawn.append([audit.drawn() for _ in range(2000)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert 100 < int(np.count_nonzero(drawn[0])) < 300
    assert not any(Audit(0, 1).drawn() for _ in range(1000))


def test_a_new_scene_forgets_figures_and_goes_on_drawing(card: FakeCard) -> None:
    audit = Audit(0.5, 3)
    rest = Audit(0.5, 3)
    first = [audit.drawn() for _ in range(50)]
    other = audit.afresh()
    assert [rest.drawn() for _ in range(100)] == first + [other.drawn() for _ in range(50)]
    batch = audited(card).program(A)
    card.write(batch)
    assert other.figures()["judgements"] == 0
    assert figures(card)["judgements"] == 1
