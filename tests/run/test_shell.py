# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev run --shell``: a person has the terminal; findings come between its lines, and count."""

from __future__ import annotations

import io
from typing import Any

import pytest

from vcapdev.errors import ExitStatus, GuestError, InconclusiveError
from vcapdev.run import shell
from vcapdev.run.command import run
from vcapdev.run.options import RunOptions
from vcapdev.run.screen import Screen
from vcapdev.run.shell import interact


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
        self.debugger = self.device = self.vm = self

    def booting(self) -> None:
        self.did.append("gdb")

    def start(self) -> None:
        self.did.append("start")

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
    assert session.did == ["gdb", "start", "start", "look", "look", "look", "stop"]
    said = session.shown.getvalue()
    assert "leave it with 'exit'" in said.splitlines()[0]
    assert "42 pages checked, no findings" in said


@pytest.mark.parametrize("status", [0, 1])
def test_findings_win_over_how_qemu_ended(status: int) -> None:
    session: Any = Interactive(status, ("not-pinned", "free-page"))
    assert interact(session) is ExitStatus.FINDINGS
    assert "42 pages checked, 2 finding(s), see above" in session.shown.getvalue()


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


def test_a_defect_of_the_checker_is_told() -> None:
    session: Any = Interactive(defects=["IndexError: 5"])
    assert interact(session) is ExitStatus.DEFECT
    assert "IndexError: 5" in session.shown.getvalue()


def test_a_device_that_dies_ends_it() -> None:
    session: Any = Interactive(gone="the device process was killed by SIGKILL")
    with pytest.raises(GuestError, match="killed by SIGKILL"):
        interact(session)


def test_run_with_shell_hands_over_and_captures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
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
    shown: list[str] = []
    monkeypatch.setattr(command, "_show", lambda session: shown.extend(session.report.command_line["qemu"]))
    assert run(RunOptions(shell=True, show=True)) is ExitStatus.FINDINGS
    assert [options.shell for options in handed] == [True]
    assert any("vcap.shell" in word for word in shown), "the guest's init is told"
