# SPDX-License-Identifier: GPL-2.0-or-later
"""A Bt878 capture card for QEMU guests, with every DMA write checked against the guest's page state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcapdev.testing.marks import every_fault, guest

__version__ = "0.1.0"
__all__ = ["__version__", "every_fault", "guest"]


def __getattr__(name: str) -> Any:
    """What stands above tests needs pytest, which nothing else here does: imported when it is asked for."""
    if name not in ("every_fault", "guest"):
        raise AttributeError(f"module 'vcapdev' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("vcapdev.testing.marks"), name)
