# SPDX-License-Identifier: GPL-2.0-or-later
"""Data files that a checkout keeps at its top level and the wheel carries as package data."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(name: str) -> Path:
    """Directory ``name`` (``"guest"`` or ``"images"``), in a checkout or in an installed wheel.

    :raise FileNotFoundError: when the installation lacks it (a defect of the packaging).
    """
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"vcapdev was installed without its {name!r} directory")
