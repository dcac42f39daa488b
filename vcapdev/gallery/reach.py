# SPDX-License-Identifier: GPL-2.0-or-later
"""Which statements of the driver each act runs.

Of a change in a statement that is never run nothing can be learnt, and a change is worth playing only in the
acts that run it. So the driver is built once with a mark before every statement, and each act is played with
it. The marks are module parameters: arrays of bytes, which sysfs tells and takes back::

    if (!pages)                      { vcap_ran_thing[12] = 1; if (!pages)
            return -ENOMEM;    -->           { vcap_ran_thing[13] = 1; return -ENOMEM; } }

Functions that the compiler puts into others count as well, which the kernel's own tracer cannot see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vcapdev.errors import GuestError, SetupError
from vcapdev.gallery.acts import Act
from vcapdev.gallery.csource import Function, Statement, functions
from vcapdev.gallery.scene import Machine, Outcome, Scene
from vcapdev.gallery.stage import Stage
from vcapdev.image.drivertree import Change

#: Name of the driver variant with marks.
MARKED = "marked"
_LOADED, _TOLD, _ZEROS = "/tmp/vcap-ran-loading", "/tmp/vcap-ran", "/tmp/vcap-ran-zeros"
_MOST = 2000  # statements of a file: sysfs tells a parameter in one page
_FILES = "/sys/module/*/parameters/vcap_ran_*"

Place = tuple[str, int]  # file, where the statement begins


@dataclass(frozen=True)
class Marks:
    """A marked file. ``starts``: by the mark's number, where its statement begins."""

    file: str
    text: str
    starts: tuple[int, ...]

    @property
    def parameter(self) -> str:
        """The name of its array."""
        return _parameter(self.file)


@dataclass
class Reach:
    """What was run: places by act, and places that run while the driver is loaded."""

    by_act: dict[str, set[Place]] = field(default_factory=dict)
    loading: set[Place] = field(default_factory=set)

    def acts(self, place: Place) -> list[str]:
        """Names of the acts that run a statement; all of them when loading the driver does."""
        return [name for name, places in self.by_act.items() if place in places or place in self.loading]


def _parameter(file: str) -> str:
    stem = file.rpartition("/")[2].removesuffix(".c")
    return "vcap_ran_" + re.sub(r"\W", "_", stem)


def marked(file: str, text: str) -> Marks:
    """The same file with a mark before every statement.

    :raise SetupError: it has more statements than can be told.
    """
    edits: list[tuple[int, int, str]] = []  # place, order, text
    starts: list[int] = []
    name = _parameter(file)
    for function in functions(text):
        for statement, alone in _statements(function):
            number = len(starts)
            starts.append(statement.start)
            edits.append((statement.start, 1, f"{'{ ' if alone else ''}{name}[{number}] = 1; "))
            if alone:
                edits.append((statement.end, 0, " }"))
    if len(starts) > _MOST:
        raise SetupError(f"{file} has {len(starts)} statements; no more than {_MOST} can be marked")
    whole = text
    # From the end on; at one place closing braces come before what opens the next statement.
    for place, _, new in sorted(edits, key=lambda edit: (edit[0], edit[1]), reverse=True):
        whole = whole[:place] + new + whole[place:]
    head = (
        "#include <linux/module.h>\n#include <linux/moduleparam.h>\n"
        f"static unsigned char {name}[{len(starts)}];\n"
        f"module_param_array({name}, byte, NULL, 0644);\n"
    )
    return Marks(file, _behind_includes(whole, head), tuple(starts))


def _behind_includes(text: str, new: str) -> str:
    """pr_fmt() has to come first of all."""
    last = [match.end() for match in re.finditer(r"^#include [^\n]*\n", text, re.M)][-1]
    return text[:last] + new + text[last:]


def _statements(function: Function) -> list[tuple[Statement, bool]]:
    """Those that can be marked, each with whether it stands alone where a block could."""
    found: list[tuple[Statement, bool]] = []

    def visit(one: Statement) -> None:
        for part in one.parts:
            if part.kind not in ("block", "label", "empty"):
                found.append((part, one.kind != "block"))
            visit(part)

    visit(function.body)
    return found


def change_of(marks: Sequence[Marks]) -> Change:
    """The driver variant with marks."""
    return Change(MARKED, texts={one.file: one.text.encode("utf-8", "surrogateescape") for one in marks})


def reach_of(
    stage: Stage, acts: Sequence[Act], marks: Sequence[Marks], others: Mapping[Machine, Stage] | None = None
) -> tuple[Reach, dict[str, dict[str, int]]]:
    """Play every act with the marked driver, which ``stage`` must know as :data:`MARKED`.

    ``others`` are the stages of acts that want another machine.

    Gives what was run, and by act what the card is set up for at its end.

    :raise GuestError: an act does not go well with it.
    """
    reach, settings, usual = Reach(), {}, stage
    for act in acts:
        stage = (others or {}).get(act.scene.machine, usual)
        scene = act.with_driver(MARKED)
        played = replace(scene, setup=(*_FORGET, *scene.setup), teardown=(*scene.teardown, *_TELL))
        outcome = _go_well(stage, act, played)
        told = stage.pull(_TOLD).decode("ascii", "replace")
        reach.by_act[act.name] = places(told, marks)
        settings[act.name] = act.settings_of(outcome, stage)
        if not reach.loading:
            reach.loading = places(stage.pull(_LOADED).decode("ascii", "replace"), marks)
    return reach, settings


def _go_well(stage: Stage, act: Act, scene: Scene) -> Outcome:
    for _ in range(2):  # once a slow host may be at fault
        outcome = stage.run_scene(scene)
        wrong = outcome.trouble or act.missed(outcome, stage) or ", ".join(sorted(outcome.rules))
        if not wrong and stage.up:
            return outcome
    wrong = wrong or "no guest is left"
    raise GuestError(f"{act.name} does not go well with the driver as it is: {wrong}")


_SHOW = f'for f in {_FILES}; do test -e "$f" && echo "$f $(cat $f)"; done; true'
_FORGET = (
    f"{{ {_SHOW}; }} > {_LOADED}",
    f"for f in {_FILES}; do test -e $f || continue; sed 's/1/0/g' $f > {_ZEROS}; cat {_ZEROS} > $f; done",
)
_TELL = (f"{{ {_SHOW}; }} > {_TOLD}",)


def places(told: str, marks: Sequence[Marks]) -> set[Place]:
    """Read what the shell lines tell: a parameter's path and its values on each line."""
    by_name = {one.parameter: one for one in marks}
    found: set[Place] = set()
    for line in told.splitlines():
        path, _, values = line.partition(" ")
        one = by_name.get(path.rpartition("/")[2])
        if one is not None:
            flags = values.split(",")
            found |= {
                (one.file, start) for start, flag in zip(one.starts, flags, strict=False) if flag == "1"
            }
    return found


def statements_in(marks: Sequence[Marks]) -> int:
    """How many statements are marked in all."""
    return sum(len(one.starts) for one in marks)
