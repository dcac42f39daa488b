# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the exit status, as a table: findings win, and a run that proves nothing never passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from vcapdev.errors import ExitStatus
from vcapdev.report.model import Dma, Frames, Kernel, Pins, QemuInfo, RunReport, Swap, Verdict
from vcapdev.run.judge import judge

CLEAN, FINDINGS, GUEST = ExitStatus.CLEAN, ExitStatus.FINDINGS, ExitStatus.GUEST
VERDICT = Verdict("not-pinned", "the page had lost its pin", 7, None, {}, {})


@dataclass
class Case:
    name: str
    status: ExitStatus
    words: str
    changes: dict[str, Any] = field(default_factory=dict)


def report(**changes: Any) -> RunReport:
    """A good run, with dotted ``changes``: ``{"frames.torn": 1}``."""
    run = RunReport(
        kernel=Kernel("bookworm-6.1", "6.1", "vmlinuz"),
        qemu=QemuInfo("11.1", "", "tcg", ""),
        settings={"clock": "paced", "io": "userptr"},
        frames=Frames(wanted=10, captured=10, intact=10),
        dma=Dma(writes=5, bytes=5, pages_checked=5, distinct_pages=5, checker="attached"),
        swap=Swap("disk", "both", pages_out=9, buffer_pages_out=4),
        pins=Pins(clean_at_pin=0),
    )
    for path, value in changes.items():
        *parents, name = path.split(".")
        target: Any = run
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)
    return run


CASES = [
    Case("all well", CLEAN, "Clean: 10 of 10 frames intact"),
    Case("dropped frames are no finding", CLEAN, "Clean", {"frames.dropped": 3}),
    Case("no pressure asked", CLEAN, "Clean", {"swap": Swap()}),
    Case("verdict", FINDINGS, "not-pinned, 1 time", {"verdicts": [VERDICT]}),
    Case(
        "verdict, then an oops",
        FINDINGS,
        "Then the run ended early: the guest oopsed",
        {"verdicts": [VERDICT], "failure": "the guest oopsed"},
    ),
    Case("verdict without swapping", FINDINGS, "not-pinned", {"verdicts": [VERDICT], "swap.pages_out": 0}),
    Case("damaged frame", FINDINGS, "1 of 10 frames", {"frames.damaged": 1, "frames.intact": 9}),
    Case("torn frame", FINDINGS, "2 of 10 frames", {"frames.torn": 2, "frames.intact": 8}),
    Case(
        "torn on the real clock",
        CLEAN,
        "Clean: 8 of 10",
        {"frames.torn": 2, "frames.intact": 8, "settings": {"clock": "real"}},
    ),
    Case(
        "torn, but the handler was not awaited",
        GUEST,
        "2 frames arrived damaged, but the card had waited",
        {"frames.torn": 2, "frames.intact": 8, "device": {"handshake_timeouts": 1}},
    ),
    Case(
        "damaged on the real clock",
        GUEST,
        "the real clock does not wait",
        {"frames.damaged": 1, "frames.intact": 9, "settings": {"clock": "real"}},
    ),
    Case("guest failed", GUEST, "Failed: QEMU was killed", {"failure": "QEMU was killed"}),
    Case("not attached", GUEST, "no BTF", {"dma.checker": "no BTF"}),
    Case("unchecked writes", GUEST, "3 of the card's writes", {"dma.unchecked": 3}),
    Case("checker defect", ExitStatus.DEFECT, "IndexError", {"dma.defects": ["IndexError: 7"]}),
    Case("checker defect, yet a verdict", FINDINGS, "", {"dma.defects": ["x"], "verdicts": [VERDICT]}),
    Case("nothing checked", GUEST, "no page was written", {"dma.pages_checked": 0}),
    Case("too few frames", GUEST, "only 4 of 10", {"frames.captured": 4, "frames.intact": 4}),
    Case("unverified frames", GUEST, "only 7 of 10 frames were verified", {"frames.intact": 7}),
    Case("failed frames do not count", CLEAN, "Clean: 10 of 10", {"frames.errors": 12}),
    Case("failed frames excuse nothing", GUEST, "only 8 of", {"frames.intact": 8, "frames.errors": 2}),
    Case("no swapping", GUEST, "not one page", {"swap.pages_out": 0}),
    Case("only others' pages out", GUEST, "not one page of the buffers", {"swap.buffer_pages_out": 0}),
    Case("the hog alone", CLEAN, "Clean", {"swap.buffer_pages_out": 0, "swap.pressure": "hog"}),
    Case("buffers of the driver's", CLEAN, "", {"swap.buffer_pages_out": 0, "settings": {"io": "mmap"}}),
    Case("no-dirty, nothing clean", GUEST, "lost dirty bit", {"settings": {"clean": True}}),
    Case("no-dirty, something clean", CLEAN, "", {"settings": {"clean": True}, "pins.clean_at_pin": 4}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exit_status(case: Case) -> None:
    status, sentence = judge(report(**case.changes))
    assert status is case.status
    assert case.words in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
