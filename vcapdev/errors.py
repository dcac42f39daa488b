# SPDX-License-Identifier: GPL-2.0-or-later
"""Every error that a user can meet, and the exit status that each one means.

An error's text is one line: what happened, where, and what to do next. ``vcapdev.cli`` prints it without a
traceback (``-v`` shows one) and exits with the class's ``exit_status``. Anything that is not a
:class:`VcapdevError` is a defect of vcapdev and exits with 1.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What the exit status of ``vcapdev`` means. Findings win over a later guest failure."""

    CLEAN = 0
    DEFECT = 1
    USAGE = 2
    FINDINGS = 10
    ENVIRONMENT = 20
    GUEST = 30

    @property
    def meaning(self) -> str:
        """A short phrase, as ``make`` prints it beside the number."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitStatus.CLEAN: "clean: every DMA write went to a page the device was entitled to",
    ExitStatus.DEFECT: "a defect of vcapdev itself; please report it",
    ExitStatus.USAGE: "wrong usage, or a driver of yours that does not compile",
    ExitStatus.FINDINGS: "findings: at least one bad DMA write or damaged frame",
    ExitStatus.ENVIRONMENT: "the environment is missing something (packages, disk, network)",
    ExitStatus.GUEST: "the guest or QEMU failed, or the run was inconclusive",
}


class VcapdevError(Exception):
    """Base of all errors that a user can cause or meet."""

    exit_status = ExitStatus.DEFECT


class UsageError(VcapdevError):
    """The command line, a recipe or a board file asks for something that does not exist."""

    exit_status = ExitStatus.USAGE


class SetupError(VcapdevError):
    """The machine lacks something: a tool, a package, disk space, the network."""

    exit_status = ExitStatus.ENVIRONMENT


class GuestError(VcapdevError):
    """The guest or QEMU failed: no boot, panic, lost connection, time-out."""

    exit_status = ExitStatus.GUEST


class InconclusiveError(GuestError):
    """The run ended, but proves nothing (no page was swapped, the checker could not attach, ...)."""


class ViolationError(AssertionError):
    """In a test: findings or complaints that came and should not have, or the other way round."""
