# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a report directory: all of it, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.report.model import RunReport

REPORT = "report.json"


def check_target(directory: Path) -> None:
    """Refuse a place that a report must not replace; called before a run begins, not after.

    :raise UsageError: when something other than an old report or an empty directory is there.
    :raise SetupError: when nothing can be written there.
    """
    try:
        _check_content(directory)
        _check_writable(directory.absolute().parent)
    except OSError as error:
        raise _cannot_write(directory, error) from error


def _check_content(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"--report {directory}: this is a file; name a directory")
    if any(directory.iterdir()) and not (directory / REPORT).is_file():
        raise UsageError(f"--report {directory}: the directory holds other files; name a new or empty one")


def _check_writable(parent: Path) -> None:
    """Try it: permissions do not tell what a file system refuses. Nothing stays."""
    while not parent.exists():
        parent = parent.parent
    os.rmdir(tempfile.mkdtemp(prefix=".vcapdev-", dir=parent))


def write_report(directory: Path, report: RunReport, attachments: Mapping[str, bytes | Path]) -> None:
    """Write ``report.json`` and its attachments beside ``directory``, then put them in its place at once.

    :param attachments: file name to its content, or to a file that is copied.
    :raise SetupError: when the disk is full or the place is not writable; nothing half-written stays.
    """
    check_target(directory)
    target = directory.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        _fill(draft, report, attachments)
        _replace(draft, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _cannot_write(target: Path, error: OSError) -> SetupError:
    return SetupError(f"--report {target}: cannot write the report ({error.strerror}); name another place")


def _fill(draft: Path, report: RunReport, attachments: Mapping[str, bytes | Path]) -> None:
    for name, content in attachments.items():
        if isinstance(content, bytes):
            (draft / name).write_bytes(content)
        elif content.is_file():
            shutil.copyfile(content, draft / name)
    (draft / REPORT).write_text(json.dumps(report.to_json(), indent=1) + "\n", "utf-8")
    draft.chmod(0o755)


def _replace(draft: Path, target: Path) -> None:
    """Swap the old report (if any) for the new one; a rename cannot replace a full directory."""
    if not target.exists():
        os.rename(draft, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        os.rename(target, old / "old")
        os.rename(draft, target)
    finally:
        shutil.rmtree(old, ignore_errors=True)
