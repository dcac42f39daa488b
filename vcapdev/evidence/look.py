# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev look BUNDLE``: a prompt at a finding that was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vcapdev.errors import ExitStatus
from vcapdev.evidence.bundle import CORE, read_index
from vcapdev.evidence.image import ImageMap, core_map
from vcapdev.guestmm.kernel import attach
from vcapdev.guestmm.memory import GuestMemory

Json = dict[str, Any]


def look(directory: Path) -> ExitStatus:
    """Print the finding and open the prompt, which reads standard input.

    :raise UsageError: when the directory is no bundle.
    :raise AttachError: when its memory holds no kernel that is understood.
    """
    index = read_index(directory)
    verdict = index.get("verdict") or {}
    print(str(verdict.get("splat", "")), end="", flush=True)
    with core_map(directory / CORE) as memory:
        prompt(memory, verdict)
    return ExitStatus.CLEAN


def prompt(memory: ImageMap, verdict: Json) -> bool:
    """The prompt over guest memory, live or kept; False when it was left by ``exit()``.

    :raise AttachError: when the memory holds no kernel that is understood.
    """
    from vcapdev.evidence.bindings import Bindings  # drgn is loaded for this only
    from vcapdev.evidence.prompt import open_prompt

    bindings = Bindings(attach(GuestMemory(memory), known=memory.note), verdict)
    return open_prompt(bindings.program, bindings, bindings.banner())
