# SPDX-License-Identifier: GPL-2.0-or-later
"""What people have found out about changes by machine that nothing notices: equivalents.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vcapdev.errors import SetupError
from vcapdev.gallery.machine import Equivalence

_KNOWN = Path(__file__).with_name("equivalents.yaml")
_WORDS = ("file", "function", "line", "kind", "title", "reason")


def load_equivalents(path: Path = _KNOWN) -> list[Equivalence]:
    """What people have found out about changes that nothing notices.

    :raise SetupError: the file is not as it must be.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return [
            _entry(one, same)
            for key, same in (("equivalent", True), ("escape", False))
            for one in data.get(key) or ()
        ]
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise SetupError(
            f"{path.name} cannot be read ({said}); it is part of vcapdev: install it again"
        ) from None


def _entry(one: Mapping[str, Any], same: bool) -> Equivalence:
    file, function, line, kind, title, reason = (str(one[name]) for name in _WORDS)
    return Equivalence(
        file,
        function,
        line,
        kind,
        title,
        reason,
        same,
        str(one.get("below", "")),
        int(one.get("changes", 1)),
    )
