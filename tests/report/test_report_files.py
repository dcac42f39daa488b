# SPDX-License-Identifier: GPL-2.0-or-later
"""The report directory: valid after its schema, whole or absent, never written over other files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vcapdev.errors import ExitStatus, SetupError, UsageError
from vcapdev.report.files import check_target, write_report
from vcapdev.report.model import Audit, Kernel, Pins, QemuInfo, RunReport, Verdict, audit_of
from vcapdev.report.summary import summary

SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"
ISSUE_KEYS = {
    "kernel",
    "packages",
    "qemu",
    "command_line",
    "frames",
    "dma",
    "swap",
    "pins",
    "verdicts",
    "audit",
    "iommu",
    "oddities",
    "guest_log",
    "exit_status",
}


MAPS = {
    "translating": True,
    "maps": 440,
    "unmaps": 439,
    "live": {"a program (coherent)": 1},
    "refused": 2,
    "outside_ram": 0,
}


def make_report(**changes: Any) -> RunReport:
    """A clean run; ``changes`` are set on it."""
    report = RunReport(
        kernel=Kernel("bookworm-6.1", "6.1.0-56-amd64", "vmlinuz-6.1.0-56-amd64"),
        qemu=QemuInfo("11.1.3", "unpacked in the cache", "tcg", "no KVM"),
        settings={"norm": "PAL"},
        packages=[{"name": "busybox-static", "version": "1.35", "sha256": "0" * 64, "suite": "bookworm"}],
        command_line={"vcapdev": ["vcapdev", "run"]},
        stages={"prepare": 0.5},
        exit_status=ExitStatus.CLEAN,
        sentence="Clean.",
    )
    for name, value in changes.items():
        setattr(report, name, value)
    return report


def verdict() -> Verdict:
    return Verdict.from_checker(
        {
            "rule": "not-pinned",
            "key": "not-pinned: page 3",
            "sentence": "a page without a pin",
            "pfn": 0x1234,
            "address": 0x1234000,
            "instruction": {"instruction": "WRITE", "address": 0x2000},
            "owner": {"then": ["vcap-capture"], "now": []},
            "evidence": {"before": None},
            "count": 3,
            "splat": "splat",
        }
    )


def validate(document: Any) -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize(
    "report",
    [
        make_report(),
        make_report(verdicts=[verdict()], exit_status=ExitStatus.FINDINGS, oddities={"orphan": 2}),
        make_report(failure="QEMU ended", exit_status=ExitStatus.GUEST),
        make_report(audit=Audit(0.01, 7, judgements=3, pages=648, clean=648, agreed=648)),
        make_report(iommu=MAPS),
    ],
)
def test_reports_match_the_schema(report: RunReport, tmp_path: Path) -> None:
    write_report(tmp_path / "out", report, {})
    document = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    validate(document)
    assert set(document) >= ISSUE_KEYS


@pytest.mark.parametrize("key", sorted(ISSUE_KEYS))
def test_the_schema_misses_a_missing_key(key: str) -> None:
    document = make_report().to_json()
    del document[key]
    with pytest.raises(jsonschema.ValidationError, match=key):
        validate(document)


def test_the_schema_refuses_a_verdict_without_evidence() -> None:
    document = make_report(verdicts=[verdict()]).to_json()
    del document["verdicts"][0]["evidence"]
    with pytest.raises(jsonschema.ValidationError, match="evidence"):
        validate(document)


def test_attachments_are_written_or_copied(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"boot")
    write_report(
        tmp_path / "a" / "out", make_report(), {"frame.png": b"png", "console.log": tmp_path / "log"}
    )
    assert (tmp_path / "a" / "out" / "frame.png").read_bytes() == b"png"
    assert (tmp_path / "a" / "out" / "console.log").read_bytes() == b"boot"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_an_old_report_is_replaced_whole(tmp_path: Path) -> None:
    write_report(tmp_path / "out", make_report(), {"old.png": b"old"})
    write_report(tmp_path / "out", make_report(sentence="Again."), {})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_peoples_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="other files"):
        check_target(tmp_path)
    with pytest.raises(UsageError, match="a file"):
        check_target(tmp_path / "thesis.tex")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "rename", no_space)
    with pytest.raises(SetupError, match="No space left on device"):
        write_report(tmp_path / "out", make_report(), {"frame.png": b"png"})
    assert list(tmp_path.iterdir()) == []


def test_the_summary_names_what_was_found() -> None:
    text = summary(make_report(verdicts=[verdict(), verdict()], oddities={"orphan": 2, "raced-with-stop": 0}))
    assert "not-pinned (6 times)" in text
    assert "2 orphan (harmless)" in text
    assert "raced" not in text
    assert text.endswith("Clean. (exit status 0)\n")


def test_the_summary_says_why_its_pins_do_not_add_up_when_none_is_left() -> None:
    assert "9 taken, 9 given back, 0 left over" in summary(make_report(pins=Pins(acquired=9, released=9)))
    lagging = summary(make_report(pins=Pins(acquired=9, released=7)))
    assert "9 taken, 7 given back (by /proc/vmstat, which lags), 0 left over" in lagging
    leaking = summary(make_report(pins=Pins(acquired=9, released=7, left=2)))
    assert "9 taken, 7 given back, 2 left over" in leaking


def test_the_summary_says_when_nothing_was_checked() -> None:
    assert "checker not attached" in summary(make_report())


def test_a_place_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    """/proc refuses new directories to root as well."""
    with pytest.raises(SetupError, match="cannot write the report"):
        check_target(Path("/proc/report"))
    check_target(tmp_path / "a" / "b" / "report")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_looked_at_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(SetupError, match="Permission denied"):
        check_target(tmp_path / "report")


FIGURES = {"rate": 0.01, "seed": 7, "judgements": 3, "pages": 648, "clean": 640, "bad": 8, "agreed": 648}
FIGURES |= {"turned": 0, "disagreed": 0, "raced_with_stop": 0, "not_stopped": 0, "disagreements": []}


def test_maps_behind_a_viommu_are_summed_up_in_a_line() -> None:
    text = summary(make_report(iommu=MAPS))
    assert "440 maps, 439 unmaps, 2 transfers refused; left: 1 of a program (coherent)" in text
    assert "not switched on" in summary(make_report(iommu=MAPS | {"translating": False}))
    assert "iommu" not in summary(make_report())


def test_an_audit_is_summed_up_in_a_line() -> None:
    audit = audit_of({"audit": FIGURES})
    assert audit is not None
    text = summary(make_report(audit=audit))
    assert "648 pages (8 bad) judged again with the vCPUs stopped: 0 disagreements (seed 7)" in text
    assert audit.defects() == []
    changed = FIGURES | {"turned": 2, "raced_with_stop": 1, "disagreed": 1, "disagreements": ["page 0x7"]}
    audit = audit_of({"audit": changed})
    assert audit is not None
    text = summary(make_report(audit=audit))
    assert "1 disagreement, 2 changed and bad by then, 1 judgements overtaken by a stop" in text
    assert audit.defects() == ["1 of 648 audited pages were judged otherwise live; first: page 0x7"]


def test_no_audit_is_not_told_of() -> None:
    assert audit_of({}) is None
    assert audit_of({"audit": FIGURES | {"rate": 0}}) is None
    assert "audit" not in summary(make_report())
