# SPDX-License-Identifier: GPL-2.0-or-later
"""Where results come from: the day, the commit, and the command that gives them again."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PATIENCE = 20.0  # seconds for git, on a busy machine
_UNKNOWN = "not from a git checkout"

Json = dict[str, Any]


def commit(directory: Path | None = None) -> str:
    """The commit of the sources, with "+changes" where files differ from it; says so where there is none."""
    where = directory or Path(__file__).resolve().parents[2]
    if not (where / ".git").exists():
        return _UNKNOWN
    head = _git(where, "rev-parse", "--short=12", "HEAD")
    changed = _git(where, "status", "--porcelain", "--untracked-files=no")
    if not head or changed is None:
        return _UNKNOWN
    return head + ("+changes" if changed else "")


def command(argv: Sequence[str] | None = None) -> str:
    """The command line, with the last part only of paths that another machine has not."""
    words = sys.argv[1:] if argv is None else argv
    return shlex.join(["vcapdev", *(Path(word).name if word.startswith("/") else word for word in words)])


def made() -> Json:
    """Day, commit and command, as they go into a report."""
    return {"when": time.strftime("%Y-%m-%d"), "commit": commit(), "command": command()}


def told(about: Mapping[str, Any]) -> str:
    """One line of a page; what a report does not say is left out."""
    said = [
        ("{}", about.get("when")),
        ("commit {}", about.get("commit")),
        ("Linux {}", about.get("release")),
        ("QEMU {}", about.get("qemu")),
        ("`{}`", about.get("command")),
        ("{:g} s in all", about.get("seconds")),
        ("seed {}", about.get("seed")),
    ]
    return ", ".join(form.format(value) for form, value in said if value is not None)


def _git(where: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(where), *words], capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
