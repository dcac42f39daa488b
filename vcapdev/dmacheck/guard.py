# SPDX-License-Identifier: GPL-2.0-or-later
"""An observer of a device never raises."""

from __future__ import annotations

from collections.abc import Callable

from vcapdev.dmacheck.oddities import Oddities
from vcapdev.guestmm.btf import BtfError
from vcapdev.guestmm.memory import GuestReadError

_MAX_DEFECTS = 20


class Guard:
    """Runs steps: guest data that lead nowhere are counted, defects of ours are kept for the report."""

    def __init__(self, oddities: Oddities) -> None:
        self._oddities = oddities
        self.defects: list[str] = []

    def __call__(self, step: Callable[[], object]) -> bool:
        """Whether the step got to its end."""
        try:
            step()
        except (GuestReadError, BtfError):
            self._oddities.add("unreadable")
        except Exception as error:  # a defect must not stop the device; the run reports it
            text = f"{type(error).__name__}: {error}"
            if text not in self.defects and len(self.defects) < _MAX_DEFECTS:
                self.defects.append(text)
        else:
            return True
        return False
