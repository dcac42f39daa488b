# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev run --shell``: a person has the terminal; findings come between its lines, and count."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vcapdev.errors import ExitStatus, GuestError, InconclusiveError
from vcapdev.run import shell
from vcapdev.run.command import run
from vcapdev.run.options import RunOptions
from vcapdev.run.screen import Screen
from vcapdev.run.shell import interact
from vcapdev.vm.agent import AgentGoneError
from vcapdev.vm.console import ConsoleTail
from vcapdev.vm.kernel_log import parse_console
from vcapdev.vm.watch import CrashWatch, GuestCrash


class Interactive:
    """A session whose guest ends after some turns with ``status``, and whose card finds ``verdicts``."""

    def __init__(
        self, status: int = 0, verdicts: tuple[str, ...] = (), gone: str = "", **checker: Any
    ) -> None:
        self._checker = {"pages_checked": 42, **checker}
        self.did: list[str] = []
        self.shown = io.StringIO()
        self.screen = Screen(self.shown)
        self._status, self._verdicts, self._gone = status, list(verdicts), gone
        self._turns = 3
        self.debugger = self.device = self.vm = self.agent = self
        self.watch = CrashWatch(ConsoleTail(Path("/nonexistent")))

    def booting(self) -> None:
        self.did.append("gdb")

    def start(self) -> None:
        self.did.append("start")

    def hail(self) -> None:
        self.did.append("hail")

    def pump(self, _timeout: float) -> None:
        pass

    def console(self, *lines: str) -> Interactive:
        """What stands on the screen of the guest."""
        for number, line in enumerate(lines):
            record = parse_console(f"[{number:5d}.000000] {line}")
            assert record is not None
            self.watch.console_log.feed(record)
        return self

    def poll(self) -> int | None:
        self._turns -= 1
        return self._status if self._turns < 0 else None

    def show_events(self) -> None:
        self.did.append("look")
        if self._gone:
            raise GuestError(self._gone)

    def call(self, name: str) -> dict[str, Any]:
        assert "stop" not in self.did, "a device that has ended answers nothing"
        return {"verdicts": {"verdicts": self._verdicts}, "check-status": self._checker}[name]

    def stop(self) -> None:
        self.did.append("stop")

    def qemu_complaint(self) -> str:
        return "no such machine"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_TURN", 0.0)


def test_an_hour_without_findings_is_clean() -> None:
    """Device before QEMU, which connects to it; findings are looked for in each turn; all is ended."""
    session: Any = Interactive()
    assert interact(session) is ExitStatus.CLEAN
    assert session.did == ["gdb", "start", "start", "hail", "look", "look", "look", "stop"]
    said = session.shown.getvalue()
    assert "leave it with 'exit'" in said.splitlines()[0]
    assert "42 pages checked, no findings" in said


@pytest.mark.parametrize("status", [0, 1])
def test_findings_win_over_how_qemu_ended(status: int) -> None:
    session: Any = Interactive(status, ("not-pinned", "free-page"))
    assert interact(session) is ExitStatus.FINDINGS
    assert "42 pages checked, 2 findings, see above" in session.shown.getvalue()


def test_a_qemu_that_fails_says_why() -> None:
    session: Any = Interactive(1)
    with pytest.raises(GuestError, match=r"^QEMU ended with status 1: no such machine$"):
        interact(session)
    assert session.did[-1] == "stop"


def test_what_nobody_could_judge_is_not_clean() -> None:
    session: Any = Interactive(unchecked_writes=500, why_not="no vmcoreinfo")
    with pytest.raises(InconclusiveError, match=r"^500 of the card's writes .*: no vmcoreinfo$"):
        interact(session)
    found: Any = Interactive(verdicts=("not-pinned",), unchecked_writes=500)
    assert interact(found) is ExitStatus.FINDINGS


PANIC = "Kernel panic - not syncing: Fatal exception"


def test_a_panic_is_not_clean_and_findings_before_it_win() -> None:
    """Only the console could still tell of it; QEMU itself ends as it does when a guest is switched off."""
    session: Any = Interactive().console("BUG: kernel NULL pointer dereference", PANIC)
    session.watch.stopped = "reset"
    with pytest.raises(GuestError, match=r"^the guest's kernel failed \(oops\): BUG: kernel NULL pointer"):
        interact(session)
    found: Any = Interactive(verdicts=("free-page",)).console(PANIC)
    found.watch.stopped = "reset"
    assert interact(found) is ExitStatus.FINDINGS
    assert f"(panic): {PANIC}" in found.shown.getvalue()


def test_a_warning_in_the_midst_is_not_clean() -> None:
    session: Any = Interactive()
    session.watch.stopped = "shutdown"
    session.watch.feed_kmsg(b"4,1,5000000,-;WARNING: CPU: 0 PID: 7 at mm/gup.c:73 x\n")
    with pytest.raises(GuestError, match=r"\(warning\): .* mm/gup\.c:73"):
        interact(session)


def test_an_old_log_on_the_screen_is_no_failure() -> None:
    session: Any = Interactive().console(PANIC)
    session.watch.stopped = "shutdown"
    assert interact(session) is ExitStatus.CLEAN


def test_a_reset_is_a_failure_unless_somebody_asked_for_it() -> None:
    session: Any = Interactive().console("bttv: driver version 0.9.19 loaded")
    session.watch.stopped = "reset"
    with pytest.raises(GuestError, match=r"\(reset\): it rebooted by itself$"):
        interact(session)
    asked: Any = Interactive().console("reboot: Restarting system")
    asked.watch.stopped = "reset"
    assert interact(asked) is ExitStatus.CLEAN


@pytest.mark.parametrize(
    "error", [AgentGoneError("QEMU closed it"), GuestCrash("oops", "x", "", fatal=False)]
)
def test_what_ends_other_waits_does_not_end_this_one(error: GuestError) -> None:
    """A person may want to look around in a guest whose kernel has complained."""
    session: Any = Interactive()
    session.pump = raising(error)
    assert interact(session) is ExitStatus.CLEAN
    assert session.did.count("look") == 3


def test_a_failure_of_ours_in_the_midst_ends_it() -> None:
    session: Any = Interactive()
    session.pump = raising(GuestError("the device process was killed by SIGKILL"))
    with pytest.raises(GuestError, match="killed by SIGKILL"):
        interact(session)


def raising(error: Exception) -> Callable[[float], None]:
    def pump(_timeout: float) -> None:
        raise error

    return pump


def test_a_defect_of_the_checker_is_told() -> None:
    session: Any = Interactive(defects=["IndexError: 5"])
    assert interact(session) is ExitStatus.DEFECT
    assert "IndexError: 5" in session.shown.getvalue()


def test_a_device_that_dies_ends_it() -> None:
    session: Any = Interactive(gone="the device process was killed by SIGKILL")
    with pytest.raises(GuestError, match="killed by SIGKILL"):
        interact(session)


def test_run_with_shell_hands_over_and_captures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands are shown first where that is asked for, too."""
    from test_prepare import Seams

    from vcapdev.run import command

    Seams(monkeypatch)
    handed: list[RunOptions] = []

    def take(session: Any) -> ExitStatus:
        handed.append(session.options)
        return ExitStatus.FINDINGS

    def never(_session: Any) -> ExitStatus:
        raise AssertionError("a capture, though a person asked for the terminal")

    monkeypatch.setattr(command, "interact", take)
    monkeypatch.setattr(command, "finish", never)
    assert run(RunOptions(shell=True, show=True)) is ExitStatus.FINDINGS
    assert [options.shell for options in handed] == [True]
    assert "vcap.shell" in capsys.readouterr().err, "the guest's init is told"
