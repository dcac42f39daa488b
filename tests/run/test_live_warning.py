# SPDX-License-Identifier: GPL-2.0-or-later
"""A WARNING of the guest's kernel ends a run in the midst of its capture: within a second, with its slice."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_prepare import Seams

from vcapdev.errors import ExitStatus, GuestError
from vcapdev.progress import Silent
from vcapdev.report.model import RunReport
from vcapdev.run.capture import SAVED
from vcapdev.run.judge import judge
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session

# As 6.1 tells of a page that is unpinned twice.
BEFORE = ["[   10.000001] bttv: driver version 0.9.19 loaded"]
SLICE = """\
[   11.500000] ------------[ cut here ]------------
[   11.500100] WARNING: CPU: 0 PID: 133 at mm/gup.c:73 sanity_check_pinned_pages+0x42/0x60
[   11.500200] Modules linked in: bttv(O) tveeprom rc_core videobuf_dma_sg
[   11.500300] Call Trace:
[   11.500400]  <TASK>
[   11.500500]  unpin_user_pages_dirty_lock+0x1b/0x80
[   11.500550]  videobuf_dma_free+0x103/0x1a0 [videobuf_dma_sg]
[   11.500600]  </TASK>
[   11.500700] ---[ end trace 0000000000000000 ]---""".splitlines()
AFTER = ["[   12.300000] bttv: 0: timeout"]
LIMIT = 100  # turns of the pump


class LiveGuest:
    """An agent whose guest goes on: a turn is a tenth of a second of a clock that only it moves."""

    def __init__(self, session: Session, lines: dict[int, list[str]]) -> None:
        self.turns = 0
        self.asked: list[float] = []
        self.files: dict[str, Any] = {}
        self.told = 0  # turns when the WARNING was told
        self._watch, self._lines = session.vm.watch, lines
        session.vm.watch._now = lambda: self.turns / 10

    def pump(self, _timeout: float) -> None:
        self.turns += 1
        if self.turns > LIMIT:
            raise GuestError("nobody noticed")
        for line in self._lines.get(self.turns, []):
            seconds, text = line[1:].split("] ", 1)
            self._watch.feed_kmsg(f"4,1,{round(float(seconds) * 1e6)},-;{text}\n".encode())
            if "WARNING" in text:
                self.told = self.turns
        self._watch.poll()

    def pull(self, path: str, *, timeout: float = 60.0) -> bytes:
        if path == SAVED:
            self.asked.append(timeout)
        return b""


def ran(
    monkeypatch: pytest.MonkeyPatch,
    lines: dict[int, list[str]],
    verdicts: list[dict[str, Any]] | None = None,
    report: Path | None = None,
) -> tuple[RunReport, LiveGuest, str]:
    """A run in the midst of its capture, while the guest's kernel says ``lines`` at these turns."""
    Seams(monkeypatch)
    shown = io.StringIO()
    options = RunOptions(cold=True, report=report)
    with Session(options, prepare(options, Silent()), Screen(shown)) as session:
        guest: Any = LiveGuest(session, lines)
        capturing: Any = SimpleNamespace(status=None, stderr="")
        answers = {"verdicts": {"verdicts": verdicts or []}, "frame": {"fields": [], "pieces": []}}
        monkeypatch.setattr(session.device, "call", lambda name, **_: answers.get(name, {}))
        monkeypatch.setattr(session.device, "events", list)
        monkeypatch.setattr(session, "_boot", lambda: guest)
        monkeypatch.setattr(type(session.vm), "agent", guest)
        session.capture.saved = 17
        guest.files = session.attachments.files
        monkeypatch.setattr(session, "_capture", lambda agent: session._watch(agent, capturing))
        return session.run(), guest, shown.getvalue()


def test_it_ends_the_run_within_a_second_with_its_slice_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what the kernel said before nor what it says after belongs to it."""
    report, guest, shown = ran(monkeypatch, {3: BEFORE, 20: SLICE[:2], 22: SLICE[2:] + AFTER})
    assert guest.told == 20
    assert guest.turns - guest.told < 10, "a second has ten turns"
    assert report.failure is not None
    assert report.failure.startswith(
        "the guest's kernel failed (warning): WARNING: CPU: 0 PID: 133 at mm/gup.c:73"
    )
    assert [text.splitlines() for text in report.guest_log.reports] == [SLICE]
    assert "videobuf_dma_free+0x103/0x1a0" in shown
    status, sentence = judge(report)
    assert status is ExitStatus.GUEST
    assert "mm/gup.c:73" in sentence


def test_its_report_has_the_frame_that_there_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A guest that runs on is asked for it, and not for long; after a panic nobody is asked."""
    _, guest, _ = ran(monkeypatch, {20: SLICE}, report=tmp_path / "report")
    assert guest.files["frame.png"].startswith(b"\x89PNG")
    assert guest.asked == [5.0]
    panic = ["[   12.000000] Kernel panic - not syncing: Fatal exception"]
    _, guest, _ = ran(monkeypatch, {20: panic}, report=tmp_path / "report")
    assert "frame.png" not in guest.files
    assert guest.asked == []


def test_what_was_found_before_wins_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = {"rule": "not-pinned", "sentence": "nobody has pinned it", "pfn": 7, "instruction": None}
    verdict |= {"owner": {}, "evidence": {}}
    report, _, _ = ran(monkeypatch, {20: SLICE}, [verdict])
    status, sentence = judge(report)
    assert status is ExitStatus.FINDINGS
    assert "Then the run ended early: the guest's kernel failed (warning)" in sentence


def test_what_a_slow_host_causes_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted; the run goes on until something else ends it."""
    stall = "[   11.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [vcap-capture:133]"
    report, guest, _ = ran(monkeypatch, {3: [*BEFORE, stall]})
    assert guest.turns > LIMIT
    assert report.failure == "nobody noticed"
    assert report.guest_log.reports == []
    assert len(report.guest_log.notes) == 1
    assert "soft lockup" in report.guest_log.notes[0]
