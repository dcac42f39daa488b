# SPDX-License-Identifier: GPL-2.0-or-later
"""From the description of an altered driver (guest/mutants/NAME.yaml) to the scene that shows it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any

from vcapdev.errors import UsageError
from vcapdev.gallery.blame import either
from vcapdev.gallery.scene import Expectation, Machine, Picture, Scene
from vcapdev.image.mutants import Mutant
from vcapdev.run.capture import EXPECT

#: A "rule" for drivers that break no rule on pages: only the content of frames can tell.
FRAMES = "frames"
#: Another: the guest's kernel stumbles over the fault before the card writes anything.
GUEST = "guest"
_ENDS = frozenset({0, 1, 3, -9})  # damaged frames, failed calls and kills are what altered drivers bring
_PICTURE = ("norm", "format", "width", "height", "field")
_CAPTURE = ("io", "frames", "buffers", "pool", "offset", "pageout", "hold-ms", "full-every")
_KNOWN = {*_CAPTURE, "clean", "scene", "program", "beside", "setup", "teardown", "clock", "timeout", "unload",
          "files"}  # fmt: skip


def scene_of(mutant: Mutant, *, modules: str | None = None) -> Scene:
    """The scene in which ``mutant`` must be caught; ``modules`` names the variant (the mutant's own name).

    :raise UsageError: its description asks for something unknown.
    """
    run = mutant.run
    unknown = sorted(set(run) - _KNOWN)
    if unknown:
        raise UsageError(f"mutant {mutant.name}: run has unknown keys {', '.join(unknown)}")
    program = _program(mutant)
    rules = either(mutant.rule) - {FRAMES, GUEST}
    loose = len(rules) > 1  # one of them is enough
    return Scene(
        name=mutant.name,
        title=mutant.title,
        program=program,
        kernels=mutant.kernels,
        setup=_lines(run.get("setup", ())),
        teardown=_lines(run.get("teardown", ())),
        modules=modules or mutant.name,
        beside=tuple(tuple(shlex.split(words)) for words in _lines(run.get("beside", ()))),
        expect=Expectation(
            rules=frozenset() if loose else rules, also=frozenset(mutant.also) | rules, statuses=_ENDS
        ),
        picture=_picture(program),
        machine=_machine(mutant),
        clock=str(run.get("clock", "fast")),
        timeout=float(run.get("timeout", 60)),
        unload=True,
        ruins=mutant.ruins,
    )


def _program(mutant: Mutant) -> tuple[str, ...]:
    run = mutant.run
    if "program" in run:
        return tuple(shlex.split(str(run["program"])))
    if "scene" in run:
        return ("vcap-scene", "--expect", EXPECT, *shlex.split(str(run["scene"])))
    words = ["vcap-capture", "--expect", EXPECT]
    for name, value in {"frames": 20, "hold-ms": 100, **run}.items():
        if name in _CAPTURE:
            words += [f"--{name}", str(value)]
    return (*words, "--clean") if run.get("clean") else tuple(words)


def _picture(program: tuple[str, ...]) -> Picture:
    """What the program's options say of it: the file that it compares frames with must fit."""
    said = dict(pairwise(program))
    width, _, height = said.get("--size", "768x576").partition("x")
    return Picture(
        norm=said.get("--norm", "PAL"),
        format=said.get("--format", "YUYV"),
        width=int(width),
        height=int(height),
        field=said.get("--field", "interlaced"),
    )


def _machine(mutant: Mutant) -> Machine:
    known = {each.name for each in fields(Machine)}
    unknown = sorted(set(mutant.machine) - known)
    if unknown:
        raise UsageError(f"mutant {mutant.name}: machine has unknown keys {', '.join(unknown)}")
    wanted: Mapping[str, Any] = mutant.machine
    return Machine(**wanted)


def _lines(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value))
