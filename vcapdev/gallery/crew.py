# SPDX-License-Identifier: GPL-2.0-or-later
"""Several guests at a time: jobs are played on as many stages as the machine has room for.

Which guest plays a job, and when, is chance; what comes of it is told in the order of the jobs' places::

    with Crew(open_stage, guests=2) as crew:
        for place, job in enumerate(jobs):
            crew.offer(place, job)          # at any time, from any thread
        for result in crew.results(len(jobs)):
            ...

Each stage lives in one thread from its beginning to its end, since QEMU ends with the thread that started it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from vcapdev.gallery.scene import Machine
from vcapdev.gallery.stage import Stage

T = TypeVar("T")

_OVERHEAD = 400  # MiB that a guest takes beside its RAM: QEMU's own, the card's process
_MOST = 8
_TURN = 0.5  # seconds between two live lines


@dataclass(frozen=True)
class Job(Generic[T]):
    """Something to play on a stage with such a machine.

    :ivar cost: roughly how many seconds it takes; the dear ones begin first.
    """

    name: str
    machine: Machine
    play: Callable[[Stage], T]
    cost: float = 1.0


def room(memory: int) -> int:
    """How many guests of ``memory`` MiB this machine has room for: CPUs, free memory; at least 1."""
    cpus = len(os.sched_getaffinity(0))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return max(1, min(cpus, free // (memory + _OVERHEAD), _MOST))


class Crew(Generic[T]):
    """Plays jobs with ``guests`` stages. All methods may be called from any thread."""

    def __init__(self, open_stage: Callable[[Machine], Stage], guests: int) -> None:
        self._open, self._guests = open_stage, guests
        self._changed = threading.Condition()
        self._waiting: dict[int, Job[T]] = {}
        self._done: dict[int, T] = {}
        self._stages: dict[int, Stage] = {}  # worker: what it plays on
        self._playing: dict[int, str] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._failure: BaseException | None = None
        self.boots = 0

    def __enter__(self) -> Crew[T]:
        for number in range(self._guests):
            thread = threading.Thread(target=self._work, args=(number,), name=f"stage-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._stopping = True
            stages = [stage for number, stage in self._stages.items() if number in self._playing]
            self._changed.notify_all()
        for stage in stages:
            stage.abandon()
        for thread in self._threads:
            thread.join()

    def offer(self, place: int, job: Job[T]) -> None:
        """Have a job played; its result comes as number ``place``."""
        with self._changed:
            self._waiting[place] = job
            self._changed.notify_all()

    def settle(self, place: int, result: T) -> None:
        """Result number ``place``, for which nothing has to be played."""
        with self._changed:
            self._done[place] = result
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """End it all: :meth:`results` raises this."""
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    @property
    def playing(self) -> list[str]:
        """Names of what is being played."""
        return sorted(self._playing.values())

    def results(
        self, count: int, *, turn: float = 0.5, on_turn: Callable[[], None] = lambda: None
    ) -> Iterator[T]:
        """Results 0 to ``count`` - 1 in this order, each as soon as those before it are there.

        :param on_turn: called every ``turn`` seconds while one is waited for.
        :raise VcapdevError: a guest could not be had, or whatever :meth:`fail` was told.
        """
        for place in range(count):
            while True:
                with self._changed:
                    if self._failure is not None:
                        raise self._failure
                    if place in self._done:
                        result = self._done.pop(place)
                        break
                    self._changed.wait(_TURN)
                on_turn()
            yield result

    # -- the workers

    def _work(self, number: int) -> None:
        stage: Stage | None = None
        try:
            while (chosen := self._next(number, stage)) is not None:
                place, job = chosen
                if stage is None or stage.machine != job.machine:
                    self._leave(number, stage)
                    stage = self._enter(number, job.machine)
                boots = stage.boots
                result = job.play(stage)
                with self._changed:
                    self.boots += stage.boots - boots
                self.settle(place, result)
        except BaseException as error:
            self.fail(error)
        finally:
            self._playing.pop(number, None)
            self._leave(number, stage)

    def _enter(self, number: int, machine: Machine) -> Stage:
        stage = self._open(machine).__enter__()
        with self._changed:
            self._stages[number] = stage
        return stage

    def _leave(self, number: int, stage: Stage | None) -> None:
        with self._changed:
            self._stages.pop(number, None)
        if stage is not None:
            stage.__exit__(None, None, None)

    def _next(self, number: int, stage: Stage | None) -> tuple[int, Job[T]] | None:
        """The job that a worker does next; None when it is all over."""
        with self._changed:
            self._playing.pop(number, None)
            while not self._waiting and not self._over:
                self._changed.wait()
            if self._over:
                return None
            place = self._choose(stage)
            job = self._waiting.pop(place)
            self._playing[number] = job.name
            return place, job

    @property
    def _over(self) -> bool:
        return self._stopping or self._failure is not None

    def _choose(self, stage: Stage | None) -> int:
        """A dear one for the guest that is up; else one of a machine that no other guest is like."""
        others = {each.machine for each in self._stages.values() if each is not stage}

        def rank(place: int) -> tuple[bool, bool, float, int]:
            job = self._waiting[place]
            mine = stage is not None and stage.machine == job.machine
            return (not mine, job.machine in others, -job.cost, place)

        return min(self._waiting, key=rank)
