# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run shows: stages with times, one live line on a terminal, findings above it, nothing left over."""

from __future__ import annotations

import io

import pytest

from vcapdev.errors import GuestError
from vcapdev.run.screen import Screen


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_stage_ends_with_its_time_and_note() -> None:
    shown = io.StringIO()
    screen = Screen(shown)
    with screen.stage("boot") as stage:
        stage.note = "Linux 6.1"
    assert shown.getvalue().startswith("boot ")
    assert shown.getvalue().endswith("s  Linux 6.1\n")
    assert screen.stages["boot"] >= 0


def test_a_stage_that_fails_has_a_time_but_no_line() -> None:
    shown = io.StringIO()
    screen = Screen(shown)
    with pytest.raises(GuestError), screen.stage("boot"):
        raise GuestError("no boot")
    assert shown.getvalue() == ""
    assert "boot" in screen.stages


def test_the_live_line_is_replaced_and_removed() -> None:
    shown = Tty()
    screen = Screen(shown)
    screen.live("1 frame")
    screen.live("2 frames")
    screen.show("a finding\n")
    assert shown.getvalue() == "\r\033[K1 frame\r\033[K2 frames\r\033[Ka finding\n"


def test_without_a_terminal_live_lines_are_few_and_whole() -> None:
    shown = io.StringIO()
    screen = Screen(shown)
    for count in range(100):
        screen.live(f"{count} frames")
    assert shown.getvalue() == "0 frames\n"
