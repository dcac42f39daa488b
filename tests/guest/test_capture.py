# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the capture program against the real driver: every way to hand over buffers, every layout.

Each test is a short capture, verified byte by byte in the guest, with every write judged.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

import vcapdev
from vcapdev.bt878.expected import expected_frame
from vcapdev.errors import UsageError
from vcapdev.run.capture import EXPECT
from vcapdev.testing import CaptureResult, Card, Guest

pytestmark = [pytest.mark.guest, vcapdev.guest(swap="disk", clock="fast")]

FRAMES = 12


def capture(guest: Guest, **options: Any) -> CaptureResult:
    """Capture; all frames were found intact, and no write is in question."""
    result = guest.capture(FRAMES, **options)
    assert result.status == 0, result
    # A stalled host makes the driver give frames up; they do not count.
    assert result.captured == result.intact == result.summary["verified"] == FRAMES
    guest.card.dma.assert_clean()
    return result


@pytest.mark.parametrize("io", ["userptr", "mmap", "read"])
def test_every_way_to_hand_over_buffers(guest: Guest, io: str) -> None:
    capture(guest, io=io)


@pytest.mark.parametrize("fourcc", ["BGR4", "RGB4", "BGR3", "RGBP", "RGBO", "UYVY", "GREY"])
def test_packed_formats(guest: Guest, fourcc: str) -> None:
    capture(guest, format=fourcc, size="384x288")


@pytest.mark.parametrize("fourcc", ["422P", "YU12", "YV12", "411P", "YUV9", "YVU9"])
@pytest.mark.parametrize("size", ["768x576", "320x240"])
def test_planar_formats(guest: Guest, fourcc: str, size: str) -> None:
    capture(guest, format=fourcc, size=size)


@pytest.mark.parametrize("field", ["top", "bottom", "alternate"])
@pytest.mark.parametrize("fourcc", ["YUYV", "YU12"])
def test_single_fields(guest: Guest, fourcc: str, field: str) -> None:
    capture(guest, format=fourcc, field=field, size="768x288")


def test_both_fields_one_behind_the_other(guest: Guest) -> None:
    """The driver has this order for packed formats only."""
    capture(guest, field="seq-tb")


@pytest.mark.parametrize("size", ["48x32", "176x144", "640x480", "720x576", "924x576"])
def test_sizes(guest: Guest, size: str) -> None:
    capture(guest, size=size)


@pytest.mark.parametrize("offset", [4, 2048, 4092])
def test_buffers_that_begin_inside_a_page(guest: Guest, offset: int) -> None:
    capture(guest, offset=offset)


@vcapdev.guest(clock="paced")
def test_pageout_really_swaps_and_the_frames_survive(guest: Guest) -> None:
    summary = capture(guest, pageout=["idle", "queued"]).summary
    assert summary["pswpout"] > 200
    assert summary["swapped_pages"] > 200
    assert summary["queued_swapped"] == 0  # pinned pages stay
    assert abs(summary["pins_acquired"] - summary["pins_released"]) <= 64  # per-CPU counters lag


@vcapdev.guest(clock="paced")
def test_a_released_buffer_rests_even_when_the_pool_is_too_small(guest: Guest) -> None:
    """Five buffers, four of them queued: each frame has to wait until the one buffer has rested."""
    hold, frames = 300, 5
    result = guest.capture(frames, pool=5, buffers=4, hold=hold)
    assert result.status == 0, result
    # The spare buffer serves the first frame; the time ends with the last frame, before its rest.
    assert result.summary["hold_waits"] == frames - 1
    assert result.summary["elapsed_ms"] >= hold * (frames - 2)


def test_of_most_frames_only_the_tags_are_compared(guest: Guest) -> None:
    """As ``vcapdev run --clock fast`` does it: every tenth frame byte by byte."""
    assert capture(guest, full_every=10).summary["full"] == 2
    assert capture(guest).summary["full"] == FRAMES


@vcapdev.guest(clock="real")
def test_a_card_that_waits_for_nobody(guest: Guest, card: Card) -> None:
    """A slow host may tear frames, as with the hardware; pages are what they have to be all the same."""
    result = guest.capture(FRAMES)
    assert result.captured == FRAMES
    assert result.intact + result.torn + result.damaged == FRAMES
    card.dma.assert_clean()


def test_clean_buffers_are_clean_when_they_are_handed_over(guest: Guest) -> None:
    assert capture(guest, clean=True).summary["clean_pages"] > 200


def test_a_saved_frame_is_the_one_that_was_captured(guest: Guest) -> None:
    capture(guest, save=3)
    data = guest.pull("/tmp/frame")
    assert len(data) == 768 * 576 * 2
    assert data[12:16] == b"VCAP"


@vcapdev.guest(clock="step")
@pytest.mark.parametrize("io", ["userptr", "mmap", "read"])
def test_failed_frames_do_not_count(guest: Guest, card: Card, io: str) -> None:
    """After half a second without a field the driver gives its buffers back with the error flag."""
    running = guest.start_capture(FRAMES, io=io, save=0, saved="/tmp/0")
    guest.wait(lambda: running.frames.errors > 0, 60, "a failed frame")
    card.clock = "paced"
    result = running.wait()
    assert result.status == 0, result
    assert result.failed > 0
    assert result.captured == result.intact == FRAMES
    assert guest.pull("/tmp/0")[12:16] == b"VCAP"  # the first good frame, not the first
    card.dma.assert_clean()


@vcapdev.guest(clock="step")
def test_a_card_that_sends_nothing_is_given_up(guest: Guest) -> None:
    result = guest.capture(3)
    assert result.status == 3
    assert result.failure is not None
    assert "frames as failed and only 0 of 3 as good" in result.failure


def test_content_that_is_not_what_was_sent_is_found(guest: Guest) -> None:
    """The verifier must be able to fail: it is given another picture than the card's."""
    other = bytearray(expected_frame("PAL", "YUYV", 768, 576, "interlaced").file())
    other[-1] ^= 0x80
    guest.push(bytes(other), EXPECT)
    result = guest.run(["vcap-capture", "--expect", EXPECT, "--frames", "5"])
    assert result.status == 1
    bad = [json.loads(line) for line in result.lines if '"bad"' in line]
    assert len(bad) == 5
    place = (bad[0]["kind"], bad[0]["field"], bad[0]["line"], bad[0]["byte"], bad[0]["page"])
    assert place == ("damaged", 1, 287, 1535, 215)


def test_a_size_that_the_driver_changes_is_told(guest: Guest) -> None:
    with pytest.raises(UsageError, match=r"the driver makes 768x288 of 768x576.*ask for --size 768x288$"):
        guest.capture(field="alternate", size="768x576")


@pytest.mark.parametrize(
    ("fourcc", "size", "better"), [("YUYV", "722x576", "724x576"), ("YU12", "724x576", "720x576")]
)
def test_a_width_that_the_driver_rounds_is_told(guest: Guest, fourcc: str, size: str, better: str) -> None:
    with pytest.raises(UsageError, match=f"ask for --size {better}$"):
        guest.capture(format=fourcc, size=size)
