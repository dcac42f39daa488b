# SPDX-License-Identifier: GPL-2.0-or-later
"""Holding guest and card still at a finding, for somebody to look: until a client says ``resume``.

The vCPUs are stopped by a pause (never from inside a register read: see ``vcapdev.vm.pause``) that is kept
open, and the card's clock is frozen. Only this process goes on: it answers its control channel and QEMU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from vcapdev.bt878.clock import Clock
from vcapdev.dmacheck.verdict import Verdict


class Pauser(Protocol):
    """What is needed of :class:`vcapdev.serve.pausing.Pausing`."""

    @property
    def active(self) -> bool: ...
    def pause(self) -> AbstractContextManager[bool]: ...
    def keep(self) -> None: ...
    def go_on(self) -> None: ...


class Holding:
    """Whether findings hold the guest, and whether one does now.

    :param later: calls back from the event loop, where nothing of QEMU waits for an answer of ours.
    :param on_held: told of the finding and of whether the vCPUs could be stopped.
    :ivar wanted: whether the next finding holds the guest.
    :ivar held: whether it is held.
    """

    def __init__(
        self,
        pauser: Pauser,
        clock: Clock,
        later: Callable[[float, Callable[[], None]], object],
        on_held: Callable[[Verdict, bool], None],
        *,
        wanted: bool,
    ) -> None:
        self._pauser, self._clock, self._later = pauser, clock, later
        self._on_held = on_held
        self.wanted = wanted
        self.held = False

    def found(self, verdict: Verdict) -> None:
        """A new kind of finding: hold at once where the vCPUs stand already, else from the event loop."""
        if not self.wanted or self.held:
            return
        self.wanted, self.held = False, True
        self._clock.freeze()
        if self._pauser.active:
            self._pauser.keep()
            self._on_held(verdict, True)
        else:
            self._later(0, lambda: self._stop(verdict))

    def resume(self, *, hold_again: bool) -> None:
        """Let guest and card go on.

        :param hold_again: whether the next new kind of finding holds them again.
        """
        self.wanted = hold_again
        if self.held:
            self.held = False
            self._pauser.go_on()
            self._clock.thaw()

    def _stop(self, verdict: Verdict) -> None:
        if not self.held:  # the guest has gone meanwhile
            return
        with self._pauser.pause() as stopped:
            if stopped:
                self._pauser.keep()
        self._on_held(verdict, stopped)
