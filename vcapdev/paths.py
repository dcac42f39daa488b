# SPDX-License-Identifier: GPL-2.0-or-later
"""Where vcapdev keeps things: one cache a user, shared by all checkouts."""

from __future__ import annotations

import os
from pathlib import Path

from vcapdev.errors import SetupError


def cache_dir() -> Path:
    """The per-user cache: ``$VCAPDEV_CACHE``, else ``$XDG_CACHE_HOME/vcapdev``, else ``~/.cache/vcapdev``.

    The directory is not created here. ``tools/python`` asks this, too, when there is no package yet.

    :raise SetupError: it would be in a home, and there is none.
    """
    override = os.environ.get("VCAPDEV_CACHE")
    xdg = os.environ.get("XDG_CACHE_HOME")
    try:
        if override:
            return Path(override).expanduser().absolute()
        if xdg and os.path.isabs(xdg):
            return Path(xdg) / "vcapdev"
        return Path.home() / ".cache" / "vcapdev"
    except RuntimeError as error:
        raise SetupError("no place for the cache: set VCAPDEV_CACHE to a directory, or HOME") from error
