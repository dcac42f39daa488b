# SPDX-License-Identifier: GPL-2.0-or-later
"""A stage: one guest with one card, on which many scenes are played in a row.

Between two scenes the checker forgets what it has found (control command ``new-scene``) and the driver's
modules are exchanged where the next scene wants others. A guest that has crashed, or that a scene has
ruined, is replaced by a freshly booted one::

    with Stage(options, prepared, variants) as stage:
        for scene in scenes:
            outcome = stage.run_scene(scene)
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vcapdev.bt878.expected import expected_frame
from vcapdev.errors import GuestError
from vcapdev.gallery.drivers import Drivers
from vcapdev.gallery.scene import GuestReport, Machine, Outcome, Picture, ProgramResult, Scene
from vcapdev.run import capture as capturing
from vcapdev.run.capture import Capture
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import PATIENCE, Pair
from vcapdev.run.prepare import Prepared
from vcapdev.vm.agent import Agent, AgentGoneError, GuestTimeoutError, Process
from vcapdev.vm.watch import GuestCrash
from vcapdev.workdir import workdir

_ATTACH = 30.0  # seconds for the checker to look at a kernel again; 1 on an idle machine
_TURN = 0.05  # seconds between two looks
_SHELL = 60.0  # seconds for the lines of a setup or teardown
_END = 10.0  # seconds for a program to end when told to
_MOST_EVENTS = 2000  # of a program that are kept; the guest is not trusted

Json = dict[str, Any]
Variants = Callable[[str], Mapping[str, Path]]


class SceneError(GuestError):
    """A scene cannot be played as it is written."""


def no_variants(name: str) -> Mapping[str, Path]:
    """For stages whose scenes use the kernel's own driver only."""
    raise SceneError(f"no altered driver {name!r} was made for this stage")


class _Played:
    """A program under way, with what it tells."""

    def __init__(self) -> None:
        self.capture = Capture()
        self.events: list[Json] = []

    def line(self, text: str) -> None:
        """One line of its output."""
        self.capture.line(text)
        with suppress(ValueError, RecursionError):
            event = json.loads(text)
            if isinstance(event, dict) and len(self.events) < _MOST_EVENTS:
                self.events.append(event)


class Stage:
    """Guest and card for scenes of equal machine needs.

    :param options: kernel, QEMU, accelerator and board; the machine's memory and swap come from ``machine``.
    :param variants: the modules (name: file) of an altered driver, by its name.
    """

    def __init__(
        self,
        options: RunOptions,
        prepared: Prepared,
        variants: Variants = no_variants,
        machine: Machine | None = None,
    ) -> None:
        self.machine = machine or Machine()
        self.options = _with_machine(options, self.machine)
        self.boots = 0
        self.prepared, self.variants = prepared, variants
        self._stack = ExitStack()
        self._pair: Pair | None = None
        self._drivers: Drivers | None = None
        self._reports_told = 0

    def __enter__(self) -> Stage:
        self._root = self._stack.enter_context(workdir("stage"))
        self._stack.callback(self.strike)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def kernel(self) -> str:
        """The recipe's name."""
        return self.options.kernel

    @property
    def up(self) -> bool:
        """Whether a guest is there to play in."""
        return self._pair is not None

    def strike(self) -> None:
        """End guest and card; the next scene boots others."""
        pair, self._pair, self._drivers = self._pair, None, None
        if pair is not None:
            pair.stop()

    def abandon(self) -> None:
        """Have whatever is being played end soon, in trouble; for another thread than the one that plays."""
        pair = self._pair
        pid = pair.vm.pid if pair is not None else None
        if pair is not None and pid is not None and pair.vm.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pull(self, path: str) -> bytes:
        """A file of the guest. :raise GuestError: there is none, or no guest."""
        if self._pair is None:
            raise GuestError(f"no guest is up to fetch {path} from")
        return self._pair.vm.agent.pull(path)

    def registers(self) -> dict[str, int]:
        """Every register of the card, as a read would give it. :raise GuestError: no guest is up."""
        if self._pair is None:
            raise GuestError("no guest is up whose card could be asked")
        return dict(self._pair.device.call("registers")["registers"])

    def run_scene(self, scene: Scene) -> Outcome:
        """Play one scene; whatever happens in the guest ends up in its outcome.

        :raise VcapdevError: the machine, the options or the scene itself are wrong, or no guest can be had.
        """
        outcome = Outcome(scene, self.kernel)
        pair, agent = self._set_up()
        begin = time.monotonic()
        try:
            before = self._begin(pair, agent, scene)
            self._play(pair, agent, scene, outcome)
            self._end(pair, agent, scene, outcome)
            outcome.stats = _grown(before, pair.device.call("stats"))
        except SceneError:
            raise
        except GuestError as error:
            self._trouble(pair, error, outcome)
        self._collect(pair, outcome)
        outcome.seconds = round(time.monotonic() - begin, 2)
        if scene.ruins or outcome.damaged or outcome.trouble or outcome.failures:
            self.strike()
        return outcome

    # -- before

    def _set_up(self) -> tuple[Pair, Agent]:
        if self._pair is not None:
            return self._pair, self._pair.vm.agent
        self.boots += 1
        work = self._root / str(self.boots)
        work.mkdir()
        pair = self._pair = Pair(self.options, self.prepared, work)
        try:
            agent = pair.start()
            self._drivers = Drivers(agent)
        except BaseException:
            self.strike()
            raise
        self._reports_told = len(pair.vm.watch.reports)
        return pair, agent

    def _begin(self, pair: Pair, agent: Agent, scene: Scene) -> Json:
        """Driver, files, settings; the card's counters as they are before the scene."""
        drivers = self._drivers
        assert drivers is not None
        if scene.modules != drivers.current or scene.unload or scene.parameters:
            modules = self.variants(scene.modules) if scene.modules is not None else {}
            drivers.unload(modules)
            drivers.load(scene.modules, modules, scene.parameters)
        pair.device.call("new-scene", timeout=_ATTACH)
        pair.device.call("clock", mode=scene.clock)
        agent.push(expected_file(scene.picture), capturing.EXPECT)
        for path, content in scene.files.items():
            agent.push(content, path, mode=0o755)
        self._shell(agent, scene.setup)
        return pair.device.call("stats")

    def _shell(self, agent: Agent, lines: Sequence[str]) -> None:
        if not lines:
            return
        result = agent.run(["sh", "-ec", "\n".join(lines)], timeout=_SHELL)
        if result.status:
            said = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise GuestError(f"the scene's shell lines ended with status {result.status}: {said}")

    # -- the act

    def _play(self, pair: Pair, agent: Agent, scene: Scene, outcome: Outcome) -> None:
        beside = [agent.spawn(words) for words in scene.beside]
        played = _Played()
        outcome.frames = played.capture.frames
        process = agent.spawn(scene.program, on_stdout=played.line)
        result = outcome.program = ProgramResult(None, played.events, "", process.pid)
        end = time.monotonic() + scene.timeout
        try:
            while process.status is None:
                self._turn(pair, agent, outcome)
                if time.monotonic() > end:
                    raise GuestTimeoutError(
                        f"{scene.program[0]} did not end within {scene.timeout:g} s"
                        f" ({outcome.frames.captured} frames had come)"
                    )
        finally:
            result.stderr, result.status = process.stderr, process.status
        for other in beside:
            self._stop(agent, other)

    def _turn(self, pair: Pair, agent: Agent, outcome: Outcome) -> None:
        """Let guest and device speak. What the guest's kernel survives is noted, and the scene goes on.

        :raise GuestError: the guest has ended.
        """
        try:
            agent.pump(_TURN)
        except GuestCrash as crash:
            if crash.fatal:
                raise
            outcome.reports.append(_report(crash))
        pair.device.events()  # they are asked for at the end; here they only must not pile up

    def _stop(self, agent: Agent, process: Process) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            process.kill(number)
            with suppress(GuestTimeoutError):
                process.wait(_END)
                return

    # -- after

    def _end(self, pair: Pair, agent: Agent, scene: Scene, outcome: Outcome) -> None:
        self._shell(agent, scene.teardown)
        outcome.pins_left = self._settle(pair, agent, outcome)
        if scene.unload and self._drivers is not None:
            self._drivers.unload(self.variants(scene.modules) if scene.modules else None)
            self._drivers.load(None, {}, {})
        self._hear_out(pair, agent, outcome)

    def _settle(self, pair: Pair, agent: Agent, outcome: Outcome) -> int:
        """Give the kernel some time to let go of the buffers, then have the rest judged."""
        end = time.monotonic() + PATIENCE
        while not pair.device.call("settle", final=False).get("settled") and time.monotonic() < end:
            self._turn(pair, agent, outcome)
        return int(pair.device.call("settle", final=True).get("pinned_pages") or 0)

    def _hear_out(self, pair: Pair, agent: Agent, outcome: Outcome) -> None:
        """A failure is held back until its story is complete."""
        end = time.monotonic() + PATIENCE
        while pair.vm.watch.pending and time.monotonic() < end:
            self._turn(pair, agent, outcome)

    def _trouble(self, pair: Pair, error: GuestError, outcome: Outcome) -> None:
        if isinstance(error, AgentGoneError):
            error = pair.why_gone(error)
        outcome.trouble = str(error).rstrip(".")
        if isinstance(error, GuestCrash):
            outcome.reports.append(_report(error))
        elif isinstance(error, GuestTimeoutError):
            with suppress(GuestError):
                self._hear_out(pair, pair.vm.agent, outcome)

    def _collect(self, pair: Pair, outcome: Outcome) -> None:
        """What the device knows is complete even where the guest has gone."""
        with suppress(GuestError):
            outcome.status = pair.device.call("check-status")
            outcome.verdicts = list(pair.device.call("verdicts")["verdicts"])
        incidents = pair.vm.watch.reports
        for incident in incidents[self._reports_told :]:
            outcome.reports.append(
                GuestReport(incident.kind, incident.title, incident.failure, incident.text)
            )
        self._reports_told = len(incidents)


def expected_file(picture: Picture) -> bytes:
    """What the capture program compares frames with."""
    frame = expected_frame(picture.norm, picture.format, picture.width, picture.height, picture.field)
    return frame.file()


def _with_machine(options: RunOptions, machine: Machine) -> RunOptions:
    return replace(
        options,
        memory=machine.memory,
        swap=machine.swap,
        cpus=machine.cpus,
        iommu=machine.iommu,
        append=f"{options.append} {machine.append}".strip(),
        qemu_opts=(*options.qemu_opts, *machine.qemu_opts),
    )


def _report(crash: GuestCrash) -> GuestReport:
    return GuestReport(crash.kind, crash.title, True, crash.kernel_log)


def _grown(before: Json, after: Json) -> Json:
    """Counters as differences; everything else as it is now."""
    return {
        name: value - before[name] if type(value) is int and type(before.get(name)) is int else value
        for name, value in after.items()
    }
