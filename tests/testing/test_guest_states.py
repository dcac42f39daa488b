# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the guest's state machine: which ways there are, and that a failure is remembered."""

from __future__ import annotations

import pytest

from vcapdev.errors import GuestError
from vcapdev.testing.states import WAYS, GuestStateError, State, StateMachine


class Recorder:
    """Notes the ways that were gone; fails on those it is told to."""

    def __init__(self, *failing: State) -> None:
        self.gone: list[str] = []
        self.failing = failing
        self.machine = StateMachine({way: lambda way=way: self.go(way) for way in WAYS})

    def go(self, way: tuple[State, State]) -> None:
        self.gone.append(f"{way[0]}-{way[1]}")
        if way[1] in self.failing:
            raise GuestError(f"no way to {way[1]}")


def test_shell_is_reached_over_booting_and_a_goal_that_is_reached_costs_nothing() -> None:
    one = Recorder()
    one.machine.transition("shell")
    one.machine.transition("shell")
    assert one.gone == ["off-booting", "booting-shell"]
    assert one.machine.state is State.SHELL


def test_a_dead_guest_is_stopped_and_booted_afresh() -> None:
    one = Recorder()
    one.machine.transition("shell")
    one.machine.died("a panic")
    assert (one.machine.state, one.machine.why) == (State.CRASHED, "a panic")
    one.gone.clear()
    one.machine.transition("shell")
    assert one.gone == ["crashed-off", "off-booting", "booting-shell"]
    assert one.machine.why == ""


def test_the_first_reason_of_a_death_is_kept_and_told_at_once() -> None:
    one = Recorder()
    one.machine.transition("shell")
    one.machine.died("a panic")
    one.machine.died("the channel was closed")
    with pytest.raises(GuestStateError, match="the guest is crashed, not shell: a panic"):
        one.machine.require("shell")


def test_a_boot_that_fails_ends_in_crashed_with_its_reason() -> None:
    one = Recorder(State.SHELL)
    with pytest.raises(GuestError, match="no way to shell"):
        one.machine.transition("shell")
    assert (one.machine.state, one.machine.why) == (State.CRASHED, "no way to shell")
    one.machine.transition("off")
    assert one.machine.state is State.OFF


def test_off_is_reached_even_when_stopping_fails() -> None:
    one = Recorder(State.OFF)
    one.machine.transition("shell")
    with pytest.raises(GuestError):
        one.machine.transition("off")
    assert one.machine.state is State.OFF


def test_nobody_crashes_a_guest_on_purpose() -> None:
    one = Recorder()
    one.machine.transition("shell")
    with pytest.raises(GuestStateError, match="no way leads from shell to crashed on purpose"):
        one.machine.transition("crashed")
    with pytest.raises(ValueError, match="asleep"):
        one.machine.transition("asleep")


def test_what_is_off_cannot_die() -> None:
    one = Recorder()
    one.machine.died("nothing")
    assert (one.machine.state, one.machine.why) == (State.OFF, "")


def test_every_way_needs_its_action() -> None:
    with pytest.raises(ValueError, match="missing"):
        StateMachine({WAYS[0]: lambda: None})
