# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests against a guest and its card: the objects, and the pytest plugin that hands them out.

::

    import vcapdev


    @vcapdev.guest(kernel="bookworm-6.1", memory="256M", swap="disk")
    def test_userptr_survives_reclaim(guest, card):
        with guest.pressure("pageout", every="50ms"):
            result = guest.capture(frames=50, io="userptr", size="768x576", format="YUYV")
        assert result.intact == 50
        card.dma.assert_clean()

docs/pytest.md is the tutorial. What costs time to import is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcapdev.errors import ViolationError
    from vcapdev.testing.capture import CaptureResult, RunningCapture
    from vcapdev.testing.card import Card, RegisterValue
    from vcapdev.testing.complaints import Complaint
    from vcapdev.testing.config import GuestConfig, config_from
    from vcapdev.testing.guest import CommandError, Guest, Result
    from vcapdev.testing.pressure import Pressure
    from vcapdev.testing.states import State

_PLACES = {
    "CaptureResult": "capture",
    "Card": "card",
    "CommandError": "guest",
    "Complaint": "complaints",
    "Guest": "guest",
    "GuestConfig": "config",
    "Pressure": "pressure",
    "RegisterValue": "card",
    "Result": "guest",
    "RunningCapture": "capture",
    "State": "states",
    "config_from": "config",
}

__all__ = [
    "CaptureResult",
    "Card",
    "CommandError",
    "Complaint",
    "Guest",
    "GuestConfig",
    "Pressure",
    "RegisterValue",
    "Result",
    "RunningCapture",
    "State",
    "ViolationError",
    "config_from",
]


def __getattr__(name: str) -> Any:
    if name == "ViolationError":
        return importlib.import_module("vcapdev.errors").ViolationError
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
