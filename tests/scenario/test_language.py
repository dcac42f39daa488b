# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenario files: what is read, what is refused and where, and that reader and published schema agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from vcapdev.image.mutants import find_mutant
from vcapdev.scenario import language
from vcapdev.scenario.model import FINDINGS, SLOW, collect, load, shard, shipped
from vcapdev.scenario.nodes import ScenarioError

DOCS = Path(__file__).resolve().parents[2] / "docs"

GOOD = """\
title: a capture under pressure
kernel: ["bookworm-*", "trixie-*"]
not-on: {"trixie-7*": it is too new}
memory: 256M
swap: disk
card: {norm: PAL, clock: fast}
steps:
  - capture: {frames: 10, io: userptr, size: 768x576, format: YUYV}
    expect: {intact: 10, dropped: "<= 3"}
  - pressure: {kind: pageout, every: 50ms}
    steps:
      - each: {fourcc: [YUYV, 422P], count: [2, 3]}
        steps:
          - capture: {frames: "${count}", format: "${fourcc}"}
          - run: echo "${fourcc}" ${count} $HOME
  - run: [v4l2-ctl, --all]
    expect: {status: [0, 1], stdout: bttv}
expect:
  verdicts: none
  kernel-log: {lacks: timeout}
variants:
  stock: {}
  leak: {mutant: leak, kernel: "bookworm-*", red: pin-leak}
"""


def write(directory: Path, text: str, name: str = "one.yaml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def refused(directory: Path, text: str) -> str:
    """What is said about a file, without its path."""
    path = write(directory, text)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}:")
    assert "\n" not in said
    return said.removeprefix(f"{path}:")


def test_a_scenario_is_read(tmp_path: Path) -> None:
    """Steps in their order, each turn of an ``each``, variants and kernels as tests of their own."""
    scenario = load(write(tmp_path, GOOD))
    tests = scenario.tests(["bookworm-6.1", "trixie-6.12", "trixie-7.3"])
    assert [(t.id, t.skip != "") for t in tests] == [
        ("one/stock@bookworm-6.1", False),
        ("one/leak@bookworm-6.1", False),
        ("one/stock@trixie-6.12", False),
        ("one/leak@trixie-6.12", True),
        ("one/stock@trixie-7.3", True),
        ("one/leak@trixie-7.3", True),
    ]
    assert tests[4].skip == "it is too new"
    assert tests[1].red == "pin-leak"
    config = tests[1].config()
    assert (config.mutant, config.memory, config.swap, config.clock) == ("leak", 256, "disk", "fast")
    capture, pressure, run = tests[0].steps
    assert capture.more["expect"] == {"intact": "10", "dropped": "<= 3"}
    assert run.value == ("v4l2-ctl", "--all")
    assert [step.title for step in pressure.steps] == ["YUYV 2", "YUYV 3", "422P 2", "422P 3"]
    inner = pressure.steps[3].steps
    assert inner[0].value == {"frames": 3, "format": "422P"}
    assert inner[1].value == 'echo "422P" 3 $HOME'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("memory: 256M", "memroy: 256M"),
         "4:1: there is no key 'memroy' in a scenario; did you mean 'memory'?"),
        (("memory: 256M", "memory: lots"), "4:9: memory such as 256M is wanted here, not 'lots'"),
        (("swap: disk", "swap: dsk"), "5:7: 'dsk' cannot be; did you mean 'disk'?"),
        (("norm: PAL", "norm: PLA"), "6:14: 'PLA' cannot be; did you mean 'PAL'?"),
        (("clock: fast", "clock: {a: 1}"), "6:26: a mapping cannot be; there are paced, real, fast, step"),
        (("- capture: {frames: 10", "- captur: {frames: 10"),
         "8:5: there is no step 'captur'; did you mean 'capture'?"),
        (("frames: 10,", "frames: ten,"), "8:23: a number from 1 to 10000000 is wanted here, not 'ten'"),
        (("frames: 10,", "frames: true,"), "8:23: a number from 1 to 10000000 is wanted here, not 'true'"),
        (("frames: 10,", "frame: 10,"), "8:15: there is no key 'frame' in a capture; did you mean 'frames'?"),
        (("format: YUYV", "format: YUVY"), "8:63: 'YUVY' cannot be; did you mean 'YUYV'?"),
        (("intact: 10", "intact: '>> 3'"),
         "9:22: a number, or a comparison such as '>= 5' is wanted here, not '>> 3'"),
        (("every: 50ms", "every: often"), "10:38: a time such as 50ms or 1s is wanted here, not 'often'"),
        (("fourcc: [YUYV, 422P]", "fourcc: [YUYV, 423P]"), "14:51: '423P' cannot be; did you mean '422P'?"),
        (("    expect: {status", "    expct: {status"),
         "17:5: there is no key 'expct' beside 'run'; did you mean 'expect'?"),
        (("stdout: bttv", "stdout: '('"),
         "17:38: '(' is no regular expression: missing ), unterminated subpattern at"
         " position 0"),
        (("verdicts: none", "verdicts: nothing"), "19:13: 'nothing' cannot be; there are none, any"),
        (("title: a capture under pressure\n", ""),
         "1:1: the key 'title' is missing in a scenario: what it is about,"
         " in a few words"),
        (("swap: disk", "memory: 1G"), "5:1: the key 'memory' is here twice; the first is in line 4"),
        (("card: {norm", "card: {norm"[:-6]), None),
        (("swap: disk", "swap: [disk"), None),
        (("mutant: leak,", "mutant: leak, red: x,"),
         "23:54: the key 'red' is here twice; the first is in line 23"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path: Path, change: tuple[str, str], said: str | None) -> None:
    """Line, column, what is wrong, and the nearest thing that would be right."""
    assert change[0] in GOOD
    told = refused(tmp_path, GOOD.replace(*change, 1))
    assert told == said if said is not None else "no valid YAML" in told or "wanted here" in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", " the file is empty"),
        ("- a\n", "1:1: a mapping (key: value) is wanted here, not a list"),
        ("title: x\nsteps: []\n", "2:8: a list of steps is wanted here, not a list"),
        ("title: x\nsteps:\n  - capture: {}\n    run: y\n",
         "4:5: one step, one thing to do: 'capture' or 'run'"),
        ("title: x\nsteps:\n  - wait: {}\n", "3:5: wait for 'fields' or for 'frames'"),
        ("title: x\nsteps:\n  - meanwhile: [{clock: fast}]\n    steps: [{run: y}]\n",
         "3:5: only 'capture' and 'run' can go on meanwhile, not 'clock'"),
        ("title: x\nsteps:\n  - each: {n: [1]}\n",
         "3:5: the key 'steps' is missing beside 'each': the steps inside"),
        ("title: x\ntitle: y\n", "2:1: the key 'title' is here twice; the first is in line 1"),
        ("title: 5\nsteps: [{run: y}]\n", "1:8: text is wanted here, not '5' (put it in quotes)"),
    ],
)  # fmt: skip
def test_a_shape_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    """Not only words can be wrong."""
    assert refused(tmp_path, text) == said


@pytest.mark.parametrize(
    "text",
    [
        "title: x\nsteps: " + "[" * 3000 + "\n",
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
        "title: x\nsteps: &a [*a]\n",
        "title: x\nsteps:\n  - each: {a: [1,2,3,4,5,6,7,8,9], b: [1,2,3,4,5,6,7,8,9], c: [1,2,3,4,5,6,7,8,9],"
        " d: [1,2,3,4,5,6,7,8,9]}\n    steps: [{run: y}]\n",
        "title: !!python/object/apply:os.system [id]\nsteps: [{run: y}]\n",
        "title: \x07\n",
        "title: x\n\tsteps: y\n",
    ],
)
def test_a_hostile_file_ends_in_one_line(tmp_path: Path, text: str) -> None:
    """No endless walk, nothing constructed, no traceback."""
    refused(tmp_path, text)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Missing, binary, empty directory: one line each."""
    path = tmp_path / "x.yaml"
    with pytest.raises(ScenarioError, match="No such file"):
        collect([path])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="not UTF-8"):
        collect([path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScenarioError, match="no scenario"):
        collect([tmp_path / "empty"])


def test_values_of_the_guest_are_checked_where_the_file_is_named(tmp_path: Path) -> None:
    """What only the testing package knows is refused at once, too, with the file."""
    assert "is no kind of complaint" in refused(tmp_path, "title: x\nallow: [wrning]\nsteps: [{run: y}]\n")
    assert "is no file" in refused(tmp_path, "title: x\nmodules: [none.ko]\nsteps: [{run: y}]\n")


def test_reader_and_schema_agree(tmp_path: Path) -> None:
    """An editor that uses the schema accepts what the reader reads, and refuses what it refuses."""
    schema = language.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    def fits(text: str) -> bool:
        return validator.is_valid(yaml.safe_load(text))

    assert fits(GOOD)
    for wrong in ("memory: lots", "swap: dsk", "memroy: 1"):
        assert not fits(GOOD.replace("memory: 256M", wrong).replace("swap: disk", wrong))
    assert not fits(GOOD.replace("frames: 10,", "frame: 10,"))
    assert not fits(GOOD.replace("- capture: {frames: 10", "- captur: {frames: 10"))


def test_the_published_schema_is_this_one() -> None:
    """docs/scenario.schema.json is made from the code: ``python -m vcapdev.scenario.language > ...``."""
    published: Any = json.loads((DOCS / "scenario.schema.json").read_text())
    assert published == language.schema()


def test_shipped_scenarios_are_well_formed() -> None:
    """Every one can be read, fits the schema, and has a test on some kernel."""
    validator = jsonschema.Draft202012Validator(language.schema())
    scenarios = collect([])
    for one in scenarios:
        assert validator.is_valid(yaml.safe_load(one.file.read_text())), one.file
        assert any(not test.skip for test in one.tests(["bookworm-6.1", "trixie-6.12"])), one.file
    assert {one.file.parent for one in scenarios} == {shipped()}


def test_what_takes_hours_is_played_only_by_name() -> None:
    """A day is 25 frames of 86 400 seconds each; unasked none of it is played."""
    slow = collect([Path(SLOW)])
    assert {one.file.parent for one in slow} == {shipped() / SLOW}
    assert not {one.name for one in slow} & {one.name for one in collect([])}
    for one in slow:
        assert collect([Path(one.name)])[0].file == one.file
        (test,) = one.tests(["bookworm-6.1"])
        assert [step.value["frames"] for step in test.steps] == [25 * 86_400], one.file


def test_shards_share_everything_and_nothing_twice(tmp_path: Path) -> None:
    """The same split on every machine, whatever the order of files."""
    write(tmp_path, GOOD, "a.yaml")
    write(tmp_path, GOOD, "b.yaml")
    tests = [test for one in collect([tmp_path]) for test in one.tests(["bookworm-6.1", "trixie-6.12"])]
    parts = [shard(tests, number, 3) for number in (1, 2, 3)]
    assert sorted(t.id for part in parts for t in part) == sorted(t.id for t in tests)
    assert parts == [shard(tests[::-1], number, 3) for number in (1, 2, 3)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    """Their results could not be told apart."""
    (tmp_path / "d").mkdir()
    one, other = write(tmp_path, GOOD), write(tmp_path / "d", GOOD)
    with pytest.raises(ScenarioError, match="has the same name"):
        collect([one, other])


def test_fixes_taken_back_are_described() -> None:
    """Every altered driver that a shipped scenario names can be found, with its diff."""
    named = set()
    for one in collect([]):
        body = [one.body, *one.body.get("variants", {}).values()]
        named |= {part["mutant"] for part in body if "mutant" in part}
    for one in collect([Path(FINDINGS)]):
        body = [one.body, *one.body.get("variants", {}).values()]
        named |= {part["mutant"] for part in body if "mutant" in part}
    assert len(named) >= 5
    for name in named:
        assert all(file.startswith("drivers/media/") for file in find_mutant(name).files)
