# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects looking at a finding while it is hot: the guest stands, the prompt sees it, the run goes on."""

from __future__ import annotations

import io
import sys

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.progress import Silent
from vcapdev.run.command import finish
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session

pytestmark = pytest.mark.guest

FRAMES = 60
QUESTIONS = """\
print("task is", task.comm.string_().decode(), task.tgid.value_())
print("pins", page._refcount.counter.value_() // 1024, verdict["rule"])
print("mapped", vma.vm_start.value_() <= (page.index.value_() << 12) < vma.vm_end.value_())
print("counts", page_to_pfn(page).value_() == pfn, len(decode_page_flags(page)) > 0)
before = prog["jiffies"].value_()
import time; time.sleep(0.2)
print("stands", prog["jiffies"].value_() == before)
print("buffer", 0 <= buffer.page < buffer.pages, buffer.pages, instruction.instruction.split()[0])
print("place", page.index.value_() == (buffer.userptr >> 12) + buffer.page)
print("processes", sum(1 for each in for_each_task(prog) if each.comm.string_() == b"vcap-capture") > 0)
"""


def test_a_prompt_at_the_first_violation_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A driver that harms nobody else, so that the guest lives to the end.
    options = RunOptions(frames=FRAMES, mutant="gup-2009", on_violation="stop")
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(QUESTIONS))
    with Session(options, prepare(options, Silent()), Screen(shown)) as session:
        status = finish(session)
    told = capsys.readouterr().out
    for answer in (
        "task is vcap-capture",
        "pins 0 not-pinned",
        "mapped True",
        "counts True True",
        "stands True",
        "buffer True 216 WRITE",
        "place True",
        "processes True",
    ):
        assert answer in told, told
    assert shown.getvalue().index("the guest stands still") < shown.getvalue().index("the guest goes on")
    report = session.report
    assert status is ExitStatus.FINDINGS
    assert report.frames.captured == FRAMES, report.sentence
    assert report.frames.intact == FRAMES
    assert report.failure is None
    assert report.device["handshake_timeouts"] == 0, "the time at the prompt was held against the guest"
