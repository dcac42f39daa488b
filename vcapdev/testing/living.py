# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's life: its states, the begin and end of a test in it, what its kernel says, and its death.

Whatever waits lets guest and device speak, and ends at once when either has died: with
:class:`vcapdev.vm.watch.GuestCrash` where the guest's kernel failed. A complaint after which the guest goes
on (a WARNING) ends no wait; it is in :attr:`LivingGuest.complaints`, and whoever judges the test looks there.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from vcapdev.errors import GuestError
from vcapdev.gallery.drivers import Drivers
from vcapdev.progress import Progress, Silent
from vcapdev.run.device import DeviceProcess
from vcapdev.run.pair import PATIENCE, WatchedVm
from vcapdev.testing.card import Card
from vcapdev.testing.complaints import Complaint, expected, unexpected
from vcapdev.testing.config import GuestConfig
from vcapdev.testing.hanging import hanging
from vcapdev.testing.opening import GuestPair, Opened, Opener, open_pair
from vcapdev.testing.states import State, StateMachine
from vcapdev.vm.agent import Agent, AgentError, AgentGoneError, GuestTimeoutError, Process
from vcapdev.vm.console import ConsoleTail
from vcapdev.vm.watch import GuestCrash
from vcapdev.workdir import workdir

_TURN = 0.02  # seconds between two looks
_ATTACH = 30.0  # seconds for the checker to look at a kernel again; 1 on an idle machine
_COMMAND = 60.0  # seconds for a command
_PROBE = 60.0  # seconds for the driver to register a card that was plugged in; 0.1 on an idle machine
_MARK = 30.0  # seconds for a line to come back out of the kernel log

Json = dict[str, Any]


#: The driver speaks, or is listed among the modules of a report. The command line has its parameters only.
_DRIVER_BEGAN = re.compile(r"^(?!.*command line).*\bbttv", re.IGNORECASE | re.MULTILINE)


class BootCrashError(GuestError):
    """The guest's kernel failed before the driver was loaded, and so not of the driver.

    :ivar kernel_log: its slice of the kernel log.
    """

    def __init__(self, crash: GuestCrash) -> None:
        super().__init__(f"{crash}; that was before the driver was loaded")
        self.kernel_log = crash.kernel_log


class LivingGuest:
    """One guest and its card, from its boot to its end.

    :param config: what it is made of, see :func:`vcapdev.testing.config.config_from`.
    :param opener: makes guest and device; tests of vcapdev itself have one that boots nothing.
    :ivar card: its card.
    :ivar complaints: what its kernel complained about since the begin of the test, and nobody expected; first
        what came between this test and the one before.
    :ivar has_complained: whether it did at all since its boot, expected or not.
    :ivar death_expected: whether it died of what ``expect_complaint`` waited for.
    """

    def __init__(
        self,
        config: GuestConfig | None = None,
        *,
        opener: Opener = open_pair,
        progress: Progress | None = None,
    ) -> None:
        self.config = config or GuestConfig()
        self.card = Card(lambda: self._pair.device, self.turn, self._busy)
        self.complaints: list[Complaint] = []
        self._judged = 0  # so many of them were there when the test ended
        self._begun = False  # whether any test has begun since its boot
        self.has_complained = False
        self.death_expected = False
        self._opener, self._progress = opener, progress or Silent()
        self._opened: Opened | None = None
        self._work: Path | None = None
        self._files = ExitStack()
        self._drivers: Drivers | None = None
        self._processes: list[Process] = []
        self._parameters: dict[str, str] = {}  # that the driver was loaded with
        self._marks = 0
        self._since = -1  # microseconds of guest time at which the test began
        self._machine = StateMachine(
            {
                (State.OFF, State.BOOTING): self._open,
                (State.BOOTING, State.SHELL): self._boot,
                (State.BOOTING, State.OFF): self._close,
                (State.SHELL, State.OFF): self._close,
                (State.CRASHED, State.OFF): self._close,
            }
        )

    # -- life

    def __enter__(self) -> Self:
        self.transition(State.SHELL)
        self.begin(self.config)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def cards(self) -> list[Card]:
        """All its cards."""
        return [self.card]

    @property
    def state(self) -> State:
        """Off, booting, shell or crashed."""
        return self._machine.state

    @property
    def why_dead(self) -> str:
        """What it died of, "" when it did not."""
        return self._machine.why

    def transition(self, goal: State | str) -> None:
        """Bring it to "off", "booting" or "shell" from wherever it is; a dead one is booted afresh.

        :raise GuestError: it does not come up.
        :raise VcapdevError: what the machine lacks, or the configuration asks for in vain.
        """
        self._machine.transition(goal)

    def stop(self) -> None:
        """End guest and card; harmless when repeated."""
        self._machine.transition(State.OFF)

    def reboot(self) -> None:
        """End it, dead or alive, and boot it afresh: for the rest of the test.

        Complaints and findings that came before stay the test's.
        """
        if self.state is State.SHELL:
            with suppress(GuestError):
                self.hear_out()
        self.stop()
        self.transition(State.SHELL)
        self._set_up(self.config, "")

    def begin(self, config: GuestConfig | None = None, name: str = "") -> None:
        """A test begins: the checker forgets, the clock and the driver are as ``config`` wants them.

        What came since the test before was judged, or while it booted, is this one's, marked as early.

        :raise GuestError: it is not in the state "shell", or the driver cannot be exchanged.
        """
        self._machine.require(State.SHELL)
        wanted = config or self.config
        late = self.late(self.config if self._begun else wanted)
        self.complaints, self._judged = [replace(one, early=True) for one in late], 0
        for card in self.cards:
            card.dma.reset()
        self._set_up(wanted, name)

    def _set_up(self, wanted: GuestConfig, name: str) -> None:
        with self._asked():
            self._exchange(wanted)
            self.config = wanted
            for card in self.cards:
                card.call("new-scene", timeout=_ATTACH)
            self._begun = True
            self.card.signal(norm=wanted.norm, connected=True)
            self.card.clock = wanted.clock
            self._since = self.mark(f"test {name}" if name else "a test begins")

    def end(self) -> None:
        """A test ends: its programs are ended, and what the kernel still has to say is heard.

        :raise GuestError: the guest has died meanwhile.
        """
        try:
            if self.state is not State.OFF:  # which is where a test may have brought it
                self._finish()
        finally:
            self._judged = len(self.complaints)

    def late(self, config: GuestConfig | None = None) -> list[Complaint]:
        """What came since :meth:`end`, and the test does not allow, findings included: each is given once.

        Whatever the test has left running is ended first.

        :param config: of the test that allows it; the last one's by default.
        """
        if self.state is State.SHELL:
            with suppress(GuestError):
                self._finish()
        found, self._judged = self.complaints[self._judged :], len(self.complaints)
        for card in self.cards:
            with suppress(GuestError):
                found += [Complaint.found(verdict) for verdict in card.dma.unseen]
        return [one for one in found if not one.allowed((config or self.config).allow)]

    def _finish(self) -> None:
        with self._asked():
            for process in [each for each in self._processes if each.status is None]:
                process.kill(signal.SIGKILL)
            try:
                self._until(lambda: not self._busy(), _COMMAND, "the test's programs to end")
            except GuestTimeoutError as error:
                for complaint in hanging(self._vm.agent):
                    self.has_complained = True
                    self.complaints.append(complaint)
                self._note_death(error)  # nobody waits for it a second time
                raise
            self.hear_out()

    def hear_out(self) -> None:
        """Wait until everything that the kernel has said by now is known here.

        :raise GuestCrash: it has failed for good.
        """
        with self._asked():
            self.mark("heard")
            end = time.monotonic() + PATIENCE
            while self._vm.watch.pending and time.monotonic() < end:
                self.turn()

    def turn(self) -> None:
        """Let guest and device speak, for a moment.

        :raise GuestError: one of them has died.
        """
        with self._asked() as agent:
            agent.pump(_TURN)

    def wait(
        self, done: Callable[[], bool], timeout: float = _COMMAND, what: str = "what the test waits for"
    ) -> None:
        """Let guest and device speak until ``done()``.

        :raise GuestTimeoutError: after ``timeout`` seconds; ``what`` completes "waited ... s for".
        """
        with self._asked():
            self._until(done, timeout, what)

    # -- the kernel's log

    def mark(self, text: str) -> int:
        """Write a line into the kernel log and wait until it has come back: then all before it has, too.

        :return: its time in microseconds since the guest's boot.
        """
        self._marks += 1
        line = f"vcapdev: mark {self._marks}: {text}"[:200]
        with self._asked() as agent:
            agent.push(f"<7>{line}\n".encode(), "/dev/kmsg")  # for the log alone, not for the console
            self._until(lambda: self._marked(line) is not None, _MARK, "the guest's kernel log")
        return self._marked(line) or 0

    def dmesg(self, *, all_of_it: bool = False) -> str:
        """The kernel log since the test's begin, or since the guest's boot; also of a guest that has died."""
        if self.state is State.SHELL:
            self.mark("dmesg")
        return self.log_text(since=-1 if all_of_it else self._since)

    @property
    def since(self) -> int:
        """Guest time at the test's begin, microseconds since its boot; -1 before the first test."""
        return self._since

    def log_text(self, since: int = -1) -> str:
        """What is known of the kernel log here, from a moment on (microseconds since boot)."""
        if self._opened is None:
            return ""
        watch = self._vm.watch
        last = watch.kmsg.records[-1].usec if watch.kmsg.records else -1
        records = [*watch.kmsg.records, *(one for one in watch.console_log.records if one.usec > last)]
        return "\n".join(
            str(one) for one in records if one.usec >= since and not one.text.startswith("vcapdev: mark ")
        )

    def console(self, last: int = 40) -> str:
        """The last lines of the guest's serial console; also of a guest that has died."""
        if self._opened is None:
            return ""
        return "\n".join(ConsoleTail(self._vm.console_log).last_lines(last))

    @contextmanager
    def expect_complaint(self, *patterns: str) -> Iterator[None]:
        """Within the block the guest's kernel must complain as each of ``patterns`` says; it may die of it.

        Such complaints do not fail the test. Patterns are those of ``@vcapdev.guest(allow=[...])``.

        :raise UsageError: a pattern that is no kind of complaint.
        :raise ViolationError: one did not come.
        """
        wanted = expected(patterns)
        before = len(self.complaints)
        try:
            yield
            if self.state is State.SHELL:
                self.hear_out()
        except GuestCrash:
            if not any(one.matches(wanted) for one in self.complaints[before:]):
                raise
        self.complaints[before:] = unexpected(self.complaints[before:], wanted)
        self.death_expected = self.death_expected or self.state is State.CRASHED

    @property
    def device(self) -> DeviceProcess:
        """The card's process."""
        return self._device

    @property
    def vm(self) -> WatchedVm:
        """QEMU with the guest in it: agent, QMP, process id. What is done with it goes past this object."""
        return self._vm

    def has_device_files(self) -> bool:
        """Whether the driver has made /dev/video0 and /dev/vbi0."""
        with self._asked() as agent:
            return _registered(agent)

    # -- inside

    @property
    def _pair(self) -> GuestPair:
        if self._opened is None:
            self._machine.require(State.SHELL)
            raise GuestError("the guest is off")
        return self._opened.pair

    @property
    def _device(self) -> DeviceProcess:
        return self._pair.device

    @property
    def _vm(self) -> WatchedVm:
        return self._pair.vm

    def _open(self) -> None:
        self._work = self._files.enter_context(workdir("test"))
        self._opened = self._opener(self.config, self._work, self._progress)
        self._vm.survives = self._survived
        self._vm.on_turn = self._at_turn
        self.card.there, self.card.armed = True, None
        self.card.dma.device_begins()
        self._begun = False
        self.has_complained = self.death_expected = False

    def _boot(self) -> None:
        try:
            agent = self._pair.start()
        except GuestCrash as crash:
            if _DRIVER_BEGAN.search(f"{self.log_text()}\n{crash.kernel_log}"):
                raise
            raise BootCrashError(crash) from crash
        agent.wait_for(lambda: _registered(agent), _PROBE, "the driver to find the card")
        self._drivers = Drivers(agent)

    def _close(self) -> None:
        self.card.dma.device_ends()
        opened, self._opened, self._drivers = self._opened, None, None
        self._processes.clear()
        try:
            if opened is not None:
                opened.pair.stop()
        finally:
            self._work = None
            self._files.close()

    def _at_turn(self) -> None:
        """Called at each turn of any wait: hear the card, so that what it tells does not pile up."""
        for event in self._device.events():
            self._heard(event)

    def _heard(self, event: Json) -> None:
        """The card has told something by itself; findings are asked for at the test's end."""

    def _survived(self, crash: GuestCrash) -> bool:
        self._complained(crash)
        return True

    def _complained(self, crash: GuestCrash) -> None:
        self.has_complained = True
        self.complaints.append(Complaint.of(crash))

    @contextmanager
    def _asked(self) -> Iterator[Agent]:
        """Around everything that needs a living guest: its death is noticed, and remembered."""
        self._machine.require(State.SHELL)
        try:
            yield self._vm.agent
        except GuestCrash as crash:
            self._note_death(crash)
            raise
        except GuestError as error:
            if self.state is State.CRASHED:
                raise
            if isinstance(error, AgentGoneError):
                better = self._pair.why_gone(error)
                self._note_death(better)
                raise better from error
            if not self._device.running or self._vm.poll() is not None:
                self._note_death(error)
            raise

    def _note_death(self, error: GuestError) -> None:
        if self.state is not State.CRASHED:
            if isinstance(error, GuestCrash):
                self._complained(error)
            self._machine.died(str(error).rstrip("."))

    def _until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        self._vm.agent.wait_for(done, timeout, what)

    def _busy(self) -> bool:
        self._processes = [process for process in self._processes if process.status is None]
        return bool(self._processes)

    def _marked(self, line: str) -> int | None:
        for record in reversed(self._vm.watch.kmsg.records):
            if record.text == line:
                return record.usec
        return None

    def _loaded(self) -> Drivers:
        if self._drivers is None:
            raise GuestError("the guest is off")
        return self._drivers

    def _exchange(self, wanted: GuestConfig) -> None:
        """The driver that a test wants in the place of the one that is loaded."""
        drivers = self._loaded()
        assert self._opened is not None
        name = wanted.variant
        if name == drivers.current and drivers.loaded and wanted.parameters == self._parameters:
            return
        variant = self._opened.variants(wanted)
        drivers.unload(variant)
        drivers.load(name, variant, wanted.parameters)
        self._parameters = dict(wanted.parameters)


def _registered(agent: Agent) -> bool:
    """Whether the driver has made its last device file."""
    try:
        agent.pull("/sys/class/video4linux/vbi0/dev")
    except AgentError:
        return False
    return True
