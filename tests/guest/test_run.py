# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole runs: the stock driver passes, altered ones are caught, and nothing stays behind."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vcapdev.errors import ExitStatus
from vcapdev.progress import Silent
from vcapdev.report.model import RunReport
from vcapdev.run.command import finish
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import Prepared, prepare
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session

pytestmark = pytest.mark.guest

FRAMES = 60
DEADLINE = 240.0  # seconds for anything that a run of ours does
ROOT = Path(__file__).parents[2]


def run(options: RunOptions, prepared: Prepared) -> tuple[ExitStatus, RunReport, str]:
    """Exit status, report and what the screen showed.

    Checks that nothing stays behind, and that ``vcapdev serve``, ended by SIGTERM, has told of all findings.
    """
    shown = io.StringIO()
    with Session(options, prepared, Screen(shown)) as session:
        work, status = session.work, finish(session)
        pids = [session.vm.pid, session.device.pid]
        told = (work / "device.log").read_text()
    verdicts = session.report.verdicts
    assert session.device.status == (ExitStatus.FINDINGS if verdicts else ExitStatus.CLEAN), told
    assert set(re.findall(r"^vcapdev: ([\w-]+) \(V", told, re.MULTILINE)) == {each.rule for each in verdicts}
    assert not work.exists()
    for pid in pids:
        assert pid is not None
        assert not Path(f"/proc/{pid}").exists()
    return status, session.report, shown.getvalue()


NTSC = {"norm": "NTSC", "width": 640, "height": 480, "format": "BGR4"}


@pytest.mark.parametrize(("swap", "picture"), [("disk", {}), ("zram", NTSC)], ids=["disk-PAL", "zram-NTSC"])
def test_the_stock_driver_is_clean_under_pressure(
    swap: str, picture: dict[str, Any], prepared: Prepared, tmp_path: Path
) -> None:
    options = RunOptions(
        frames=FRAMES, swap=swap, report=tmp_path / "report", audit=0.1, audit_seed=5, **picture
    )
    status, report, _ = run(options, prepared)
    assert status is ExitStatus.CLEAN, report.sentence
    assert report.audit is not None
    assert report.audit.pages > 1000
    assert (report.audit.disagreed, report.audit.turned, report.audit.not_stopped) == (0, 0, 0)
    assert report.verdicts == []
    assert report.pins.left == 0
    ledger = report.pins.ledger
    assert ledger["opened"] == ledger["closed"] > 0
    assert ledger["balance"]["agrees"], ledger["balance"]  # the kernel's counters know of no other pin
    assert ledger["balance"]["left"] == 0
    assert report.swap.pages_out > 0
    assert report.swap.buffer_pages_out > 0
    assert report.frames.captured == FRAMES
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {
        "report.json",
        "packages.lock",
        "console.log",
        "kernel.log",
        "frame.png",
        "frame-pages.png",
    } <= names
    schema = json.loads((ROOT / "docs/report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(
        json.loads((tmp_path / "report/report.json").read_text())
    )


@pytest.mark.parametrize("swap", ["disk", "zram"])
def test_the_unaltered_driver_built_like_the_mutants_is_clean(swap: str) -> None:
    options = RunOptions(frames=FRAMES, swap=swap, mutant="unaltered", clean=True)
    status, report, _ = run(options, prepare(options, Silent()))
    assert status is ExitStatus.CLEAN, report.sentence
    assert report.pins.clean_at_pin > 0


@pytest.mark.parametrize("swap", ["disk", "zram"])
@pytest.mark.parametrize(("mutant", "rule"), [("early-unpin", "not-pinned"), ("no-dirty", "not-dirtied")])
def test_mutants_are_caught_and_a_bundle_is_kept(mutant: str, rule: str, swap: str, tmp_path: Path) -> None:
    options = RunOptions(frames=FRAMES, swap=swap, mutant=mutant, clean=mutant == "no-dirty")
    options = replace(options, on_violation="bundle", bundle=tmp_path / "kept", bundle_size=200)
    status, report, shown = run(options, prepare(options, Silent()))
    assert status is ExitStatus.FINDINGS, report.sentence
    looked_at(tmp_path / "kept", rule)
    assert rule in {verdict.rule for verdict in report.verdicts}
    assert f"vcapdev: {rule} (" in shown
    assert report.sentence.startswith("Findings: ")


def looked_at(bundle: Path, rule: str) -> None:
    """The bundle is as large as it may be at most, and opens with everything bound."""
    index = json.loads((bundle / "bundle.json").read_text())
    assert index["verdict"]["rule"] == rule
    assert index["vcpus_stopped"] is True
    assert index["vcpus"][0]["rip"]
    assert sum(path.stat().st_blocks * 512 for path in bundle.iterdir()) < 220 << 20
    assert (bundle / "dma-trace.txt").read_text().count("write: program")
    assert "INT_STAT" in (bundle / "register-trace.txt").read_text()
    question = "print('same', page_to_pfn(page).value_(), task.comm.string_().decode())\n"
    answer = subprocess.run(
        [sys.executable, "-m", "vcapdev", "look", str(bundle)], input=question, capture_output=True,
        text=True, cwd=ROOT, timeout=DEADLINE, check=True,
    ).stdout  # fmt: skip
    assert f"same {index['verdict']['pfn']} vcap-capture" in answer, answer
