# SPDX-License-Identifier: GPL-2.0-or-later
"""The language of scenario files, defined once: the reader and the published schema both come from here.

Each verb of a step is one call of :mod:`vcapdev.testing`, or a block around other steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from vcapdev.image.foreign import FOREIGN
from vcapdev.run.options import FIELDS, FORMATS, NORMS
from vcapdev.scenario.kinds import (
    Choice,
    Either,
    Flag,
    Json,
    Key,
    ListOf,
    MapOf,
    Number,
    Scalar,
    Section,
    Text,
    described,
)
from vcapdev.scenario.nodes import Node, Place, hint, pairs, said, substituted
from vcapdev.serve.options import CLOCKS
from vcapdev.testing.pressure import KINDS as PRESSURES

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
_MOST_TURNS = 2000  # of an each, and of all its combinations

_REGEX = Text(regex=True, like="a regular expression")
_COUNT = Text(r"(<=|>=|<|>|==|!=)?\s*\d{1,9}", like="a number, or a comparison such as '>= 5'")
_TIME = Text(r"\d{1,6}(\.\d+)?\s*(us|ms|s)", like="a time such as 50ms or 1s")
_SECONDS = Number(1, 3600)
_COMMAND = Either((Text(), ListOf(Scalar())), "a command (text for the shell, or a list of words)")
_NAME = Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", like="a name")


@dataclass(frozen=True)
class Step:
    """One step.

    :ivar verb: a key of :data:`VERBS`; "group" for one turn of an ``each``.
    :ivar value: what stands behind the verb; ``more`` holds the keys beside it.
    :ivar steps: those inside a block.
    """

    verb: str
    value: Any
    more: Json = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    line: int = 0

    @property
    def title(self) -> str:
        """In a few words, for reports."""
        if self.more.get("title"):
            return str(self.more["title"])
        return " ".join(f"{self.verb} {_brief(self.value)}".split())


def _brief(value: Any) -> str:
    if isinstance(value, Step):
        return value.title
    if isinstance(value, dict):
        text = ", ".join(f"{key} {_brief(one)}" for key, one in value.items())
    elif isinstance(value, tuple | list):
        text = " ".join(map(_brief, value))
    else:
        text = "" if value is None or value is True else str(value)
    return text if len(text) <= 100 else text[:97] + "..."


def capture_keys() -> dict[str, Key]:
    """The keys of ``capture``: those of ``vcapdev.testing.capture.CaptureOptions``."""
    return {
        "frames": Key(Number(1, 10_000_000), "how many good frames end it"),
        "io": Key(Choice(("userptr", "mmap", "read")), "how buffers are handed over"),
        "size": Key(Text(r"\d{2,4}x\d{2,4}", like="a size such as 768x576"), "width and height"),
        "format": Key(Choice(FORMATS), "FourCC"),
        "norm": Key(Choice(NORMS), "what the driver is told to expect; what the card sends by default"),
        "field": Key(Choice(FIELDS), "order of fields"),
        "device": Key(Text(r"/dev/.+", like="a device such as /dev/video0"), "which node"),
        "buffers": Key(Number(1, 32), "buffers queued at a time"),
        "pool": Key(Number(2, 256), "buffers that take turns (userptr)"),
        "hold": Key(Number(0, 60_000), "milliseconds that a buffer rests, so that a late write shows"),
        "full_every": Key(Number(1, 1 << 30), "compare each so-manieth frame byte by byte"),
        "pageout": Key(ListOf(Choice(("idle", "queued")), single=True), "buffers that the program swaps out"),
        "clean": Key(Flag(), "hand over buffers whose pages are new and clean (userptr)"),
        "offset": Key(Number(0, 4095), "bytes between a page's begin and a buffer's (userptr)"),
        "save": Key(Number(0, 10_000_000), "number of a frame, from 0, that the report shows"),
        "give_up": Key(Number(1, 3600), "seconds without a frame after which the program ends"),
    }


_FRAMES = Section(
    {
        name: Key(_COUNT, text)
        for name, text in (
            ("captured", "good frames that came"),
            ("intact", "of them, those that hold just what the card sent"),
            ("torn", "made of two frames"),
            ("damaged", "stale, misplaced or changed bytes"),
            ("dropped", "sent and never seen by the program"),
            ("failed", "given back by the driver with the error flag"),
            ("swapped_pages", "buffer pages that were seen swapped out"),
        )
    }
    | {
        "failure": Key(_REGEX, "the capture must not come to its end, and say this"),
        "ends": Key(Choice(("well", "any")), "any: whether it comes to its end does not matter"),
    },
    "in the expectation of a capture",
)
_STATUS = Either((Number(-64, 255), ListOf(Number(-64, 255)), Choice(("any",))), "an exit status")
_OUTPUT = Section(
    {
        "status": Key(_STATUS, "exit status (minus the signal's number), some, or any"),
        "stdout": Key(ListOf(_REGEX, single=True), "found in its output, each"),
        "stderr": Key(ListOf(_REGEX, single=True), "found in its complaints, each"),
        "lacks": Key(ListOf(_REGEX, single=True), "found in neither"),
    },
    "in the expectation of a command",
)
_FAILS = Key(_REGEX, "the step has to fail, and to say this")
_TIMEOUT = Key(_SECONDS, "seconds that it may take")
_TITLE = Key(Text(), "what reports call this step")
_ALSO = Key(ListOf(_NAME, single=True), "rules that may be violated, too")


class Steps:
    """A list of steps."""

    def read(self, node: Node, place: Place) -> tuple[Step, ...]:
        """The steps, each ``each`` unrolled."""
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise place.wrong(node, f"a list of steps is wanted here, not {said(node)}")
        return tuple(step for each in node.value for step in _read_step(each, place))

    def schema(self) -> Json:
        return {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}}


_BLOCK = Key(Steps(), "the steps inside", required=True)


@dataclass(frozen=True)
class Verb:
    """What can stand in a step: what it takes, and the keys beside it."""

    kind: Any
    text: str
    more: dict[str, Key] = field(default_factory=dict)

    def section(self, name: str) -> Section:
        """The step as a mapping."""
        own = Key(self.kind, self.text, required=True)
        return Section({name: own, "title": _TITLE, **self.more}, f"beside {name!r}")


VERBS: dict[str, Verb] = {
    "capture": Verb(Section(capture_keys(), "in a capture"), "capture, every frame compared",
                    {"expect": Key(_FRAMES, "what must come of it; without: every frame intact"),
                     "timeout": _TIMEOUT}),
    "run": Verb(_COMMAND, "a command in the guest",
                {"expect": Key(_OUTPUT, "what must come of it; without: exit status 0"), "timeout": _TIMEOUT,
                 "ktap": Key(Flag(), "its output is KTAP: its tests become tests of this scenario")}),
    "compliance": Verb(Section({
        "device": Key(Text(r"/dev/.+", like="a device such as /dev/video0"), "which node", required=True),
        "options": Key(ListOf(Scalar()), "more words for v4l2-compliance"),
        "baseline": Key(_NAME, "what it is held to (baselines/NAME.KERNEL.yaml)", required=True),
    }, "in compliance"), "v4l2-compliance, each of its tests held to a baseline", {"timeout": _TIMEOUT}),
    "push": Verb(Section({
        "from": Key(Text(), "file of the host, from this file's directory", required=True),
        "to": Key(Text(r"/.+", like="an absolute path"), "path in the guest", required=True),
        "mode": Key(Text(r"0?[0-7]{3}", like="a mode such as 755"), "permissions (644)"),
    }, "in push"), "copy a file into the guest"),
    "bring": Verb(Choice(tuple(FOREIGN)), "copy a program that guests do not have to /tmp (ffmpeg, 80 MB)"),
    "write": Verb(MapOf(Text(), Text(r"/.+", like="an absolute path")), "files of the guest: path, content"),
    "load": Verb(Either((Section({
        "module": Key(Text(), "its name, or a file of the host", required=True),
        "parameters": Key(MapOf(Scalar()), "its parameters"),
    }, "in load"), Text()), "a module"), "load a module", {"fails": _FAILS}),
    "unload": Verb(_NAME, "unload a module and all that use it", {"fails": _FAILS}),
    "unbind": Verb(_NAME, "take the card from this driver", {"fails": _FAILS}),
    "bind": Verb(_NAME, "give the card to this driver", {"fails": _FAILS}),
    "another": Verb(Section({
        "board": Key(_NAME, "which board (vcapdev list boards)"),
        "norm": Key(Choice(NORMS), "what its camera sends"),
    }, "in another"), "a second card is put into the second slot: /dev/video1, /dev/vbi1"),
    "unplug": Verb(Choice(("card",)), "pull the card out", {"fails": _FAILS}),
    "plug": Verb(Choice(("card",)), "put it back in", {"fails": _FAILS}),
    "fault": Verb(Section({
        "name": Key(_NAME, "which (docs/pytest.md lists them)", required=True),
        "at": Key(Number(1, 1_000_000), "at the so-manieth point at which it can come (1)"),
        "lasts": Key(Number(0, 100_000), "how long: milliseconds, handler runs or fields"),
    }, "in fault"), "a fault of the card within the steps", {
        "steps": _BLOCK, "must": Key(Flag(), "false: it does not matter whether its point comes")}),
    "signal": Verb(Section({
        "norm": Key(Choice(NORMS), "what the camera sends from now on"),
        "connected": Key(Flag(), "whether its cable is in"),
    }, "in signal"), "what comes in at the card's input"),
    "clock": Verb(Choice(CLOCKS), "the card's clock"),
    "step": Verb(Number(1, 10_000), "so many fields; the clock must be 'step'", {"timeout": _TIMEOUT}),
    "wait": Verb(Section({
        "fields": Key(Number(1, 100_000_000), "until the card has sent so many more fields"),
        "frames": Key(Number(1, 50_000_000), "until it has sent so many more frames into memory"),
    }, "in wait"), "wait for the card", {"timeout": _TIMEOUT}),
    "reboot": Verb(Flag(), "end the guest, dead or alive, and boot it afresh"),
    "settle": Verb(Flag(), "wait until every pin is given back"),
    "pressure": Verb(Either((Section({
        "kind": Key(Choice(tuple(PRESSURES)), "which", required=True),
        "every": Key(_TIME, "time between two rounds"),
        "percent": Key(Number(1, 400), "of the available memory (hog)"),
    }, "in pressure"), Choice(tuple(PRESSURES))), "a kind of pressure"), "memory pressure around steps",
        {"steps": _BLOCK}),
    "meanwhile": Verb(Steps(), "captures and commands beside the steps; then they are waited for",
                      {"steps": _BLOCK,
                       "frames": Key(Number(1, 1_000_000), "frames of each capture before the steps begin"),
                       "stop": Key(Flag(), "they are ended after the steps, not waited for")}),
    "violation": Verb(ListOf(_NAME, single=True), "rules that must be violated by the steps",
                      {"steps": _BLOCK, "also": _ALSO}),
    "complaint": Verb(ListOf(Text(), single=True), "what the guest's kernel must complain about in the steps",
                      {"steps": _BLOCK}),
    "repeat": Verb(Number(1, 100_000), "the steps, so many times", {"steps": _BLOCK}),
    "each": Verb(MapOf(ListOf(Scalar())), "the steps for every combination; ${name} stands for the value",
                 {"steps": _BLOCK}),
}  # fmt: skip


def _read_step(node: Node, place: Place) -> Iterator[Step]:
    found = pairs(node, place)
    verbs = [(name, key) for name, key, _ in found if name in VERBS]
    if len(verbs) != 1:
        names = [name for name, _, _ in found]
        if verbs:
            raise place.wrong(verbs[1][1], f"one step, one thing to do: {verbs[0][0]!r} or {verbs[1][0]!r}")
        raise place.wrong(
            node, f"there is no step {names[0] if names else ''!r}{hint((names or [''])[0], list(VERBS))}"
        )
    name = verbs[0][0]
    if name == "each":
        yield from _turns(node, place)
        return
    read = VERBS[name].section(name).read(node, place)
    _check(name, read, node, place)
    steps = read.pop("steps", ())
    yield Step(name, read.pop(name), read, steps, node.start_mark.line + 1)


def _check(name: str, read: Json, node: Node, place: Place) -> None:
    if name == "meanwhile":
        strange = [step.verb for step in read[name] if step.verb not in ("capture", "run")]
        if strange:
            raise place.wrong(node, f"only 'capture' and 'run' can go on meanwhile, not {strange[0]!r}")
    if name == "wait" and len(read[name]) != 1:
        raise place.wrong(node, "wait for 'fields' or for 'frames'")


def _turns(node: Node, place: Place) -> Iterator[Step]:
    """An ``each``: the steps for every combination of values, the last name varying fastest."""
    parts = {name: value for name, _, value in pairs(node, place)}
    known = ("each", "steps", "title")
    for name, key, _ in pairs(node, place):
        if name not in known:
            raise place.wrong(key, f"there is no key {name!r} beside 'each'{hint(name, known)}")
    if "steps" not in parts:
        raise place.wrong(node, "the key 'steps' is missing beside 'each': the steps inside")
    values = VERBS["each"].kind.read(parts["each"], place)
    combinations = list(itertools.product(*values.values()))
    if len(combinations) > _MOST_TURNS:
        raise place.wrong(node, f"{len(combinations)} combinations; at most {_MOST_TURNS}")
    for combination in combinations:
        chosen = dict(zip(values, combination, strict=True))
        steps = Steps().read(substituted(parts["steps"], chosen), place)
        yield Step("group", chosen, {"title": " ".join(combination)}, steps, node.start_mark.line + 1)


_GLOBS = ListOf(Text(), single=True)
_MACHINE = {
    "kernel": Key(_GLOBS, "recipes that it is for: names or globs (all)"),
    "not-on": Key(MapOf(Text()), "recipes (globs) that it cannot be played on, and why"),
    "memory": Key(Either((Number(128, 16384), Text(r"\d+[MG]", like="memory such as 256M")), "memory"),
                  "RAM of the guest: MiB, or 256M, 1G"),
    "swap": Key(Choice(("none", "zram", "disk")), "where pages can be swapped to"),
    "cpus": Key(Number(1, 16), "number of CPUs"),
    "iommu": Key(Flag(), "whether an IOMMU stands between card and RAM"),
    "append": Key(Text(), "more kernel parameters"),
    "second-slot": Key(Flag(), "whether there is a slot for a second card"),
    "modules": Key(ListOf(Text()), "files of modules that take the places of the stock ones"),
    "mutant": Key(_NAME, "an altered driver in the place of the stock one"),
    "parameters": Key(MapOf(Scalar()), "module: its parameters"),
    "allow": Key(ListOf(Text()), "complaints and findings that are none"),
    "fresh": Key(Flag(), "wants a guest that no other scenario has used"),
}  # fmt: skip
_CARD = Section(
    {
        "board": Key(_NAME, "which board (vcapdev list boards)"),
        "revision": Key(Choice(("0x11", "0x02")), "PCI revision of the chip"),
        "norm": Key(Choice(NORMS), "what the camera sends"),
        "clock": Key(Choice(CLOCKS), "paced, real, fast or step"),
    },
    "in card",
)
_EXPECT = Section(
    {
        "verdicts": Key(Either((Choice(("none", "any")), ListOf(_NAME)), "none, any, or a list of rules"),
                        "what the checker must find, and nothing else (none)"),
        "also": _ALSO,
        "pages": Key(Number(0, 1_000_000_000), "pages that must have been judged (where the card wrote: 1)"),
        "unjudged": Key(Flag(), "true: the card writes where nothing can be judged, as outside of RAM"),
        "kernel-log": Key(Section({
            "has": Key(ListOf(_REGEX, single=True), "found in it, each"),
            "lacks": Key(ListOf(_REGEX, single=True), "not found in it"),
        }, "in kernel-log"), "the guest's kernel log since the scenario's begin"),
    },
    "in expect",
)  # fmt: skip
_VARIANT = Section(
    {
        **_MACHINE,
        "title": Key(Text(), "what is different"),
        "card": Key(_CARD, "the card"),
        "expect": Key(_EXPECT, "what must come of it"),
        "red": Key(_REGEX, "this one has to fail, and one of its failures to say this: a control"),
    },
    "in a variant",
)
SCENARIO = Section(
    {
        "title": Key(Text(), "what it is about, in a few words", required=True),
        "about": Key(Text(), "more words"),
        **_MACHINE,
        "card": Key(_CARD, "the card"),
        "steps": Key(Steps(), "what is done", required=True),
        "expect": Key(_EXPECT, "what must have come of it at the end"),
        "variants": Key(MapOf(_VARIANT, _NAME), "the same with something changed: each is a test of its own"),
    },
    "in a scenario",
)


def schema() -> Json:
    """The published JSON schema (docs/scenario.schema.json)."""
    steps = [described(verb.section(name).schema(), verb.text) for name, verb in VERBS.items()]
    return {
        "$schema": SCHEMA_ID,
        "title": "a scenario of vcapdev",
        **SCENARIO.schema(),
        "$defs": {"step": {"oneOf": steps}},
    }


if __name__ == "__main__":
    import json

    print(json.dumps(schema(), indent=1))
