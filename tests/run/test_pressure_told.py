# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run says of its memory pressure: what it leaves out, and what of it failed in the guest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.report.model import Dma, Frames, Kernel, QemuInfo, RunReport, Swap
from vcapdev.report.summary import summary
from vcapdev.run.capture import Capture, capture_command, note_on_pressure
from vcapdev.run.judge import judge
from vcapdev.run.options import RunOptions


def told(swap: Swap) -> tuple[ExitStatus, str, str]:
    """Exit status, sentence and the line (or two) of the summary of a run that is good otherwise."""
    run = RunReport(
        kernel=Kernel("bookworm-6.1", "6.1", "vmlinuz"),
        qemu=QemuInfo("11.1", "", "tcg", ""),
        settings={"clock": "paced"},
        frames=Frames(wanted=10, captured=10, intact=10),
        dma=Dma(writes=5, bytes=5, pages_checked=5, distinct_pages=5, checker="attached"),
        swap=swap,
    )
    lines = summary(run).splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("  swap "))
    return *judge(run), "\n".join(lines[at : at + 2 if swap.note else at + 1])


def after(**event: Any) -> Capture:
    capture = Capture()
    capture.line(json.dumps({"event": "summary", "frames": 10, **event}))
    return capture


@pytest.mark.parametrize(("io", "why"), [("mmap", "never swapped"), ("read", "waits in read()")])
def test_pressure_that_cannot_reach_the_buffers_says_so(io: str, why: str) -> None:
    """The driver's own memory is never swapped; who waits in read() cannot push its pages out meanwhile."""
    hog = note_on_pressure(RunOptions(io=io, pressure="hog"))
    both = note_on_pressure(RunOptions(io=io, pressure="both"))
    assert hog is not None
    assert both is not None
    assert f"--io {io}" in hog
    assert why in hog
    assert "MADV_PAGEOUT" not in hog
    assert "MADV_PAGEOUT is for queued user memory and left out" in both
    assert "--pageout" not in capture_command(RunOptions(io=io, pressure="both")), "as it says"
    status, _, line = told(Swap("disk", "both", pages_out=9, note=both))
    assert status is ExitStatus.CLEAN
    assert line.endswith(f"\n            {both}")


def test_where_nothing_is_left_out_nothing_is_said() -> None:
    assert note_on_pressure(RunOptions(io="userptr", pressure="both")) is None
    assert note_on_pressure(RunOptions(io="mmap", pressure="none", swap="none")) is None
    assert told(Swap("disk", "both", pages_out=9))[2].endswith("a buffer page was out")


@pytest.mark.parametrize(
    ("error", "name"), [(22, "EINVAL: Invalid argument"), (9999, "errno 9999"), (-3, "errno -3")]
)
def test_a_pageout_that_failed_in_the_guest_is_read_and_proves_nothing(error: int, name: str) -> None:
    """However much the hog has swapped beside it."""
    swap = Swap("zram", "both", pages_out=900, pageout_error=after(pageout_error=error).pageout_error)
    status, sentence, line = told(swap)
    assert status is ExitStatus.GUEST
    assert sentence == f"Inconclusive: MADV_PAGEOUT on the buffers failed in the guest ({name})."
    assert f"; MADV_PAGEOUT failed: {name}" in line


@pytest.mark.parametrize("event", [{}, {"pageout_error": 0}, {"pageout_error": "much"}])
def test_a_pageout_that_did_not_fail(event: dict[str, Any]) -> None:
    assert after(**event).pageout_error is None


def test_pressure_that_swapped_nothing_is_inconclusive_whatever_its_kind() -> None:
    for pressure in ("pageout", "hog", "both"):
        status, sentence, _ = told(Swap("disk", pressure, pages_in=7, buffer_pages_out=0))
        assert status is ExitStatus.GUEST
        assert sentence.startswith(
            f"Inconclusive: pressure {pressure} on disk swap was asked for, but not one"
        )
