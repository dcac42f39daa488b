# SPDX-License-Identifier: GPL-2.0-or-later
"""How a test is judged, and who is to blame: with a guest that plays what it is told, and boots nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vcapdev.errors import ExitStatus, GuestError, InconclusiveError, SetupError, UsageError
from vcapdev.scenario import command, suite
from vcapdev.scenario.model import Test, load, with_modules
from vcapdev.scenario.options import ScenarioOptions
from vcapdev.scenario.play import play, repeat_command
from vcapdev.scenario.results import Results, Status, TestResult, What
from vcapdev.testing import pressure as pressing
from vcapdev.testing.complaints import Complaint
from vcapdev.testing.guest import Result, capture_options
from vcapdev.testing.living import BootCrashError
from vcapdev.testing.states import State
from vcapdev.vm.agent import GuestTimeoutError
from vcapdev.vm.watch import GuestCrash

OOPS = GuestCrash("oops", "Oops: general protection fault", "RIP: 0010:bttv_irq+0x1/0x2 [bttv]\n", fatal=True)


class Dma:
    """What the checker says."""

    looked = False

    def __init__(self) -> None:
        self.unexpected: list[Any] = []
        self.status: dict[str, Any] = {"attached": True, "pages_checked": 500, "writes": 5}
        self.log: list[str] = []

    def peek(self) -> list[Any]:
        return self.unexpected


class Card:
    def __init__(self) -> None:
        self.dma = Dma()
        self.clock = "paced"
        self.there = True
        self.frames = 5

    def settle(self) -> bool:
        return True

    def stats(self) -> dict[str, int]:
        return {"fields": 10, "frames": self.frames, "interrupts": 5}

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        return {"events": []} if command == "timeline" else {"verdicts": []}

    def access_log(self, last: int) -> list[str]:
        return []

    @contextmanager
    def fault(self, name: str, **options: Any) -> Any:
        yield SimpleNamespace(fired=name != "never")


class Guest:
    """Runs commands as ``answer`` says; "true" always works, unless it is dead."""

    def __init__(self, answer: Callable[[str], Result]) -> None:
        self.card, self.complaints, self.state = Card(), [], State.SHELL
        self.config = SimpleNamespace(allow=(), swap="none")
        self.refuses = ""  # a capture, and how
        self.release, self.since, self.log = "6.1.0", -1, ""
        self.has_complained, self.another, self.cards = False, None, [self.card]
        self._answer = answer

    def run(self, words: Any, *, timeout: float = 0, check: bool = False) -> Result:
        if words == ["true"]:
            if self.state is not State.SHELL:
                raise GuestError("dead")
            return Result("true", 0, "", "")
        try:
            return self._answer(words)
        except GuestCrash as crash:
            self.state = State.CRASHED
            self.complaints.append(Complaint.of(crash))
            raise

    def end(self) -> None: ...

    def push(self, local: Path | bytes, remote: str, *, mode: int = 0o644) -> None:
        if isinstance(local, Path) and not local.is_file():
            raise UsageError(f"push: {local} is no file")

    def bring(self, name: str) -> str:
        raise SetupError(f"{name} cannot be fetched")

    def load(self, module: str | Path, **parameters: str) -> None:
        if isinstance(module, Path):
            raise UsageError(f"{module} was built for 6.12.0, the guest is 6.1.0")

    def pressure(self, kind: str, every: str | None = None, **more: int) -> Any:
        words = pressing.command(kind, every, 100, self.config.swap)
        process = SimpleNamespace(status=None, stderr="", stdout="")

        def spawn(_: list[str], line: Callable[[str], None]) -> Any:
            for rounds in (1, 2):
                line(f'{{"event": "progress", "rounds": {rounds}}}')
            line("of no event")
            return process

        process.kill = lambda number: setattr(process, "status", 0)
        counts = iter((100, 140))
        return pressing.Pressure(words, spawn, lambda: None, lambda: next(counts))

    def start_capture(self, frames: int, **options: Any) -> Any:
        capture_options(frames, options)

        def wait(timeout: float | None) -> None:
            raise UsageError(self.refuses)

        return SimpleNamespace(wait=wait, options=SimpleNamespace(save=None))

    def reboot(self) -> None:
        """What came before stays known (tests/testing/test_strays.py)."""

    def dmesg(self) -> str:
        return self.log

    def log_text(self, since: int) -> str:
        return self.log

    def console(self, last: int) -> str:
        return ""


class Keeper:
    def __init__(self, guest: Guest | Exception) -> None:
        self._guest = guest
        self.trusted: bool | None = None
        self.late: list[Complaint] = []

    def lease(self, config: Any, name: str = "") -> Any:
        if isinstance(self._guest, Exception):
            raise self._guest
        return self._guest

    def give_back(self, guest: Any, *, trusted: bool) -> None:
        self.trusted = trusted

    def strays(self) -> list[Complaint]:
        return self.late


def made(directory: Path, text: str) -> Test:
    path = directory / "one.yaml"
    path.write_text(text)
    return load(path).tests(["bookworm-6.1"])[0]


def fine(words: Any) -> Result:
    return Result(str(words), 0, "fine\n", "")


def raising(error: Exception) -> Callable[[Any], Result]:
    def answer(words: Any) -> Result:
        raise error

    return answer


RUN = "title: x\nsteps:\n  - run: something\n"


def played(directory: Path, guest: Guest | Exception, text: str = RUN) -> TestResult:
    return play(made(directory, text), Keeper(guest))  # type: ignore[arg-type]


def test_what_goes_well_passes(tmp_path: Path) -> None:
    """Steps with their times, figures, the command that repeats it."""
    result = played(tmp_path, Guest(fine))
    assert (result.status, result.exit_status, result.release) == (Status.PASS, 0, "6.1.0")
    assert [(step.title, step.status, step.note) for step in result.steps] == [
        ("run something", "pass", "fine")
    ]
    assert result.repeat.endswith("one.yaml -k =one --kernel bookworm-6.1")


def test_a_program_that_cannot_be_fetched_is_no_red_driver(tmp_path: Path) -> None:
    result = played(tmp_path, Guest(fine), "title: x\nsteps:\n  - bring: ffmpeg\n")
    assert (result.status, result.exit_status) == (Status.ERROR, ExitStatus.ENVIRONMENT)
    assert result.message == "ffmpeg cannot be fetched"


@pytest.mark.parametrize("well", [True, False])
def test_pressure_is_on_the_timeline(tmp_path: Path, well: bool) -> None:
    """How long it was on, what it did, and each time that it told of itself; also when a step in it fails."""
    guest = Guest(fine if well else raising(GuestError("it broke")))
    guest.config.swap = "disk"
    text = "title: x\nswap: disk\nsteps:\n  - pressure: pageout\n    steps:\n      - run: something\n"
    result = played(tmp_path, guest, text)
    assert (result.status == Status.PASS) == well
    whole, *told = [event for event in result.timeline if event.track == "pressure"]
    assert (whole.name, whole.detail) == ("pressure pageout", "2 rounds, 40 pages swapped out")
    assert whole.length > 0
    assert [event.name for event in told] == ["progress: rounds 1", "progress: rounds 2"]
    assert all(whole.begin <= event.begin <= whole.begin + whole.length for event in told)


def test_the_command_that_repeats_it_has_its_modules(tmp_path: Path) -> None:
    """Without them the stock driver would be played, and be clean."""
    (tmp_path / "own").mkdir()
    test = with_modules(made(tmp_path, RUN), [tmp_path / "bttv.ko", tmp_path / "own"])
    assert repeat_command(test).endswith(f" --module {tmp_path}/bttv.ko --modules {tmp_path}/own")


@pytest.mark.parametrize(
    ("guest", "status", "exit_status"),
    [
        (SetupError("no disk"), Status.ERROR, ExitStatus.ENVIRONMENT),
        (GuestError("it did not come up"), Status.ERROR, ExitStatus.GUEST),
        (UsageError("no such recipe"), Status.USAGE, ExitStatus.USAGE),
        (ZeroDivisionError("ours"), Status.ERROR, ExitStatus.DEFECT),
        (OOPS, Status.FAIL, 0),
        (BootCrashError(OOPS), Status.ERROR, ExitStatus.GUEST),
    ],
)
def test_without_a_guest_only_its_own_kernel_is_to_blame(
    tmp_path: Path, guest: Exception, status: Status, exit_status: int
) -> None:
    """A machine that lacks something, a guest that does not come up: never a red driver."""
    result = played(tmp_path, guest)
    assert (result.status, result.exit_status) == (status, exit_status)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OOPS, Status.FAIL),
        (GuestTimeoutError("it hangs in the driver"), Status.FAIL),
        (UsageError("push: there is no such file"), Status.USAGE),
        (InconclusiveError("nothing was judged"), Status.ERROR),
        (SetupError("the disk is full"), Status.ERROR),
        (AttributeError("ours"), Status.ERROR),
    ],
)
def test_who_is_to_blame_for_a_step(tmp_path: Path, error: Exception, status: Status) -> None:
    """A driver that hangs, refuses or crashes is red; what says nothing about it is not."""
    result = played(tmp_path, Guest(raising(error)))
    assert result.status == status
    assert result.steps[0].status == Status.FAIL


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("push: {from: nowhere, to: /tmp/x}", "push: .*nowhere is no file"),
        ("pressure: hog\n    steps: [{run: y}]", "needs swap"),
        ("load: x/bttv.ko", "built for 6.12.0"),
        ("load: x/bttv.ko\n    fails: built", "built for 6.12.0"),
        ("capture: {io: mmap, clean: true}", "go with io='userptr'"),
    ],
)
def test_a_wrong_scenario_is_no_red_driver(tmp_path: Path, steps: str, said: str) -> None:
    """What its author got wrong is wrong usage (exit 2) with a status of its own, of a control, too."""
    text = f"title: x\nsteps:\n  - {steps}\n"
    for more in ("", "variants: {control: {red: x}}\n"):
        result = played(tmp_path, Guest(fine), text + more)
        assert (result.status, result.exit_status) == (Status.USAGE, ExitStatus.USAGE)
        assert [failure.what for failure in result.failures] == [What.USAGE]
        assert re.search(said, result.message)
        assert Results([result, *results("pass", "error")]).exit_status() == ExitStatus.USAGE
        assert Results([result, *results("fail")]).exit_status() == ExitStatus.FINDINGS


def test_a_driver_that_refuses_a_capture_is_red(tmp_path: Path) -> None:
    """The reader has checked what can be asked for; that the driver will not is the driver's."""
    guest = Guest(fine)
    guest.refuses = "capture: 768x576 is no size of this driver"
    text = "title: x\nsteps:\n  - capture: {frames: 3}\n"
    result = played(tmp_path, guest, text)
    assert (result.status, result.failures[0].what) == (Status.FAIL, What.STEP)
    assert "the driver refuses it: capture: 768x576" in result.message


UNATTACHED = {"attached": False, "why_not": "no symbols", "pages_checked": 0, "writes": 0}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({**UNATTACHED, "unchecked_writes": 5}, "nothing was checked: no symbols"),
        (UNATTACHED, "nothing was checked: no symbols"),
        ({"attached": True, "pages_checked": 0, "writes": 0}, "only 0 pages were judged"),
        (
            {"attached": True, "pages_checked": 500, "writes": 5, "unchecked_writes": 2},
            "2 of the card's writes",
        ),
    ],
)
@pytest.mark.parametrize("expect", ["", "expect: {pages: 0}\n", "expect: {verdicts: any}\n"])
@pytest.mark.parametrize("second", [False, True])
def test_frames_that_nobody_judged_prove_nothing(
    tmp_path: Path, status: dict[str, Any], said: str, expect: str, second: bool
) -> None:
    """However the captures end, and on either card: where it wrote, its checker must have looked."""
    guest = Guest(fine)
    card = guest.card
    if second:
        card = Card()
        guest.another = SimpleNamespace(card=card)
    card.dma.status = status
    card.frames = 0
    guest._answer = lambda words: (setattr(card, "frames", 7), fine(words))[1]
    result = played(tmp_path, guest, RUN + expect)
    assert (result.status, result.exit_status) == (Status.ERROR, ExitStatus.GUEST)
    assert said in result.message
    assert result.message.startswith("the second card's checker: ") is second


def test_writes_that_nobody_can_judge(tmp_path: Path) -> None:
    """A scenario can say so; then the others must have been judged all the same."""
    guest = Guest(fine)
    guest.card.dma.status["unchecked_writes"] = 2
    assert played(tmp_path, guest, RUN + "expect: {unjudged: true}\n").status == Status.PASS
    guest.card.dma.status["pages_checked"] = 0
    assert played(tmp_path, guest, RUN + "expect: {unjudged: true}\n").status == Status.ERROR


def test_the_second_card_is_held_to_the_pages_too(tmp_path: Path) -> None:
    """Each that sent frames; and both are in the figures."""
    guest = Guest(fine)
    guest.another = SimpleNamespace(card=Card())
    result = played(tmp_path, guest, RUN + "expect: {pages: 400}\n")
    assert (result.status, result.figures["pages judged, second card"]) == (Status.PASS, 500)
    guest.another.card.dma.status["pages_checked"] = 399
    result = played(tmp_path, guest, RUN + "expect: {pages: 400}\n")
    assert (result.status, result.message) == (
        Status.ERROR,
        "the second card's checker: only 399 pages were judged, 400 are asked for",
    )


def test_a_card_that_wrote_nothing_need_not_be_judged(tmp_path: Path) -> None:
    """A scenario of commands alone passes without a checker."""
    guest = Guest(fine)
    guest.card.dma.status = UNATTACHED
    assert played(tmp_path, guest).status == Status.PASS


def test_what_comes_after_a_test_was_judged_is_its_failure_too(tmp_path: Path) -> None:
    keeper = Keeper(Guest(fine))
    keeper.late = [Complaint.of(OOPS)]
    result = play(made(tmp_path, RUN), keeper)  # type: ignore[arg-type]
    assert (result.status, [one.what for one in result.failures]) == (Status.FAIL, [What.KERNEL])
    assert result.failures[0].text.startswith(
        "after the test was judged: the guest's kernel complained (oops)"
    )
    keeper.late = [Complaint.found(verdict("not-pinned"))]  # type: ignore[arg-type]
    for expect, whats in (("", [What.VERDICT]), ("expect: {also: not-pinned}\n", [])):
        result = play(made(tmp_path, RUN + expect), keeper)  # type: ignore[arg-type]
        assert [one.what for one in result.failures] == whats


def test_a_reboot_forgets_no_finding(tmp_path: Path) -> None:
    """The new guest and its checker begin anew; what the old ones said counts all the same, and once."""
    text = "title: x\nsteps:\n  - run: y\n  - reboot: true\n"
    guest = Guest(fine)
    guest.card.dma.unexpected = [verdict("not-pinned")]
    result = played(tmp_path, guest, text)
    assert (result.status, [one.what for one in result.failures]) == (Status.FAIL, [What.VERDICT])
    guest = Guest(fine)
    guest.complaints.append(Complaint.of(OOPS))
    result = played(tmp_path, guest, text)
    assert (result.status, [one.what for one in result.failures]) == (Status.FAIL, [What.KERNEL])


def test_a_guest_that_answers_no_more_is_no_red_driver(tmp_path: Path) -> None:
    """QEMU or the device process died: the guest is gone, and its kernel said nothing."""
    guest = Guest(fine)

    def die(words: Any) -> Result:
        guest.state = State.CRASHED
        raise GuestError("the device process was killed by SIGKILL")

    guest._answer = die
    assert played(tmp_path, guest).status == Status.ERROR


def test_programs_that_do_not_end_prove_nothing(tmp_path: Path) -> None:
    """The guest is of no use any more. (What hangs in the kernel is told as a complaint, and so is red.)"""
    guest = Guest(fine)

    def end() -> None:
        guest.state = State.CRASHED
        raise GuestTimeoutError("waited 60 s for the test's programs to end")

    guest.end = end  # type: ignore[method-assign]
    result = played(tmp_path, guest)
    assert (result.status, result.exit_status) == (Status.ERROR, ExitStatus.GUEST)
    assert "programs to end" in result.failures[0].text


def test_an_oops_is_known_by_its_function(tmp_path: Path) -> None:
    """Two faults of one sort in two functions are two findings."""
    result = played(tmp_path, Guest(raising(OOPS)))
    assert [failure.key for failure in result.failures] == [
        "kernel: oops: Oops: general protection fault in bttv_irq [bttv]"
    ]


def verdict(rule: str) -> SimpleNamespace:
    return SimpleNamespace(rule=rule, splat=f"vcapdev: {rule} (V0): a page\nmore", count=1)


@pytest.mark.parametrize(
    ("expect", "rules", "status"),
    [
        ("", [], Status.PASS),
        ("", ["not-pinned"], Status.FAIL),
        ("expect: {verdicts: any}\n", ["not-pinned"], Status.PASS),
        ("expect: {also: not-pinned}\n", ["not-pinned"], Status.PASS),
        ("expect: {verdicts: [not-pinned]}\n", ["not-pinned"], Status.PASS),
        ("expect: {verdicts: [not-pinned]}\n", [], Status.FAIL),
        ("expect: {pages: 501}\n", [], Status.ERROR),
        ("expect: {pages: 500}\n", [], Status.PASS),
        ("expect: {kernel-log: {has: timeout}}\n", [], Status.FAIL),
    ],
)
def test_what_must_have_come_of_it(tmp_path: Path, expect: str, rules: list[str], status: Status) -> None:
    """Findings, pages, kernel log. Too few pages prove nothing: no pass, and not red either."""
    guest = Guest(fine)
    guest.card.dma.unexpected = [verdict(rule) for rule in rules]
    assert played(tmp_path, guest, RUN + expect).status == status


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (lambda words: Result("", 2, "", "bad lines"), Status.PASS, "red, as it must be"),
        (lambda words: Result("", 3, "", "no card"), Status.FAIL, "it is red, but not for 'bad lines'"),
        (fine, Status.FAIL, "it had to be red"),
        (raising(SetupError("full")), Status.ERROR, "full"),
    ],
)
def test_a_control_has_to_be_red_for_its_reason(
    tmp_path: Path, answer: Callable[[Any], Result], status: Status, said: str
) -> None:
    """A scenario that does not see its fault is red; infrastructure proves nothing either way."""
    result = played(tmp_path, Guest(answer), RUN + "variants: {reverted: {red: bad lines}}\n")
    assert result.status == status
    assert said in result.message


def test_a_fault_whose_point_never_came_proves_nothing(tmp_path: Path) -> None:
    """Unless the scenario says that it does not matter."""
    text = "title: x\nsteps:\n  - fault: {name: never}\n    steps: [{run: y}]\n"
    assert played(tmp_path, Guest(fine), text).status == Status.FAIL
    assert played(tmp_path, Guest(fine), text + "    must: false\n").status == Status.PASS


def test_tests_of_a_program_are_tests_of_the_scenario(tmp_path: Path) -> None:
    """KTAP that comes out of a command is nested, and what failed there is a failure here."""
    text = "title: x\nsteps:\n  - run: prog\n    ktap: true\n"

    def of(output: str) -> TestResult:
        return played(tmp_path, Guest(lambda words: Result("", 1, output, "")), text)

    good = of("KTAP version 1\n1..1\nok 1 a\n")
    assert (good.status, good.subtests[0].subtests[0].name) == (Status.PASS, "a")
    bad = of("KTAP version 1\n1..2\nok 1 a\nnot ok 2 b\n")
    assert (bad.status, [failure.key for failure in bad.failures]) == (Status.FAIL, ["subtest: b:"])
    assert of("nothing of the kind").status == Status.FAIL


# -- the command


def results(*statuses: str) -> list[TestResult]:
    return [
        TestResult(f"t{n}", "k", status=s, exit_status=30 * (s == "error")) for n, s in enumerate(statuses)
    ]


@pytest.mark.parametrize(
    ("statuses", "plain", "bisect"),
    [
        (("pass",), 0, 0),
        (("pass", "skip"), 0, 0),
        (("skip",), 0, 125),
        (("fail", "pass"), 10, 1),
        (("pass", "error"), 30, 125),
        (("fail", "error"), 10, 1),
    ],
)
def test_exit_statuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statuses: tuple[str, ...], plain: int, bisect: int
) -> None:
    """Of the project, and those that git bisect run understands: what proves nothing is skipped."""
    (tmp_path / "one.yaml").write_text(RUN)
    monkeypatch.setattr(suite, "run", lambda tests, options, told: results(*statuses))
    options = ScenarioOptions(files=(tmp_path,))
    assert command.run(options) == plain
    assert command.run(ScenarioOptions(files=(tmp_path,), exit_bisect=True)) == bisect


def test_shards_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files of --json come back as one, with all outputs of a whole run."""
    files = []
    for number, status in enumerate(("pass", "fail"), 1):
        files.append(tmp_path / f"{number}.json")
        test = TestResult(f"t{number}", "k", status=status, message="why")
        files[-1].write_text(json.dumps(Results([test]).to_json()))
    options = ScenarioOptions(
        files=tuple(files), merge=True, junit=tmp_path / "all.xml", ktap=tmp_path / "all.ktap"
    )
    assert command.run(options) == ExitStatus.FINDINGS
    assert "2 tests: 1 pass, 1 fail" in capsys.readouterr().out
    assert 'tests="2" failures="1"' in (tmp_path / "all.xml").read_text()
    assert (tmp_path / "all.ktap").read_text().startswith("KTAP version 1\n1..2\n")
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(UsageError, match="no results of vcapdev scenario"):
        command.run(ScenarioOptions(files=(tmp_path / "x.json",), merge=True))


def test_an_output_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the old file, and one line."""
    path = tmp_path / "out.xml"
    path.write_text("old")

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SetupError, match="No space left on device"):
        command.write(path, "new", "junit")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_workers_play_what_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, no guest for want of packages; what is for another kernel is skipped. Each told once."""
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VCAPDEV_OFFLINE", "1")
    for name, more in (("a", ""), ("b", "kernel: trixie-*\n"), ("c", ""), ("d", "memory: 512M\n")):
        (tmp_path / f"{name}.yaml").write_text(RUN + more)
    tests = suite.selected(ScenarioOptions(files=(tmp_path,), kernels=("bookworm-6.1",)))
    told: list[str] = []
    found = suite.run(tests, ScenarioOptions(jobs=2), lambda result: told.append(result.id))
    assert [one.id for one in found] == [test.id for test in tests]
    assert sorted(told) == sorted(test.id for test in tests)
    lacking = (Status.ERROR, ExitStatus.ENVIRONMENT)
    assert [(one.status, one.exit_status) for one in found] == [lacking, (Status.SKIP, 0), lacking, lacking]


def test_a_worker_that_dies_is_infrastructure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its test says nothing about the driver; the others are played by new ones."""
    (tmp_path / "a.yaml").write_text(RUN)
    (tmp_path / "b.yaml").write_text(RUN)
    tests = suite.selected(ScenarioOptions(files=(tmp_path,)))
    start = subprocess.Popen

    def broken(words: Any, **options: Any) -> Any:
        return start([sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(7)"], **options)

    monkeypatch.setattr(suite.subprocess, "Popen", broken)
    found = suite.run(tests, ScenarioOptions(jobs=2), lambda result: None)
    assert [(one.status, one.exit_status) for one in found] == [(Status.ERROR, 30)] * 2
