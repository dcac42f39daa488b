# SPDX-License-Identifier: GPL-2.0-or-later
"""Where vcapdev keeps things: one cache a user, shared by all checkouts."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The per-user cache: ``$VCAPDEV_CACHE``, else ``$XDG_CACHE_HOME/vcapdev``, else ``~/.cache/vcapdev``.

    The directory is not created here.
    """
    override = os.environ.get("VCAPDEV_CACHE")
    if override:
        return Path(override).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    base = Path(xdg) if xdg and os.path.isabs(xdg) else Path.home() / ".cache"
    return base / "vcapdev"
