# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands above a test: ``@vcapdev.guest(...)`` and ``@vcapdev.every_fault(...)``. Cheap to import.

Both are marks, so that they can stand on a class or a module (``pytestmark = vcapdev.guest(swap="disk")``)
as well; what is nearer to the test wins, key by key. Nothing is checked here: an unknown key fails the tests
that it concerns, not the import of their file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import Unpack

    from vcapdev.testing.config import GuestOptions

GUEST = "vcapdev_guest"
EVERY_FAULT = "vcapdev_every_fault"


def guest(**options: Unpack[GuestOptions]) -> pytest.MarkDecorator:
    """Say what guest a test wants; the keys are those of :class:`vcapdev.testing.config.GuestConfig`.

    ``kernel``, ``memory``, ``swap``, ``cpus``, ``iommu``, ``append``, ``qemu_opts``, ``board``, ``revision``
    and ``norm`` decide which machine is booted; ``clock``, ``mutant``, ``modules``, ``parameters``, ``allow``
    and ``fresh`` are set anew for each test.
    """
    mark: pytest.MarkDecorator = getattr(pytest.mark, GUEST)
    return mark(**options)


def every_fault(*names: str, points: int | None = None, lasts: int | None = None) -> pytest.MarkDecorator:
    """Run a test once for each fault that the card can commit, at each point at which it can.

    Each fault becomes a test of its own, ``test_x[interrupt-lost]``; the points are runs within it, until the
    fault does not come any more. Other fixtures than ``guest`` and ``card`` are shared by these runs.

    :param names: which faults; all where none is given (``vcapdev.bt878.faults.FAULTS``).
    :param points: the first so many points of each only.
    :param lasts: how long a fault lasts, see ``card.fault(...)``.
    """
    mark: pytest.MarkDecorator = getattr(pytest.mark, EVERY_FAULT)
    return mark(*names, points=points, lasts=lasts)
