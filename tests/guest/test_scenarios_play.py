# SPDX-License-Identifier: GPL-2.0-or-later
"""Shipped scenarios in a real guest: a capture with picture and timeline, tests of a program."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.scenario import command
from vcapdev.scenario.options import ScenarioOptions

pytestmark = pytest.mark.guest


def test_scenarios_from_file_to_report(tmp_path: Path) -> None:
    """Two scenarios of one guest: what they saw ends in every format."""
    names = ("capture-mmap", "ktap-program")
    outputs = {name: tmp_path / f"all.{name}" for name in ("junit", "ktap", "json", "html", "trace")}
    options = ScenarioOptions(files=tuple(map(Path, names)), kernels=("bookworm-6.1",), **outputs)
    assert command.run(options) == ExitStatus.CLEAN
    tests = {test["name"]: test for test in json.loads(outputs["json"].read_text())["tests"]}
    assert {name: test["status"] for name, test in tests.items()} == {
        "capture-mmap": "pass",
        "ktap-program": "pass",
    }
    captured = tests["capture-mmap"]
    assert captured["figures"]["pages judged"] >= 1000
    assert {"fields", "DMA", "interrupts"} <= {event["track"] for event in captured["timeline"]}
    assert any(event["name"].startswith("W INT_STAT 0x") for event in captured["timeline"])
    assert [picture["title"].split(",")[0] for picture in captured["pictures"]] == [
        "frame 5",
        "page states under a frame",
    ]
    assert [one["name"] for one in tests["ktap-program"]["subtests"][0]["subtests"]] == [
        "video0",
        "vbi0",
        "radio0",
    ]
    assert ET.fromstring(outputs["junit"].read_text()).get("failures") == "0"
    assert "data:image/png;base64," in outputs["html"].read_text()
