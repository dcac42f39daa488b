# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects galleries on several guests: the split is chance, the results and their order are not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from vcapdev.errors import GuestError
from vcapdev.gallery.crew import Crew, Job, room
from vcapdev.gallery.scene import Machine
from vcapdev.gallery.stage import Stage

SMALL, LARGE = Machine(), Machine(memory=640)
DEADLINE = 30.0


class Fake:
    """A stage that boots nothing."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.boots, self.abandoned = machine, 0, threading.Event()
        self.thread = ""

    def __enter__(self) -> Fake:
        self.thread = threading.current_thread().name
        return self

    def __exit__(self, *exc: object) -> None:
        assert threading.current_thread().name == self.thread, "QEMU ends with the thread that started it"

    def abandon(self) -> None:
        self.abandoned.set()


def crew_of(guests: int) -> tuple[Crew[Any], list[Fake]]:
    opened: list[Fake] = []

    def open_stage(machine: Machine) -> Stage:
        opened.append(Fake(machine))
        return cast(Stage, opened[-1])

    return Crew(open_stage, guests), opened


def job(name: str, play: Callable[[Fake], Any], machine: Machine = SMALL, cost: float = 1.0) -> Job[Any]:
    return Job(name, machine, cast(Any, play), cost)


def test_results_come_in_the_order_of_their_places_whoever_is_first() -> None:
    crew, _ = crew_of(2)
    later = threading.Event()

    def first(stage: Fake) -> str:
        assert later.wait(DEADLINE)
        return "first"

    def second(stage: Fake) -> str:
        later.set()
        return "second"

    with crew:
        crew.offer(0, job("a", first))
        crew.offer(1, job("b", second))
        crew.settle(2, "third")
        assert list(crew.results(3)) == ["first", "second", "third"]


@pytest.mark.parametrize("guests", [1, 2, 3])
def test_every_split_gives_the_same(guests: int) -> None:
    crew, opened = crew_of(guests)
    machines = [SMALL, LARGE, SMALL, LARGE, SMALL]
    with crew:
        for place, machine in enumerate(machines):
            crew.offer(place, job(str(place), lambda stage: stage.machine, machine))
        assert list(crew.results(len(machines))) == machines
    assert {each.machine for each in opened} == {SMALL, LARGE}


def test_one_guest_stays_with_its_machine_and_takes_the_dear_jobs_first() -> None:
    crew, opened = crew_of(1)
    played: list[str] = []

    def note(name: str) -> Callable[[Fake], None]:
        return lambda stage: played.append(name)

    for place, (name, machine, cost) in enumerate(
        [("cheap", SMALL, 1.0), ("other", LARGE, 5.0), ("dear", SMALL, 9.0), ("another", LARGE, 2.0)]
    ):
        crew.offer(place, job(name, note(name), machine, cost))
    with crew:
        list(crew.results(4))
    assert played == ["dear", "cheap", "other", "another"]
    assert len(opened) == 2


def test_a_second_guest_opens_a_machine_that_the_first_has_not() -> None:
    crew, opened = crew_of(2)
    both = threading.Barrier(2)

    def meet(stage: Fake) -> Machine:
        both.wait(DEADLINE)
        return stage.machine

    for place, machine in enumerate([SMALL, LARGE, SMALL, LARGE]):
        crew.offer(place, job(str(place), meet, machine))
    with crew:
        assert list(crew.results(4)) == [SMALL, LARGE, SMALL, LARGE]
    assert len(opened) == 2


def test_a_guest_that_cannot_be_had_ends_it_all_and_nothing_is_left_waiting() -> None:
    crew, _ = crew_of(2)

    def fail(stage: Fake) -> None:
        raise GuestError("no guest")

    def long(stage: Fake) -> None:
        assert stage.abandoned.wait(DEADLINE), "it is told to end"

    crew.offer(0, job("long", long, cost=2.0))
    crew.offer(1, job("failing", fail))
    with crew, pytest.raises(GuestError, match="no guest"):
        list(crew.results(2))
    assert [thread.is_alive() for thread in crew._threads] == [False, False]


def test_there_is_always_room_for_one() -> None:
    assert room(1 << 30) == 1
    assert 1 <= room(64) <= 8
