# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays the steps of a scenario: each verb is a method here, and one call of :mod:`vcapdev.testing`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vcapdev.errors import GuestError, UsageError, VcapdevError, ViolationError
from vcapdev.scenario import checks, compliance, ktapread
from vcapdev.scenario.language import Step
from vcapdev.scenario.picture import Photographer
from vcapdev.scenario.plain import line
from vcapdev.scenario.results import Event, Status, StepResult, Subtest
from vcapdev.testing.capture import RunningCapture
from vcapdev.testing.guest import Guest
from vcapdev.testing.pressure import Pressure
from vcapdev.vm.agent import Process

_WAIT = 120.0  # seconds
_COMMAND = 120
_COMPLIANCE = 600
_MOST_STEPS = 400  # that a report lists

Running = tuple[Step, RunningCapture | Process]
Clock = Callable[[], float]


class StepError(VcapdevError):
    """A step did not do what it must; the text says what."""


def _usec(seconds: float) -> int:
    return round(seconds * 1e6)


class Player:
    """Plays steps in one guest.

    :param here: the scenario's directory, for files that it names.
    :param record: write baselines anew instead of comparing with them.
    :ivar before_reboot: is called before the guest, and what is known of it, is let go.
    :ivar steps: what has been done so far; ``subtests``: tests of programs; ``captured``: if it captures;
        ``pressed``: memory pressure, for the timeline.
    """

    def __init__(
        self, guest: Guest, file: Path, kernel: str, *, record: bool = False, clock: Clock = time.monotonic
    ):
        self.guest, self.card = guest, guest.card
        self._file, self._kernel, self._record, self._now = file, kernel, record, clock
        self.begin = clock()
        self._level = 0
        self._left_out = 0
        self.steps: list[StepResult] = []
        self.subtests: list[Subtest] = []
        self.pressed: list[Event] = []
        self.captured = False
        self.photos = Photographer(guest)
        self.before_reboot: Callable[[], None] = lambda: None

    def play(self, steps: Sequence[Step]) -> None:
        """All of them, one after another.

        :raise StepError: one did not do what it must; the rest is left out.
        :raise VcapdevError: as the calls do.
        """
        for step in steps:
            with self._noted(step) as noted:
                method: Callable[[Step], str | None] = getattr(self, f"do_{step.verb}")
                noted.note = method(step) or ""

    @property
    def elapsed(self) -> float:
        """Seconds since its making."""
        return self._now() - self.begin

    @contextmanager
    def _noted(self, step: Step) -> Iterator[StepResult]:
        noted = StepResult(line(step.title, 200), Status.PASS, round(self.elapsed, 6), level=self._level)
        if len(self.steps) < _MOST_STEPS:
            self.steps.append(noted)
        self._level += 1
        try:
            yield noted
        except BaseException as error:
            noted.status, noted.note = Status.FAIL, noted.note or line(str(error), 200)
            if noted not in self.steps:
                self.steps.append(noted)
            raise
        finally:
            self._level -= 1
            noted.seconds = round(self.elapsed - noted.begin, 6)

    # -- captures and commands

    def do_capture(self, step: Step) -> str:
        running = self._start_capture(step)
        self.photos.watch(running)
        return self._end_capture(step, running)

    def _start_capture(self, step: Step) -> RunningCapture:
        self.captured = True
        options = dict(step.value)
        return self.guest.start_capture(options.pop("frames", 10), **options)

    def _end_capture(self, step: Step, running: RunningCapture, *, stop: bool = False) -> str:
        try:
            result = running.stop() if stop else running.wait(step.more.get("timeout"))
        except UsageError as error:  # not the scenario's fault: the reader has checked what can be asked for
            raise StepError(f"{step.title}: the driver refuses it: {error}") from None
        expect = step.more.get("expect", {"ends": "any"} if stop else {})
        self._require(step, checks.of_capture(result, expect))
        self.photos.develop(running)
        told = f"{result.intact} of {result.captured} frames intact, {result.dropped} dropped"
        return told + (f", {result.failed} failed" if result.failed else "")

    def do_run(self, step: Step) -> str:
        command = step.value if isinstance(step.value, str) else list(step.value)
        result = self.guest.run(command, timeout=float(step.more.get("timeout", _COMMAND)))
        return self._judge_command(step, result.status, result.stdout, result.stderr)

    def _judge_command(self, step: Step, status: int, stdout: str, stderr: str) -> str:
        expect = step.more.get("expect", {})
        if step.more.get("ktap"):
            self._take(step.title, ktapread.parse(stdout))
            expect = {"status": "any", **expect}
        self._require(step, checks.of_command(status, stdout, stderr, expect))
        return line((stdout.strip().splitlines() or [""])[-1], 120)

    def _take(self, title: str, tests: list[Subtest]) -> None:
        if not tests:
            tests = [Subtest("output", Status.FAIL, "there is no KTAP in it")]
        bad = any(one.status == Status.FAIL for one in tests)
        self.subtests.append(Subtest(line(title, 200), Status.FAIL if bad else Status.PASS, "", tests))

    def do_compliance(self, step: Step) -> str:
        words = ["v4l2-compliance", "-d", step.value["device"], *step.value.get("options", ())]
        result = self.guest.run(words, timeout=float(step.more.get("timeout", _COMPLIANCE)))
        outcome = compliance.parse(result.stdout)
        path = compliance.path_of(self._file, step.value["baseline"], self._kernel)
        if self._record:
            compliance.record(path, outcome, self.guest.release)
        tests = compliance.held(outcome, compliance.read(path))
        self._take(f"v4l2-compliance {step.value['baseline']}", tests)
        bad = sum(one.status == Status.FAIL for one in tests)
        return f"{len(tests)} tests, {bad} worse than the baseline"

    # -- files and modules

    def do_push(self, step: Step) -> None:
        local = (self._file.parent / step.value["from"]).resolve()
        self.guest.push(local, step.value["to"], mode=int(step.value.get("mode", "644"), 8))

    def do_bring(self, step: Step) -> str:
        return self.guest.bring(step.value)

    def do_write(self, step: Step) -> None:
        for path, content in step.value.items():
            self.guest.push(content.encode(), path)

    def do_load(self, step: Step) -> str:
        named = step.value if isinstance(step.value, dict) else {"module": step.value}
        module: str | Path = named["module"]
        if "/" in named["module"] or named["module"].endswith(".ko"):
            module = (self._file.parent / named["module"]).resolve()
        return self._may_fail(step, lambda: self.guest.load(module, **named.get("parameters", {})))

    def do_unload(self, step: Step) -> str:
        return self._may_fail(step, lambda: self.guest.unload(step.value))

    def do_unbind(self, step: Step) -> str:
        return self._may_fail(step, lambda: self.guest.bus.unbind(step.value))

    def do_bind(self, step: Step) -> str:
        return self._may_fail(step, lambda: self.guest.bus.bind(step.value))

    def do_unplug(self, step: Step) -> str:
        return self._may_fail(step, self.guest.bus.unplug)

    def do_plug(self, step: Step) -> str:
        return self._may_fail(step, self.guest.bus.plug)

    def do_another(self, step: Step) -> None:
        self.guest.plug_another(**step.value)

    def _may_fail(self, step: Step, act: Callable[[], object]) -> str:
        """A step that has to fail where it says so."""
        wanted = step.more.get("fails")
        try:
            act()
        except GuestError as error:
            if wanted is None or not re.search(wanted, str(error)):
                raise
            return line(str(error), 200)
        if wanted is not None:
            raise StepError(f"{step.title}: it went well, but had to fail with {wanted!r}")
        return ""

    # -- the card

    def do_clock(self, step: Step) -> None:
        self.card.clock = step.value

    def do_step(self, step: Step) -> None:
        self.card.step(step.value, timeout=float(step.more.get("timeout", _WAIT)))

    def do_wait(self, step: Step) -> None:
        what, count = next(iter(step.value.items()))
        goal = getattr(self.card, what) + count
        timeout = float(step.more.get("timeout", _WAIT))
        self.guest.wait(lambda: getattr(self.card, what) >= goal, timeout, f"{count} {what} of the card")

    def do_reboot(self, step: Step) -> None:
        if step.value:
            self.before_reboot()
            self.guest.reboot()

    def do_settle(self, step: Step) -> None:
        if self.card.settle() is not step.value:
            raise StepError("pages are still pinned" if step.value else "all pins were given back")

    def do_signal(self, step: Step) -> None:
        self.card.signal(**step.value)

    def do_fault(self, step: Step) -> str:
        options = {key: step.value[key] for key in ("at", "lasts") if key in step.value}
        with self.card.fault(step.value["name"], **options) as armed:
            self.play(step.steps)
        if step.more.get("must", True) and not armed.fired:
            raise StepError(f"{step.title}: its point never came, so nothing was proven")
        return "committed" if armed.fired else "its point never came"

    # -- blocks

    def do_group(self, step: Step) -> None:
        self.play(step.steps)

    def do_repeat(self, step: Step) -> None:
        for _ in range(step.value):
            self.play(step.steps)

    def do_pressure(self, step: Step) -> str:
        named = step.value if isinstance(step.value, dict) else {"kind": step.value}
        more = {"percent": named["percent"]} if "percent" in named else {}
        pressure = self.guest.pressure(named["kind"], named.get("every"), **more)
        begin = self.elapsed
        try:
            with pressure:
                self.play(step.steps)
        finally:
            self._note_pressure(step.title, begin, pressure)
        return f"{pressure.rounds} rounds, {pressure.pages_out} pages swapped out"

    def _note_pressure(self, title: str, begin: float, pressure: Pressure) -> None:
        """For the timeline: how long it was on, and each time that it told of itself."""
        length = self.elapsed - begin
        told = f"{pressure.rounds} rounds, {pressure.pages_out} pages swapped out"
        self.pressed.append(Event("pressure", title, _usec(begin), _usec(length), detail=told))
        for at, words in pressure.told:
            self.pressed.append(Event("pressure", words, max(0, _usec(at - self.begin))))

    def do_violation(self, step: Step) -> None:
        with self.card.expect_violation(*step.value, also=step.more.get("also", ())):
            self.play(step.steps)

    def do_complaint(self, step: Step) -> None:
        with self.guest.expect_complaint(*step.value):
            self.play(step.steps)

    def do_meanwhile(self, step: Step) -> str:
        running: list[Running] = []
        try:
            for each in step.value:
                running.append((each, self._spawn(each)))
            for _, one in running:
                if isinstance(one, RunningCapture) and "frames" in step.more:
                    one.wait_frames(step.more["frames"], _WAIT)
            self.play(step.steps)
            told = [self._end_running(each, one, bool(step.more.get("stop"))) for each, one in running]
        except BaseException:
            self._give_up(running)
            raise
        return "; ".join(filter(None, told))

    def _spawn(self, step: Step) -> RunningCapture | Process:
        if step.verb == "capture":
            return self._start_capture(step)
        return self.guest.spawn(step.value if isinstance(step.value, str) else list(step.value))

    def _end_running(self, step: Step, running: RunningCapture | Process, stop: bool) -> str:
        if isinstance(running, RunningCapture):
            return self._end_capture(step, running, stop=stop)
        if stop:
            running.kill()
            if "expect" not in step.more:
                step = Step(step.verb, step.value, {**step.more, "expect": {"status": "any"}})
        timeout = float(step.more.get("timeout", _COMMAND))
        self.guest.wait(lambda: running.status is not None, timeout, f"{step.title} to end")
        return self._judge_command(step, running.status or 0, running.stdout, running.stderr)

    def _give_up(self, running: Sequence[Running]) -> None:
        """Another step failed: what went on beside it must not hold the next ones up."""
        for _, one in running:
            with suppress(GuestError, ViolationError):
                if isinstance(one, RunningCapture):
                    one.process.kill(9)
                else:
                    one.kill(9)

    def _require(self, step: Step, complaints: Sequence[str]) -> None:
        if complaints:
            raise StepError("\n".join([f"{step.title}: {complaints[0]}", *complaints[1:]]))
