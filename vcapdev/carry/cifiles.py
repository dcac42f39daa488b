# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev ci``: ready files for CI servers."""

from __future__ import annotations

import argparse
from pathlib import Path

from vcapdev.errors import ExitStatus, SetupError, UsageError

_HERE = Path(__file__).with_name("ci")
#: What can be asked for: the file, and where it usually goes.
FILES = {
    "shell": ("vcapdev-ci.sh", "vcapdev-ci.sh"),
    "github": ("github.yml", ".github/workflows/dma.yml"),
    "gitlab": ("gitlab.yml", ".gitlab-ci.yml"),
    "container": ("Containerfile", "Containerfile"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options on ``parser``."""
    parser.add_argument("what", choices=FILES, help="for which server; github and gitlab call what shell is")
    parser.add_argument("path", nargs="?", type=Path, metavar="FILE", help="where to (printed)")


def text_of(what: str) -> str:
    """A ready file."""
    return (_HERE / FILES[what][0]).read_text(encoding="utf-8")


def run(what: str, path: Path | None) -> ExitStatus:
    """Print it, or write it where there is no file yet.

    :raise UsageError: there is one. :raise SetupError: it cannot be written.
    """
    text = text_of(what)
    if path is None:
        print(text, end="")
        return ExitStatus.CLEAN
    if path.exists():
        raise UsageError(f"{path} is there already; remove it, or name another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        if text.startswith("#!"):
            path.chmod(path.stat().st_mode | (path.stat().st_mode & 0o444) >> 2)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror}; name another place") from None
    return ExitStatus.CLEAN
