# SPDX-License-Identifier: GPL-2.0-or-later
"""Expectations, KTAP of programs, baselines, known findings, the grid: everything that needs no guest."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from vcapdev.errors import UsageError
from vcapdev.scenario import checks, compliance, grid, known, ktapread
from vcapdev.scenario.nodes import ScenarioError
from vcapdev.scenario.results import Failure, Results, Status, Subtest, TestResult, What
from vcapdev.testing.capture import CaptureResult


def captured(**changes: object) -> CaptureResult:
    good = {
        "wanted": 10, "captured": 10, "intact": 10, "torn": 0, "damaged": 0, "dropped": 0, "failed": 0,
        "per_second": 25.0, "swapped_pages": 0, "status": 0, "failure": None,
    }  # fmt: skip
    return CaptureResult(**{**good, **changes})  # type: ignore[arg-type]


# -- steps


@pytest.mark.parametrize(
    ("changes", "expect", "complaints"),
    [
        ({}, {}, 0),
        ({"intact": 9}, {}, 1),
        ({"intact": 9, "damaged": 1}, {}, 2),
        ({"intact": 9, "damaged": 1}, {"intact": ">= 9", "damaged": "<= 1"}, 0),
        ({"failure": "killed"}, {}, 1),
        ({"failure": "killed", "intact": 3}, {"ends": "any"}, 0),
        ({"failure": "killed", "intact": 3, "torn": 1}, {"ends": "any"}, 1),
        ({"failure": "killed"}, {"failure": "kil+ed"}, 0),
        ({"failure": "killed"}, {"failure": "no signal"}, 1),
        ({}, {"failure": "killed"}, 1),
        ({"dropped": 4}, {"dropped": "< 4"}, 1),
        ({"swapped_pages": 0}, {"swapped_pages": ">= 1"}, 1),
    ],
)
def test_what_a_capture_lacks(changes: dict[str, object], expect: dict[str, str], complaints: int) -> None:
    """Without a word every frame has to be intact; what is said replaces that, count by count."""
    assert len(checks.of_capture(captured(**changes), expect)) == complaints


def test_where_frames_are_damaged_is_told() -> None:
    """The first places, as the guest located them."""
    found = checks.of_capture(captured(intact=9, damaged=1, bad=({"frame": 3, "offset": 4096},)), {})
    assert "  frame 3, offset 4096" in found


@pytest.mark.parametrize(
    ("value", "wanted", "fits"),
    [
        (5, "5", True),
        (5, "== 5", True),
        (5, "!= 5", False),
        (5, ">= 6", False),
        (5, "<6", True),
        (5, "x", False),
    ],
)
def test_counts(value: int, wanted: str, fits: bool) -> None:
    """A number, or a comparison."""
    assert checks.fits(value, wanted) is fits


def test_what_a_command_lacks() -> None:
    """Status, output, complaints, and what must not be there."""
    assert not checks.of_command(0, "", "", {})
    assert "status 2" in checks.of_command(2, "", "no such thing", {})[0]
    assert not checks.of_command(2, "", "", {"status": (1, 2)})
    assert not checks.of_command(-9, "", "", {"status": "any"})
    assert not checks.of_command(0, "one\ntwo\n", "", {"stdout": ("^two$",)})
    assert "its output lack" in checks.of_command(0, "one\n", "", {"stdout": ("two",)})[0]
    assert "which it must not" in checks.of_command(0, "", "oh: bad\n", {"lacks": ("bad",)})[0]


def test_what_a_kernel_log_lacks() -> None:
    """Both ways; the line that must not be there is shown."""
    log = "[    1.000000] bttv: 0: timeout: drop=0\n[    2.000000] x"
    assert not checks.of_log(log, ("timeout",), ("oops",))
    assert checks.of_log(log, ("oops",), ("timeout",)) == [
        "the kernel log lacks 'oops'",
        "the kernel log has '[    1.000000] bttv: 0: timeout: drop=0', which it must not ('timeout')",
    ]


# -- KTAP of programs


def shape(tests: list[Subtest]) -> list[object]:
    return [
        (t.name, str(t.status), shape(t.subtests)) if t.subtests else (t.name, str(t.status)) for t in tests
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("KTAP version 1\n1..2\nok 1 a\nnot ok 2 b\n", [("a", "pass"), ("b", "fail")]),
        ("TAP version 13\n1..3\nok 1 - a\nok 2 - b # SKIP no disk\nnot ok 3 - c # TODO later\n",
         [("a", "pass"), ("b", "skip"), ("c", "known")]),
        ("KTAP version 1\n1..1\n  KTAP version 1\n  1..2\n  ok 1 x\n  not ok 2 y\nnot ok 1 suite\n",
         [("suite", "fail", [("x", "pass"), ("y", "fail")])]),
        ("TAP version 14\n1..2\n    # Subtest: one\n    1..1\n    ok 1 - x\nok 1 - one\n    # Subtest: two\n"
         "    1..1\n    ok 1 - y\nok 2 - two\n",
         [("one", "pass", [("x", "pass")]), ("two", "pass", [("y", "pass")])]),
        ("<6>[    3.141592] KTAP version 1\n[    3.141593] 1..1\n[    3.141594] ok 1 a\n", [("a", "pass")]),
        ("KTAP version 1\n1..3\nok 1 a\n", [("a", "pass"), ("plan", "fail")]),
        ("KTAP version 1\n1..1\nok 1 a\nok 2 b\n", [("a", "pass"), ("b", "pass"), ("plan", "fail")]),
        ("KTAP version 1\n1..2\nok 1 a\nBail out! the disk\n", [("a", "pass"), ("bail out", "fail")]),
        ("KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  not ok 1 x\nok 1 liar\n",
         [("liar", "fail", [("x", "fail")])]),
        ("KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  ok 1 x\n",
         [("without a result", "fail", [("x", "pass")])]),
        ("KTAP version 1\n1..0\n", [("plan", "fail")]),
        ("KTAP version 1\n", [("plan", "fail")]),
        ("hello\nworld\n", []),
        ("noise\nKTAP version 1\nmore noise\n1..1\n# said\nok 1 a # 3 ms\n", [("a", "pass")]),
    ],
)  # fmt: skip
def test_ktap_of_a_program(text: str, wanted: list[object]) -> None:
    """KTAP and TAP as programs write them; what is missing counts as failed."""
    found = ktapread.parse(text)
    if wanted == [("plan", "fail")] and not found:
        pytest.fail("an output that begins and says nothing is no success")
    if ("bail out", "fail") in wanted:
        found = [one for one in found if one.name != "plan"]
    assert shape(found) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "".join("  " * depth + "KTAP version 1\n" + "  " * depth + "1..1\n" for depth in range(5000)),
        "KTAP version 1\n1..999999\n" + "ok 1 a\n" * 50_000,
        "ok\n" * 30_000,
        "KTAP version 1\n" + "\x00\x1b[31m not ok \x07\n" * 1000,
        "1..1\n" * 10_000,
        " " * 100_000 + "ok 1 a\n",
    ],
)
def test_a_hostile_program(text: str) -> None:
    """Depth and number are bounded, and it ends."""
    found = ktapread.parse(text)
    assert len(ktapread.leaves(found)) < 21_000


# -- baselines

OUTPUT = """\
v4l2-compliance 1.30.1
Compliance test for bttv device /dev/video0:

Required ioctls:
\ttest VIDIOC_QUERYCAP: OK
\ttest invalid ioctls: OK

Format ioctls (Input 0):
\t\tfail: v4l2-test-formats.cpp(1110): sel.target
\ttest VIDIOC_S_FMT: FAIL
\ttest VIDIOC_G_FBUF: OK (Not Supported)

Format ioctls (Input 1):
\ttest VIDIOC_S_FMT: OK

Total for bttv device /dev/video0: 5, Succeeded: 4, Failed: 1, Warnings: 0
"""


def test_v4l2_compliance_is_read() -> None:
    """Each test with its section, what it complained about, and whether it came to its end."""
    outcome = compliance.parse(OUTPUT)
    assert outcome.total == 5
    assert outcome.tests == {
        "Required ioctls: VIDIOC_QUERYCAP": "",
        "Required ioctls: invalid ioctls": "",
        "Format ioctls (Input 0): VIDIOC_S_FMT": "fail: v4l2-test-formats.cpp: sel.target",
        "Format ioctls (Input 0): VIDIOC_G_FBUF": "",
        "Format ioctls (Input 1): VIDIOC_S_FMT": "",
    }


def test_a_baseline_is_held(tmp_path: Path) -> None:
    """What failed may fail, what passed may not; a test that is gone or an early end is red."""
    path = compliance.path_of(tmp_path / "x.yaml", "video", "k-1")
    compliance.record(path, compliance.parse(OUTPUT), "6.1.0")
    baseline = compliance.read(path)
    assert {t.status for t in compliance.held(compliance.parse(OUTPUT), baseline)} == {"pass", "known"}

    def red(text: str) -> list[str]:
        return [t.name for t in compliance.held(compliance.parse(text), baseline) if t.status == Status.FAIL]

    assert red(OUTPUT.replace("QUERYCAP: OK", "QUERYCAP: FAIL")) == ["Required ioctls: VIDIOC_QUERYCAP"]
    assert red(OUTPUT.replace("VIDIOC_S_FMT: FAIL", "VIDIOC_S_FMT: OK")) == []
    assert red(OUTPUT.partition("Total")[0]) == ["end"]
    assert len(red(OUTPUT.partition("Format ioctls (Input 1)")[0])) == 2


def test_a_baseline_that_is_none(tmp_path: Path) -> None:
    """Missing, broken, or to be recorded of an output that broke off."""
    with pytest.raises(UsageError, match="--record makes it"):
        compliance.read(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("fails: [\n")
    with pytest.raises(UsageError):
        compliance.read(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("fails: []\n")
    with pytest.raises(UsageError, match="no baseline"):
        compliance.read(tmp_path / "x.yaml")
    with pytest.raises(UsageError, match="nothing was recorded"):
        compliance.record(tmp_path / "y.yaml", compliance.parse("rubbish"), "6.1")
    assert not (tmp_path / "y.yaml").exists()


# -- known findings

LIST = """\
- key: "kernel: WARNING: * at mm/*"
  why: reported
  until: 2026-12-31
  kernel: "trixie-*"
"""


def failed(kernel: str = "trixie-6.12", *keys: str) -> TestResult:
    failures = [Failure(What.KERNEL, key, key) for key in keys or ("kernel: WARNING: N at mm/gup.c",)]
    return TestResult("storm", kernel, status=Status.FAIL, message="x", failures=failures)


def test_a_known_finding_is_not_red_until_its_day(tmp_path: Path) -> None:
    """By key, kernel and scenario; behind its day it is red again, and says that it was listed."""
    path = tmp_path / "known.yaml"
    path.write_text(LIST)
    entries = known.read(path)
    last = datetime.date(2026, 12, 31)

    def judged(test: TestResult, day: datetime.date) -> TestResult:
        known.apply(test, entries, day)
        return test

    assert judged(failed(), last).status == Status.KNOWN
    late = judged(failed(), last + datetime.timedelta(days=1))
    assert late.status == Status.FAIL
    assert "listed as known until 2026-12-31" in late.failures[0].text
    assert judged(failed("bookworm-6.1"), last).status == Status.FAIL
    mixed = judged(failed("trixie-6.12", "kernel: WARNING: N at mm/gup.c", "verdict: other"), last)
    assert mixed.status == Status.FAIL
    assert [bool(failure.known) for failure in mixed.failures] == [True, False]
    trouble = TestResult("storm", "trixie-6.12", status=Status.ERROR)
    trouble.failures = [Failure(What.INFRASTRUCTURE, "kernel: WARNING: N at mm/gup.c", "x")]
    assert judged(trouble, last).status == Status.ERROR


def test_a_list_of_known_findings_tells_its_mistakes(tmp_path: Path) -> None:
    """With line and column, as scenario files do."""
    path = tmp_path / "known.yaml"
    for text, said in (
        (LIST.replace("  until: 2026-12-31\n", ""), ":1:3: the key 'until' is missing"),
        (LIST.replace("2026-12-31", "2026-13-31"), ":1:3: until: month must be in 1..12"),
        (LIST.replace("why:", "wy:"), ":2:3: there is no key 'wy' in a known finding; did you mean 'why'?"),
        (LIST.replace("2026-12-31", "never"), ":3:10: a date such as 2026-12-31 is wanted here"),
    ):
        path.write_text(text)
        with pytest.raises(ScenarioError) as caught:
            known.read(path)
        assert said in str(caught.value)


# -- the grid


def row(*statuses: str) -> Results:
    names = [f"k-{number}" for number in range(1, len(statuses) + 1)]
    return Results(
        [TestResult("t", name, status=s, message="m") for name, s in zip(names, statuses, strict=True)]
    )


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (("pass", "pass", "fail", "fail"), ["t: first bad on k-3, good on k-2: m"]),
        (("fail", "fail"), ["t: first bad on k-1, no good one before it: m"]),
        (
            ("pass", "error", "skip", "fail"),
            ["t: first bad on k-4, good on k-1 (nothing is known of k-2, k-3): m"],
        ),
        (
            ("pass", "fail", "pass"),
            ["t: first bad on k-2, good on k-1 (not the last one good: it comes and goes): m"],
        ),
        (("pass", "known", "fail"), ["t: first bad on k-3, good on k-2: m"]),
        (("pass", "error", "skip"), []),
    ],
)
def test_the_first_bad_kernel(statuses: tuple[str, ...], said: list[str]) -> None:
    """In the order given; what says nothing about the driver is not taken for good or bad."""
    assert grid.first_bad(row(*statuses)) == said


def test_the_grid_as_text() -> None:
    """A row a test, a column a kernel."""
    assert grid.table(row("pass", "fail")) == ["   k-1  k-2", "t  ok   FAIL"]
    assert "| t | ok | FAIL |" in grid.markdown(row("pass", "fail"))
