# SPDX-License-Identifier: GPL-2.0-or-later
"""Behind a vIOMMU: the stock driver is clean and its maps all come and go; one that unmaps early is caught.

A new buffer of 432 pages costs 50 to 100 ms this way, so few frames are captured: what counts is counted.
"""

from __future__ import annotations

from typing import Any

import pytest

from vcapdev.progress import Silent
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session

pytestmark = pytest.mark.guest

FRAMES = 12
PAGES = 216  # of one buffer: 768x576 YUYV


def run(options: RunOptions, prepared: Prepared) -> tuple[Session, dict[str, Any]]:
    """The session when it is over, and the device's last figures of maps."""
    figures: dict[str, Any] = {}

    class Asking(Session):
        def _last_look(self) -> None:
            figures.update(self.device.call("check-status")["iommu"])
            super()._last_look()

    with Asking(options, prepared, Screen()) as session:
        session.run()
    return session, figures


def test_the_stock_driver_maps_and_unmaps_every_page_that_it_has_written(prepared: Prepared) -> None:
    session, figures = run(RunOptions(frames=FRAMES, iommu=True), prepared)
    report = session.report
    assert report.failure is None
    assert report.verdicts == []
    assert report.frames.captured == FRAMES
    assert report.frames.intact == FRAMES
    assert report.dma.checker == "attached"
    assert report.dma.pages_checked >= FRAMES * PAGES
    assert figures["translating"]
    assert figures["refused"] == figures["outside_ram"] == 0
    assert figures["maps"] >= RunOptions().pool // 2 * PAGES, "each page of each buffer is a map of its own"
    assert "user pages (streaming)" not in figures["live"], "all of them were torn down at the end"
    assert figures["live"]["a program (coherent)"] >= 1
    assert report.pins.left == 0


def test_buffers_that_are_unmapped_too_early_are_caught() -> None:
    options = RunOptions(frames=FRAMES, iommu=True, swap="none", pressure="none", mutant="unmapped-early")
    session, figures = run(options, prepare(options, Silent()))
    found = {verdict.rule: verdict for verdict in session.report.verdicts}
    verdict = found["use-after-unmap"]
    first = verdict.splat.splitlines()[0]
    assert first == "vcapdev: use-after-unmap (D1): DMA write to user pages (streaming)"
    assert "WRITE" in verdict.splat
    assert "unmapped as no." in verdict.splat
    assert "register write" in verdict.splat
    assert figures["refused"] > 0
