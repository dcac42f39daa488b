# SPDX-License-Identifier: GPL-2.0-or-later
"""The altered drivers of guest/mutants: a small diff each, and what it has to show.

NAME.diff applies with ``patch -p1`` to a kernel source tree; NAME.yaml beside it says::

    title: a few words              rule: the checker's rule that must fire (vcapdev/dmacheck)
    what: one or two sentences      also: rules that may fire beside it
    run: {io: userptr, clean: true} what a run needs for it to show (docs/howto/mutant.md lists all keys)
    blame: {instruction: WRITE, buffer: state active, page: last}
                                    what a verdict of the rule has to name, or ``unblamed``: why not all three

and, where it is needed::

    machine: {memory: 640}          what the guest has to be like
    kernels: ["bookworm-*"]         recipes that it is for, where the files of the diff do not say that
    ruins: true                     the guest cannot be trusted after it
    diff: OTHER                     the diff is that of another mutant: the same driver, another trigger

``rule`` may be "A or B", where luck decides which. It may be "frames": no page is wrong, and only the content
of frames can tell; or "guest": the kernel itself stumbles over the fault before the card writes anything.

Beside them lies guest/regressions: fixes of the kernel taken back, described likewise. What they break a
scenario shows (rule "scenario"), so the galleries do not play them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import UsageError
from vcapdev.resources import resource_dir

#: The driver as it is, built the same way as the altered ones: the control experiment.
UNALTERED = "unaltered"
#: Nothing is built: the driver of the kernel's package.
STOCK = "none"
_KEYS = {"title", "what", "rule", "also", "run"}
_MORE = {"blame": dict, "machine": dict, "kernels": list, "ruins": bool, "diff": str}
#: What each has to blame, or to say in ``unblamed`` why it does not.
TO_BLAME = ("instruction", "buffer", "page")
#: A rule of guest/regressions: a scenario shows them, and no verdict has to name anything.
_SCENARIO = "scenario"
_TOUCHED = re.compile(r"^\+\+\+ b/(\S+)", re.M)


@dataclass(frozen=True)
class Mutant:
    """One altered driver. ``files`` are the paths in the kernel source that its diff changes."""

    name: str
    title: str
    what: str
    rule: str
    also: tuple[str, ...]
    run: Mapping[str, Any]
    diff: Path
    files: tuple[str, ...]
    blame: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    kernels: tuple[str, ...] = ("*",)
    ruins: bool = False


def mutants(directory: Path | None = None) -> list[Mutant]:
    """All altered drivers, sorted by name. :raise UsageError: when one is described wrongly."""
    where = directory if directory is not None else resource_dir("guest") / "mutants"
    names = {path.stem for pattern in ("*.diff", "*.yaml") for path in where.glob(pattern)}
    return [_read(where, name) for name in sorted(names)]


def find_mutant(name: str, directory: Path | None = None) -> Mutant:
    """The altered driver of that name. :raise UsageError: when there is none, with what there is."""
    known = {mutant.name: mutant for mutant in mutants(directory)}
    if directory is None and name not in known:
        known |= {mutant.name: mutant for mutant in mutants(resource_dir("guest") / "regressions")}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join((*known, UNALTERED, STOCK))}"
        raise UsageError(f"there is no altered driver {name!r}; {hint}")
    return known[name]


def _read(where: Path, name: str) -> Mutant:
    about = where / f"{name}.yaml"
    data = _described(about)
    diff = where / f"{data.get('diff', name)}.diff"
    if not diff.is_file():
        raise UsageError(f"{about} has no {diff.name} beside it")
    files = tuple(_TOUCHED.findall(diff.read_text(encoding="utf-8")))
    if not files:
        raise UsageError(f"{diff} changes no file: '+++ b/PATH' lines of a unified diff are needed")
    return Mutant(
        name=name,
        title=data["title"],
        what=" ".join(data["what"].split()),
        rule=data["rule"],
        also=tuple(map(str, data["also"])),
        run=data["run"],
        diff=diff,
        files=files,
        blame=data.get("blame", {}),
        machine=data.get("machine", {}),
        kernels=tuple(map(str, data.get("kernels", ("*",)))),
        ruins=data.get("ruins", False),
    )


def _described(about: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(about.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{about.with_suffix('.diff')} has no description {about.name} beside it") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{about} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not _KEYS <= set(data) <= _KEYS | set(_MORE):
        may = f"; it may have {', '.join(sorted(_MORE))}"
        raise UsageError(f"{about} must be a mapping with the keys {', '.join(sorted(_KEYS))}{may}")
    if not all(isinstance(data[key], str) for key in ("title", "what", "rule")):
        raise UsageError(f"{about}: title, what and rule must be text")
    if not isinstance(data["also"], list) or not isinstance(data["run"], dict):
        raise UsageError(f"{about}: also must be a list, run a mapping")
    for key, kind in _MORE.items():
        if key in data and not isinstance(data[key], kind):
            raise UsageError(f"{about}: {key} must be {_KINDS[kind]}")
    if data["rule"] != _SCENARIO:
        _check_blame(about, data.get("blame", {}))
    return data


def _check_blame(about: Path, blame: Mapping[str, Any]) -> None:
    """:raise UsageError: when it names less than it has to, and does not say why."""
    missing = [name for name in TO_BLAME if blame.get(name) is None]
    why = blame.get("unblamed", "")
    if not isinstance(why, str):
        raise UsageError(f"{about}: blame's unblamed must be text: why {' and '.join(missing)} is not named")
    if missing and not why.strip():
        raise UsageError(
            f"{about}: blame must name {', '.join(missing)} as well, or say in 'unblamed' why it cannot"
        )
    if why and not missing:
        raise UsageError(f"{about}: blame names {', '.join(TO_BLAME)}, so leave out 'unblamed'")


_KINDS: dict[type, str] = {dict: "a mapping", list: "a list", bool: "yes or no", str: "text"}
