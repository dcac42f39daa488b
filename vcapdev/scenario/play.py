# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays one test in a guest, and judges: whatever happens ends in a result, never in an exception.

What says nothing about the driver is told apart: a machine that lacks something, a guest that does not come
up, a dead QEMU or device process, a checker that cannot look; and a scenario that asks for what there is not.
Everything else that is not as expected is red.
"""

from __future__ import annotations

import re
import shlex
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vcapdev.errors import (
    ExitStatus,
    GuestError,
    InconclusiveError,
    UsageError,
    VcapdevError,
    ViolationError,
)
from vcapdev.scenario import checks
from vcapdev.scenario.language import Step
from vcapdev.scenario.model import Test
from vcapdev.scenario.plain import line
from vcapdev.scenario.results import Failure, Status, TestResult, What, all_subtests, key_of
from vcapdev.scenario.steps import Player, StepError
from vcapdev.scenario.timeline import collect, record, thinned
from vcapdev.testing import judge
from vcapdev.testing.complaints import Complaint
from vcapdev.testing.config import GuestConfig
from vcapdev.testing.guest import Guest
from vcapdev.testing.keeper import Keeper
from vcapdev.testing.living import BootCrashError
from vcapdev.testing.states import State
from vcapdev.vm.watch import GuestCrash

Json = dict[str, Any]

_FIGURES = {"pages_checked": "pages judged", "writes": "DMA writes", "distinct_pages": "distinct pages"}
_COUNTERS = ("fields", "frames", "interrupts", "handshake_timeouts", "late_fields", "lost_fields")
_MOST_EVENTS = 1000  # of each track of the timeline of a test that is not red
_MOST_TEXT = 200_000  # characters of an attachment

_RIP = re.compile(r"RIP: [0-9a-f]+:([A-Za-z_][\w.]*)\+0x\S+( \[\w+\])?")


@dataclass(frozen=True)
class Settings:
    """How tests are played.

    :ivar record: baselines are written anew.
    :ivar cold: guests are booted, not restored.
    """

    record: bool = False
    cold: bool = False
    qemu_opts: tuple[str, ...] = ()


def play(test: Test, keeper: Keeper, settings: Settings | None = None) -> TestResult:
    """One test, start to end."""
    settings = settings or Settings()
    if test.skip:
        return skipped(test)
    result = TestResult(test.name, test.kernel, test.title, str(test.file), repeat=repeat_command(test))
    begin = time.monotonic()
    try:
        guest = keeper.lease(_config(test, settings), test.id)
    except Exception as error:
        _no_guest(result, error)
    else:
        _Run(test, guest, settings, result).run()
        keeper.give_back(guest, trusted=not judge.spoilt(guest))
        _late(test, keeper.strays(), result)
    result.seconds = round(time.monotonic() - begin, 3)
    _conclude(test, result)
    return result


def skipped(test: Test) -> TestResult:
    """One that cannot be played on its kernel."""
    told = Status.SKIP, test.skip
    return TestResult(test.name, test.kernel, test.title, str(test.file), *told, repeat=repeat_command(test))


def last_words(test: Test, keeper: Keeper, result: TestResult) -> None:
    """No test comes after this one: all guests end now, and what they still say is its failure."""
    keeper.close()
    strays = keeper.strays()
    if strays and not (test.red is not None and result.status == Status.PASS):
        _late(test, strays, result)
        _conclude(test, result)


def _late(test: Test, strays: Sequence[Complaint], result: TestResult) -> None:
    """What came after the test was judged is its failure, too; findings by what it expects of them."""
    expect = test.expect
    for one in strays:
        if one.finding and (expect.verdicts is None or one.kind in (*expect.verdicts, *expect.also)):
            continue
        text = f"after the test was judged: {replace(one, early=False).told}"
        what = What.VERDICT if one.finding else What.KERNEL
        key = (
            f"verdict: {line(one.title, 190)}" if one.finding else _kernel_key(one.kind, one.title, one.text)
        )
        result.failures.append(Failure(what, key, text))


def _config(test: Test, settings: Settings) -> GuestConfig:
    config = test.config()
    return replace(
        config, cold=config.cold or settings.cold, qemu_opts=(*config.qemu_opts, *settings.qemu_opts)
    )


def repeat_command(test: Test) -> str:
    """The one command that plays it again."""
    words = ["vcapdev", "scenario", str(test.file), "-k", f"={test.name}", "--kernel", test.kernel]
    for name in test.options.get("modules", ()):
        words += ["--modules" if Path(name).is_dir() else "--module", str(Path(name).absolute())]
    return shlex.join(words)


def _no_guest(result: TestResult, error: Exception) -> None:
    """There is no guest: only a crash of its kernel is the driver's, and not one before the driver's time."""
    if isinstance(error, GuestCrash):
        text = f"before the test began ({error.kind}): {error.title}\n{error.kernel_log}"
        key = _kernel_key(error.kind, error.title, error.kernel_log)
        result.failures.append(Failure(What.KERNEL, key, text))
        return
    if isinstance(error, BootCrashError):
        result.texts.append(["guest kernel log", error.kernel_log[-_MOST_TEXT:]])
    _trouble(result, error)


def _kernel_key(kind: str, title: str, text: str) -> str:
    """What was complained about, and in which function: faults of one sort differ in nothing else."""
    found = _RIP.search(text)
    where = f" in {found[1]}{found[2] or ''}" if found and found[1] not in title else ""
    return key_of(What.KERNEL, f"{kind}: {title}{where}")


def _trouble(result: TestResult, error: BaseException) -> None:
    """Infrastructure, or a wrong scenario, with the status that it has everywhere."""
    text = str(error) or type(error).__name__
    status = error.exit_status if isinstance(error, VcapdevError) else ExitStatus.DEFECT
    what = What.USAGE if status == ExitStatus.USAGE else What.INFRASTRUCTURE
    if status == ExitStatus.DEFECT:
        result.texts.append(["traceback", "".join(traceback.format_exception(error))])
        text = f"a defect of vcapdev: {type(error).__name__}: {error}"
    result.exit_status = int(status)
    result.failures.append(Failure(what, key_of(what, text), text))


class _Run:
    """One test in its guest."""

    def __init__(self, test: Test, guest: Guest, settings: Settings, result: TestResult) -> None:
        self._test, self._guest, self._result = test, guest, result
        self._player = Player(guest, test.file, test.kernel, record=settings.record)
        self._player.before_reboot = self._rebooting
        self._counters = self._stats()

    def run(self) -> None:
        """Steps, judgement, evidence."""
        result, guest = self._result, self._guest
        with suppress(GuestError):
            result.release = guest.release
        record(guest)
        try:
            self._player.play(self._test.steps)
        except Exception as error:
            self._failed(error)
        result.steps, result.subtests = self._player.steps, self._player.subtests
        result.pictures = self._player.photos.pictures
        try:
            self._judge()
        except Exception as error:
            self._failed(error)
        self._figures()
        result.timeline = collect(guest, self._player.pressed)
        if not result.failures:
            result.timeline = thinned(result.timeline, _MOST_EVENTS)
        if result.failures:
            result.texts += [
                [title, text[-_MOST_TEXT:]] for title, text in judge.sections(guest) if title != "findings"
            ]

    def _add(self, what: What, text: str, key: str = "") -> None:
        self._result.failures.append(Failure(what, key or key_of(what, text), text))

    def _failed(self, error: Exception) -> None:
        """What a step, or the judgement, ended with."""
        if isinstance(error, GuestCrash) or (self._guest.state is State.CRASHED and self._guest.complaints):
            return  # the complaint itself is told below
        if isinstance(error, StepError | ViolationError):
            self._add(What.STEP, str(error))
        elif isinstance(error, UsageError):
            _trouble(self._result, UsageError(f"{self._where()}: {error}"))
        elif self._infrastructure(error):
            _trouble(self._result, error)
        else:
            self._add(What.STEP, f"{self._where()}: {error}")

    def _where(self) -> str:
        failed = [step.title for step in self._player.steps if step.status == Status.FAIL]
        return failed[-1] if failed else "at the end"

    def _infrastructure(self, error: Exception) -> bool:
        if not isinstance(error, GuestError):
            return True  # SetupError, or a defect
        if isinstance(error, InconclusiveError) or self._guest.state is State.CRASHED:
            return True
        try:
            return not self._guest.run(["true"], timeout=60).ok
        except GuestError:
            return True

    def _judge(self) -> None:
        test, guest = self._test, self._guest
        lived = guest.state is State.SHELL
        try:
            guest.end()
        except GuestError as error:
            if lived:
                self._failed(error)
        self._complaints()
        self._findings()
        log = checks.of_log(guest.dmesg(), test.expect.log_has, test.expect.log_lacks)
        for text in log:
            self._add(What.EXPECTATION, text)
        for one in self._result.subtests:
            for each in all_subtests([one]):
                if each.status == Status.FAIL and not each.subtests:
                    self._add(What.SUBTEST, f"{each.name}: {each.message}")
        if guest.state is State.SHELL and not self._result.failures:
            self._enough()

    def _complaints(self) -> None:
        for one in self._guest.complaints:
            if not one.allowed(self._guest.config.allow):
                self._add(What.KERNEL, one.told, _kernel_key(one.kind, one.title, one.text))

    def _rebooting(self) -> None:
        """The guest is about to be rebooted: its card counts anew."""
        self._counters = {}

    def _findings(self) -> None:
        expect, guest = self._test.expect, self._guest
        if guest.state is State.SHELL:
            guest.card.settle()
        verdicts = guest.card.dma.unexpected
        if guest.another is not None and guest.state is State.SHELL:
            guest.another.card.settle()
            verdicts += guest.another.card.dma.unexpected
        verdicts = [one for one in verdicts if one.rule not in guest.config.allow]
        self._result.splats = [one.splat for one in verdicts]
        if expect.verdicts is None:
            return
        allowed = {*expect.verdicts, *expect.also}
        for verdict in verdicts:
            if verdict.rule not in allowed:
                first = verdict.splat.partition("\n")[0]
                self._add(What.VERDICT, verdict.splat.rstrip(), f"verdict: {line(first, 190)}")
        came = {verdict.rule for verdict in verdicts}
        for rule in expect.verdicts:
            if rule not in came:
                self._add(What.EXPECTATION, f"the rule {rule} had to be violated, and was not")

    def _enough(self) -> None:
        """Nothing is wrong, so far as was looked: was it enough?"""
        captured = self._player.captured and not _expects_trouble(self._test.steps)
        asked = self._test.expect.pages
        moved = self._stats().get("frames", 0) > self._counters.get("frames", 0)
        unjudged = self._test.expect.unjudged
        enough(self._guest.card.dma.status, moved, int(captured) if asked is None else asked, unjudged)
        if self._guest.another is not None:
            card = self._guest.another.card
            moved = bool(card.stats().get("frames"))
            enough(
                card.dma.status, moved, asked or 0 if moved else 0, unjudged, "the second card's checker: "
            )

    def _stats(self) -> dict[str, int]:
        with suppress(GuestError):
            stats = self._guest.card.stats()
            return {name: int(stats[name]) for name in _COUNTERS if name in stats}
        return {}

    def _figures(self) -> None:
        figures = self._result.figures
        with suppress(GuestError):
            status = self._guest.card.dma.status
            figures |= {told: int(status[name]) for name, told in _FIGURES.items() if name in status}
        after = self._stats()
        figures |= {name: after[name] - self._counters.get(name, 0) for name in after}
        if self._guest.another is not None:
            with suppress(GuestError):
                status = self._guest.another.card.dma.status
                told = {name: f"{text}, second card" for name, text in _FIGURES.items()}
                figures |= {text: int(status[name]) for name, text in told.items() if name in status}


def enough(status: Json, moved: bool, wanted: int, unjudged: bool = False, whose: str = "") -> None:
    """Whether what a checker has looked at proves anything.

    :param moved: whether the card wrote frames into memory, as the card itself has it.
    :param wanted: pages that must have been judged.
    :param unjudged: whether the scenario knows that some writes cannot be judged.
    :raise InconclusiveError: it does not.
    """
    judged, unchecked = int(status.get("pages_checked", 0)), int(status.get("unchecked_writes", 0))
    if status.get("defects"):
        raise RuntimeError(f"{whose}{status['defects'][0]}")
    if moved or unchecked or status.get("writes"):
        wanted = max(wanted, 1)
    if wanted and not status.get("attached"):
        raise InconclusiveError(
            f"{whose}nothing was checked: {status.get('why_not') or 'no reason is known'}"
        )
    if judged < wanted:
        raise InconclusiveError(f"{whose}only {judged} pages were judged, {wanted} are asked for")
    if unchecked and not unjudged:
        raise InconclusiveError(f"{whose}{unchecked} of the card's writes could not be checked")


def _expects_trouble(steps: tuple[Step, ...]) -> bool:
    """Whether all captures may end as they like; then it is no wonder when nothing was judged."""
    found = [step for step in _flat(steps) if step.verb == "capture"]
    return all(
        step.more.get("expect", {}).get("ends") == "any" or "failure" in step.more.get("expect", {})
        for step in found
    )


def _flat(steps: tuple[Step, ...]) -> list[Step]:
    found: list[Step] = []
    for step in steps:
        found += [step, *_flat(step.steps)]
        if step.verb == "meanwhile":
            found += _flat(step.value)
    return found


def _conclude(test: Test, result: TestResult) -> None:
    """From failures to a status. Of a control ("red") the right failure is what passes."""
    failures = [one for one in result.failures if one.what not in (What.INFRASTRUCTURE, What.USAGE)]
    if failures:
        result.status, result.message = Status.FAIL, failures[0].message
    elif result.failures:
        first = result.failures[0]
        result.status = Status.USAGE if first.what == What.USAGE else Status.ERROR
        result.message = first.message
        return
    if test.red is None:
        return
    hits = [one for one in failures if re.search(test.red, one.text)]
    if hits:
        result.status, result.message = Status.PASS, f"red, as it must be: {line(hits[0].message, 200)}"
        result.failures = []
    elif result.status == Status.FAIL:
        result.message = f"it is red, but not for {test.red!r}: {result.message}"
    else:
        text = f"it had to be red ({test.red!r}), and is not: the scenario does not see this fault"
        result.failures.append(Failure(What.EXPECTATION, key_of(What.EXPECTATION, text), text))
        result.status, result.message = Status.FAIL, text
