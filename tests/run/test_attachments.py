# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the pictures of a report: both are of one frame, and what cannot be told is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vcapdev.run.attachments import Attachments
from vcapdev.run.options import RunOptions
from vcapdev.serve.client import ControlError

WIDTH, HEIGHT = 64, 48
OPTIONS: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "format": "YUYV"}


class Device:
    """Answers for the frames that it is said to have kept; each of its pages is in a state of its own."""

    def __init__(self, *kept: int, late: int = 0) -> None:
        self.kept, self.late = kept, late
        self.calls: list[tuple[str, Any]] = []

    def call(self, command: str, **arguments: Any) -> Any:
        arguments.pop("timeout", None)
        self.calls.append((command, arguments))
        self.late -= command == "frame"
        if command == "frame" and (arguments["number"] not in self.kept or self.late >= 0):
            raise ControlError("frame is not kept")
        state = "pinned-anon" if arguments.get("number") == 93 else "unpinned-anon"
        pieces = [[field, line, 0, WIDTH * 2, state] for field in (0, 1) for line in range(HEIGHT // 2)]
        fields = [{"field": field, "lines": HEIGHT // 2} for field in (0, 1)]
        return {"fields": fields, "pieces": pieces}


class Agent:
    def pull(self, path: str, *, timeout: float) -> bytes:
        return bytes(np.arange(WIDTH * HEIGHT * 2) % 251)


def pictures(tmp_path: Path, device: Device, *saved: int | None) -> dict[str, Any]:
    """The files of a run in which frames were saved one after the other."""
    attachments = Attachments(RunOptions(report=tmp_path / "report", **OPTIONS), tmp_path)
    attachments.begin(device)  # type: ignore[arg-type]
    for number in saved:
        attachments.states(device, number)  # type: ignore[arg-type]
    attachments.frame(Agent())  # type: ignore[arg-type]
    return attachments.files


def test_the_states_are_those_of_the_frame_that_was_saved_last(tmp_path: Path) -> None:
    device = Device(17, 93)
    files = pictures(tmp_path, device, None, 17, 17, 93, 93)
    asked = [arguments for command, arguments in device.calls if command == "frame"]
    assert asked == [{"number": 17}, {"number": 93}]
    assert device.calls[0] == ("keep-frames", {})
    assert files["frame-pages.png"] == pictures(tmp_path, Device(93), 93)["frame-pages.png"]
    assert files["frame-pages.png"] != pictures(tmp_path, Device(17), 17)["frame-pages.png"]
    assert files["frame.png"].startswith(b"\x89PNG")


def test_a_frame_whose_last_field_has_not_ended_is_asked_for_again(tmp_path: Path) -> None:
    at_once = pictures(tmp_path, Device(93), 93)
    assert pictures(tmp_path, Device(93, late=2), 93, 93, 93) == at_once
    device = Device(17)
    pictures(tmp_path, device, *[93] * 50)
    assert sum(command == "frame" for command, _ in device.calls) < 10, "not for ever"


def test_a_frame_that_the_card_does_not_know_has_no_picture_of_its_pages(tmp_path: Path) -> None:
    """Least of all with the pages of the one before."""
    assert set(pictures(tmp_path, Device(17), 17, 4711)) == {"frame.png"}


@pytest.mark.parametrize("saved", [(), (None,)])
def test_a_run_that_saved_nothing_has_no_pictures(tmp_path: Path, saved: tuple[None, ...]) -> None:
    assert pictures(tmp_path, Device(17), *saved) == {}


def test_without_a_report_nobody_is_asked(tmp_path: Path) -> None:
    device, attachments = Device(17), Attachments(RunOptions(**OPTIONS), tmp_path)
    attachments.begin(device)  # type: ignore[arg-type]
    attachments.states(device, 17)  # type: ignore[arg-type]
    attachments.frame(Agent())  # type: ignore[arg-type]
    assert (device.calls, attachments.files) == ([], {})
