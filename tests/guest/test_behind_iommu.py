# SPDX-License-Identifier: GPL-2.0-or-later
"""Behind a vIOMMU: the stock driver is clean and its maps all come and go; one that unmaps early is caught.

A new buffer of 432 pages costs 50 to 100 ms this way, so few frames are captured: what counts is counted.
"""

from __future__ import annotations

import pytest

import vcapdev
from vcapdev.testing import Card, Guest

pytestmark = [pytest.mark.guest, vcapdev.guest(iommu=True, swap="disk")]

FRAMES, POOL = 12, 16
PAGES = 216  # of one buffer: 768x576 YUYV


def test_the_stock_driver_maps_and_unmaps_every_page_that_it_has_written(guest: Guest, card: Card) -> None:
    with guest.pressure("hog") as pressure:
        result = guest.capture(FRAMES, pool=POOL, hold=200, pageout=["idle", "queued"])
    assert result.failure is None
    assert result.captured == result.intact == FRAMES
    assert pressure.pages_out > 0
    card.dma.assert_clean(at_least=FRAMES * PAGES)
    figures = card.dma.status["iommu"]
    assert figures["translating"]
    assert figures["refused"] == figures["outside_ram"] == 0
    assert figures["maps"] >= POOL // 2 * PAGES, "each page of each buffer is a map of its own"
    assert "user pages (streaming)" not in figures["live"], "all of them were torn down at the end"
    assert figures["live"]["a program (coherent)"] >= 1


@vcapdev.guest(mutant="unmapped-early")
def test_buffers_that_are_unmapped_too_early_are_caught(guest: Guest, card: Card) -> None:
    with card.expect_violation("use-after-unmap", also=["outside-ram", "not-the-devices"]):
        guest.capture(FRAMES, pool=POOL, hold=200)
    verdict = next(one for one in card.dma.verdicts if one.rule == "use-after-unmap")
    first = verdict.splat.splitlines()[0]
    assert first == "vcapdev: use-after-unmap (D1): DMA write to user pages (streaming)"
    assert "WRITE" in verdict.splat
    assert "unmapped as no." in verdict.splat
    assert "register write" in verdict.splat
    assert card.dma.status["iommu"]["refused"] > 0
