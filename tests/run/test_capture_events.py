# SPDX-License-Identifier: GPL-2.0-or-later
"""What the capture program says is taken in with care, and its command line says what was asked for."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from vcapdev.errors import GuestError, UsageError
from vcapdev.report.model import Frames
from vcapdev.run.capture import Capture, Stall, capture_command, explain_exit, vmstat
from vcapdev.run.options import RunOptions


def test_progress_and_summary_are_counted() -> None:
    capture = Capture()
    counts = {"frames": 50, "intact": 45, "dropped": 3, "torn": 1, "stale": 2, "misplaced": 1, "damaged": 1}
    capture.line(json.dumps({"event": "progress", **counts, "errors": 0, "span_ms": 1960}))
    frames = capture.frames
    assert (frames.captured, frames.intact, frames.dropped, frames.torn) == (50, 45, 3, 1)
    assert frames.damaged == 4
    assert frames.per_second == 25.0
    assert capture.summary is None
    capture.line(json.dumps({"event": "summary", "frames": 60, "idle_swapped": 5, "queued_swapped": 2}))
    assert capture.summary is not None
    assert capture.frames.captured == 60
    assert capture.swapped_pages == 7


def test_damaged_places_are_kept_up_to_a_limit() -> None:
    capture = Capture()
    for index in range(200):
        capture.line(json.dumps({"event": "bad", "kind": "stale", "index": index}))
    assert capture.frames.bad[0] == {"kind": "stale", "index": 0}
    assert len(capture.frames.bad) == 50


@pytest.mark.parametrize(
    "line",
    ["", "hello", "[1, 2]", '{"event": 7}', '{"event": "progress", "frames": "many"}', "[" * 100_000, "null"],
)
def test_nonsense_from_the_guest_changes_nothing(line: str) -> None:
    capture = Capture()
    capture.line(line)
    assert capture.frames == Frames()


def test_a_vmstat_of_nonsense_gives_what_can_be_read() -> None:
    text = b"pswpin 5\npswpout\nx -1\n\xff 3 4\nnr_foll_pin_acquired " + b"9" * 5000 + b"\npswpout 7\n"
    assert vmstat(SimpleNamespace(pull=lambda path: text)) == {"pswpin": 5, "pswpout": 7}  # type: ignore[arg-type]


def test_a_counter_that_stands_still_is_noticed() -> None:
    stall = Stall(0.0)
    stall.check(0, 1.0)
    stall.check(5, 80.0)
    stall.check(5, 160.0)
    with pytest.raises(GuestError, match="no new frame for 90 s after frame 5"):
        stall.check(5, 171.0)


def test_time_that_was_lost_for_a_reason_is_no_stall() -> None:
    stall = Stall(0.0)
    stall.check(0, 1.0)
    stall.restart(1000.0)
    stall.check(0, 1080.0)
    with pytest.raises(GuestError, match="no new frame"):
        stall.check(0, 1091.0)


@pytest.mark.parametrize(
    ("status", "stderr", "words"),
    [
        (0, "", None),
        (1, "", None),
        (-9, "", "killed by SIGKILL after 7 frames"),
        (3, "vcap-capture: no frame for 10000 ms\n", "status 3: vcap-capture: no frame"),
        (4, "", "status 4: it said nothing"),
    ],
)
def test_how_the_program_ended(status: int, stderr: str, words: str | None) -> None:
    said = explain_exit(status, stderr, Frames(captured=7))
    assert said is None if words is None else said is not None and words in said


def test_what_the_driver_cannot_do_is_wrong_usage() -> None:
    said = "vcap-capture: the driver makes 724x576 of 722x576: ask for --size 724x576\nusage: vcap-capture\n"
    with pytest.raises(UsageError, match=r"^the driver makes .*: ask for --size 724x576$"):
        explain_exit(2, said, Frames())


def words(**options: object) -> str:
    return " ".join(capture_command(RunOptions(**options)))  # type: ignore[arg-type]


def test_the_command_line() -> None:
    assert "--pageout idle,queued" in words()
    assert "--pageout" not in words(pressure="hog")
    assert "--clean" in words(clean=True)
    assert "--full-every 1 " in words()
    assert "--full-every 10 " in words(clock="fast")
    assert "--pool" not in words(io="mmap")
    assert "--format RGB4 --field top" in words(format="RGB4", field="top")


def test_the_saved_frame_is_known_by_the_number_in_its_lines() -> None:
    capture = Capture()
    capture.line('{"event": "saved", "index": 0, "frame": 17}')
    assert capture.saved == 17
    for wrong in ('{"event": "saved", "index": 75}', '{"event": "saved", "frame": "x"}', '{"event": "saved"'):
        capture.line(wrong)
    assert capture.saved == 17
    capture.line('{"event": "saved", "index": 75, "frame": 93}')
    assert capture.saved == 93
