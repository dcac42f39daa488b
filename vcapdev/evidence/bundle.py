# SPDX-License-Identifier: GPL-2.0-or-later
"""A bundle: a directory with everything that is needed to look at a finding later (docs/bundle.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcapdev import __version__
from vcapdev.errors import SetupError, UsageError
from vcapdev.evidence.elfcore import write_core
from vcapdev.evidence.image import ImageMap
from vcapdev.guestmm.kernel import AttachError, Kernel, attach
from vcapdev.guestmm.memory import GuestMemory
from vcapdev.guestmm.pages import PageSet

INDEX, CORE = "bundle.json", "memory.core"
FORMAT = 1
MAX_TEXT = 4 << 20  # bytes of each log; the end of a longer one is kept
_STRIDE = 1 << 16  # pages decoded at a time
_OPENING = """\
A finding of vcapdev, kept as it was with the guest stopped.
  vcapdev look {directory}        a drgn prompt with page, vma, task, buffer, instruction bound
  drgn -c memory.core             drgn itself; types need the kernel's debug information (-s vmlinux)
  crash vmlinux memory.core       crash, with the kernel's debug information
"""

Json = dict[str, Any]
Pages = NDArray[np.int64]


@dataclass(frozen=True)
class Content:
    """What goes into a bundle beside memory.

    :ivar verdict: as the device reports it.
    :ivar texts: file name to text: logs, traces, the vCPUs' registers.
    :ivar registers: of each vCPU, for the memory image.
    """

    verdict: Json
    vcpus_stopped: bool
    texts: Mapping[str, str]
    registers: Sequence[dict[str, int]] = ()
    report: Json | None = None


def check_target(directory: Path) -> None:
    """Refuse a place that a bundle must not replace.

    :raise UsageError: when something other than an old bundle or an empty directory is there.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"--bundle {directory}: this is a file; name a directory")
    if any(directory.iterdir()) and not (directory / INDEX).is_file():
        raise UsageError(f"--bundle {directory}: the directory holds other files; name a new or empty one")


def write_bundle(directory: Path, memory: ImageMap, content: Content, limit: int) -> Json:
    """Write a bundle, in the place of an older one.

    :param limit: bytes of the memory image, at most; logs are bounded apart (:data:`MAX_TEXT`).
    :return: the index, as in ``bundle.json``.
    :raise UsageError: as :func:`check_target`.
    :raise SetupError: when it cannot be written; what was written by then is removed.
    """
    check_target(directory)
    try:
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        try:
            return _fill(directory, memory, content, limit)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    except OSError as error:
        raise SetupError(
            f"--bundle {directory}: cannot write the bundle ({error.strerror}); name another place"
        ) from error


def _fill(directory: Path, memory: ImageMap, content: Content, limit: int) -> Json:
    kernel, why_not = _find_kernel(memory)
    expendable = [] if kernel is None else _expendable(kernel)
    note = b"" if kernel is None else kernel.note.text
    written = write_core(directory / CORE, memory, note, content.registers, limit, expendable)
    for name, text in content.texts.items():
        data = text.encode("utf-8", "replace")
        (directory / name).write_bytes(data[-MAX_TEXT:])
    splat = str(content.verdict.get("splat", ""))
    (directory / "splat.txt").write_text(splat, "utf-8", "replace")
    (directory / "README").write_text(_OPENING.format(directory=directory.name), "utf-8")
    if content.report is not None:
        _write_json(directory / "report.json", content.report)
    index = {
        "format": FORMAT,
        "vcapdev": __version__,
        "finding": content.verdict.get("key"),
        "kernel": None if kernel is None else kernel.release,
        "build_id": None if kernel is None else kernel.note.build_id,
        "why_no_kernel": why_not,
        "vcpus_stopped": content.vcpus_stopped,
        "vcpus": list(content.registers),
        "memory": {"file": CORE, "page_size": 4096, "limit": limit, **asdict(written)},
        "verdict": content.verdict,
    }
    _write_json(directory / INDEX, index)
    return index


def _write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def read_index(directory: Path) -> Json:
    """The index of a bundle.

    :raise UsageError: when the directory is none.
    """
    try:
        index = json.loads((directory / INDEX).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{directory}: no bundle of vcapdev ({why}); name a directory with {INDEX}"
        ) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UsageError(f"{directory}: a bundle of another format; this vcapdev reads format {FORMAT}")
    return index


def _find_kernel(memory: ImageMap) -> tuple[Kernel | None, str]:
    try:
        return attach(GuestMemory(memory), known=memory.note), ""
    except AttachError as error:
        return None, str(error)


def _expendable(kernel: Kernel) -> list[tuple[str, Pages]]:
    """Page frames that explain least: free ones, then users' that nobody has pinned."""
    free: list[Pages] = []
    users: list[Pages] = []
    lru = kernel.flags.bit("lru")
    for start in range(0, kernel.vmemmap.pages, _STRIDE):
        pages = PageSet(kernel, np.arange(start, min(start + _STRIDE, kernel.vmemmap.pages)))
        pages.read()
        facts = pages.facts()
        sound = facts.present & ~facts.torn
        free.append(facts.pfn[sound & (facts.refcount == 0) & ~facts.typed])
        users.append(facts.pfn[sound & facts.has(lru) & ~facts.pinned & (facts.mapping != 0)])
    return [("free", np.concatenate(free)), ("unpinned user pages", np.concatenate(users))]
