# SPDX-License-Identifier: GPL-2.0-or-later
"""The altered drivers of guest/mutants: a small diff each, and what it has to show.

NAME.diff applies with ``patch -p1`` to a kernel source tree; NAME.yaml beside it says::

    title: a few words              rule: the checker's rule that must fire (vcapdev/dmacheck)
    what: one or two sentences      also: rules that may fire beside it
    run: {io: userptr, clean: true} what a run needs for it to show (options of the capture program)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
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


def mutants(directory: Path | None = None) -> list[Mutant]:
    """All altered drivers, sorted by name. :raise UsageError: when one is described wrongly."""
    where = directory if directory is not None else resource_dir("guest") / "mutants"
    return [_read(path) for path in sorted(where.glob("*.diff"))]


def find_mutant(name: str, directory: Path | None = None) -> Mutant:
    """The altered driver of that name. :raise UsageError: when there is none, with what there is."""
    known = {mutant.name: mutant for mutant in mutants(directory)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join((*known, UNALTERED, STOCK))}"
        raise UsageError(f"there is no altered driver {name!r}; {hint}")
    return known[name]


def _read(diff: Path) -> Mutant:
    about = diff.with_suffix(".yaml")
    try:
        data = yaml.safe_load(about.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{diff} has no description {about.name} beside it") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{about} is not valid YAML: {' '.join(str(error).split())}") from None
    files = tuple(_TOUCHED.findall(diff.read_text(encoding="utf-8")))
    if not files:
        raise UsageError(f"{diff} changes no file: '+++ b/PATH' lines of a unified diff are needed")
    if not isinstance(data, dict) or set(data) != _KEYS:
        raise UsageError(f"{about} must be a mapping with the keys {', '.join(sorted(_KEYS))}")
    if not all(isinstance(data[key], str) for key in ("title", "what", "rule")):
        raise UsageError(f"{about}: title, what and rule must be text")
    if not isinstance(data["also"], list) or not isinstance(data["run"], dict):
        raise UsageError(f"{about}: also must be a list, run a mapping")
    return Mutant(
        name=diff.stem,
        title=data["title"],
        what=" ".join(data["what"].split()),
        rule=data["rule"],
        also=tuple(map(str, data["also"])),
        run=data["run"],
        diff=diff,
        files=files,
    )
