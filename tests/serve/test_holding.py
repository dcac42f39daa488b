# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects that a finding holds guest and card once, from a safe place, and that both go on when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from vcapdev.errors import UsageError
from vcapdev.serve.holding import Holding
from vcapdev.serve.options import ServeOptions, add_arguments, from_arguments


class Pauser:
    """Plays ``Pausing``; ``can`` says whether the vCPUs can be stopped."""

    def __init__(self) -> None:
        self.active, self.can, self.kept = False, True, 0
        self.told: list[str] = []

    @contextmanager
    def pause(self) -> Iterator[bool]:
        self.told.append("pause")
        self.active = self.can
        yield self.can
        self.active = False

    def keep(self) -> None:
        assert self.active
        self.told.append("keep")

    def go_on(self) -> None:
        self.told.append("go on")


class Scene:
    """A :class:`Holding` with its surroundings; ``later`` are calls that the event loop owes."""

    def __init__(self, wanted: bool = True) -> None:
        self.pauser = Pauser()
        self.frozen: list[str] = []
        clock: Any = SimpleNamespace(
            freeze=lambda: self.frozen.append("freeze"), thaw=lambda: self.frozen.append("thaw")
        )
        self.later: list[Callable[[], None]] = []
        self.held: list[tuple[object, bool]] = []
        self.holding = Holding(
            self.pauser,
            clock,
            lambda delay, fn: self.later.append(fn),
            lambda verdict, stopped: self.held.append((verdict, stopped)),
            wanted=wanted,
        )

    def turn(self) -> None:
        for fn in self.later:
            fn()
        self.later.clear()


FIRST: Any = "first finding"
SECOND: Any = "second finding"


def test_a_finding_explained_in_a_pause_keeps_it() -> None:
    scene = Scene()
    with scene.pauser.pause():
        scene.holding.found(FIRST)
    assert scene.held == [(FIRST, True)]
    assert scene.pauser.told == ["pause", "keep"]
    assert scene.frozen == ["freeze"]
    assert not scene.later


def test_a_finding_in_a_running_guest_is_held_from_the_event_loop() -> None:
    """It may have been found within an access that QEMU waits for: nothing may be stopped there."""
    scene = Scene()
    scene.holding.found(FIRST)
    assert scene.pauser.told == []
    assert scene.frozen == ["freeze"], "the card stops at once all the same"
    scene.turn()
    assert scene.pauser.told == ["pause", "keep"]
    assert scene.held == [(FIRST, True)]


def test_vcpus_that_cannot_be_stopped_are_told_of() -> None:
    scene = Scene()
    scene.pauser.can = False
    scene.holding.found(FIRST)
    scene.turn()
    assert scene.held == [(FIRST, False)]
    assert scene.pauser.told == ["pause"]


def test_only_the_first_finding_holds_unless_asked_again() -> None:
    scene = Scene()
    for verdict in (FIRST, SECOND):
        scene.holding.found(verdict)
        scene.turn()
    assert scene.held == [(FIRST, True)]
    scene.holding.resume(hold_again=True)
    assert scene.frozen == ["freeze", "thaw"]
    assert scene.pauser.told[-1] == "go on"
    scene.holding.found(SECOND)
    scene.turn()
    assert scene.held == [(FIRST, True), (SECOND, True)]
    scene.holding.resume(hold_again=False)
    scene.holding.found(FIRST)
    assert not scene.later
    assert not scene.holding.held


def test_nothing_is_held_where_nobody_asked() -> None:
    scene = Scene(wanted=False)
    scene.holding.found(FIRST)
    assert scene.frozen == []
    assert not scene.later
    scene.holding.resume(hold_again=False)
    assert scene.frozen == []


def test_a_guest_that_goes_before_it_is_held_is_not_waited_for() -> None:
    scene = Scene()
    scene.holding.found(FIRST)
    scene.holding.resume(hold_again=False)
    scene.turn()
    assert scene.held == []
    assert scene.frozen == ["freeze", "thaw"]


def test_holding_needs_somebody_who_lets_go(tmp_path: Any) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = ServeOptions(socket_path=tmp_path / "card", control=tmp_path / "control", hold=True, audit=0.25)
    assert from_arguments(parser.parse_args(options.command_line())) == options
    with pytest.raises(UsageError, match="--control"):
        from_arguments(parser.parse_args(["--socket-path", "card", "--hold"]))
    with pytest.raises(SystemExit):
        parser.parse_args(["--socket-path", "card", "--audit", "150%"])
