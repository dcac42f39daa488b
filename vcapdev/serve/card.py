# SPDX-License-Identifier: GPL-2.0-or-later
"""The device process put together: reactor, vfio-user server, PCI function, chip, checker.

::

    QEMU --socket--> Server --> PciFunction --> Bt878 --> BusMaster --> guest RAM
                        |            |            |           |
                     DmaMap     ConfigSpace     Intx      observers: Checker, DmaLog

With a vIOMMU the checker stands behind an observer that translates (see ``vcapdev.dmacheck.iommu``).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vcapdev.bt878.board import DEFAULT, load_board
from vcapdev.bt878.chip import Bt878
from vcapdev.bt878.faults import FaultBox
from vcapdev.bt878.faulty import Armed
from vcapdev.bt878.identity import config_space
from vcapdev.bt878.testcard import card as test_card
from vcapdev.dma import Batch, DmaObserver, MemoryMap
from vcapdev.dmacheck.audit import Audit
from vcapdev.dmacheck.checker import Checker
from vcapdev.dmacheck.recent import Sight
from vcapdev.dmacheck.verdict import Verdict
from vcapdev.guestmm.memory import PAGE_SHIFT
from vcapdev.pci.busmaster import BusMaster
from vcapdev.pci.function import PciFunction
from vcapdev.pci.intx import Intx
from vcapdev.serve.behind import Behind
from vcapdev.serve.dmalog import DmaLog
from vcapdev.serve.framelog import FrameLog
from vcapdev.serve.holding import Holding
from vcapdev.serve.options import ServeOptions
from vcapdev.serve.pausing import Pausing
from vcapdev.serve.timeline import Timeline
from vcapdev.vfiouser.reactor import Reactor
from vcapdev.vfiouser.server import Server

_ATTACH_AGAIN = 5.0  # seconds until the next try to find the guest's kernel
_POLL = 0.02  # seconds between two looks of the checker at pins while no field ends
_BUSY = 0.1  # seconds until the next such question while fields end, each of which has its own look


class Card:
    """One card with its checker, on one reactor.

    :param on_verdict: told of each new kind of finding, once.
    :param on_gone: called when a client has gone, agreed or not, after the card was reset.
    :param on_held: told of the finding at which guest and card are held, and whether the vCPUs stand.
    :param on_fault: told of a fault whose point has come and that somebody else has to carry out.
    :ivar was_connected: whether any client has ever agreed on a version.
    :raise UsageError: no such board, norm or clock mode.
    """

    def __init__(
        self,
        options: ServeOptions,
        reactor: Reactor,
        on_verdict: Callable[[Verdict], None],
        on_gone: Callable[[], None],
        on_held: Callable[[Verdict, bool], None] = lambda verdict, stopped: None,
        on_fault: Callable[[Armed], None] = lambda armed: None,
    ) -> None:
        board = load_board(options.board or DEFAULT)
        if options.revision is not None:
            board = replace(board, revision=options.revision)
        test_card()  # a tenth of a second that no guest shall wait for
        self.board = board
        self.reactor = reactor
        self.config = config_space(board)
        write = self._bar_write if options.iommu is None else self._bar_write_noted
        self.function = PciFunction(self.config, self._bar_read, write, self._reset_chip)
        self.server = Server(self.function, reactor)
        self.bus = BusMaster(self.server.memory, lambda: self.config.bus_master, self._drain)
        self.bus.on_abort = self.config.report_abort
        intx = Intx(self.config, self.server.interrupts.set_level)
        self.chip = Bt878(
            self.bus, intx.set_level, reactor, board, norm=options.norm, clock=options.clock,
            handling=self.server.interrupts.handling,
        )  # fmt: skip
        self.faults = FaultBox(self.chip, reactor, on_fault)
        self.pausing = Pausing(options.qmp, self.server.drain)
        self.holding = Holding(
            self.pausing, self.chip.clock, reactor.call_later, on_held, wanted=options.hold
        )

        self.server.memory.watch(self.bus)
        self.behind = None if options.iommu is None else Behind(
            self.server.memory, options.iommu, reactor.now, lambda: self.chip.stats.fields,
            self.chip.registers.describe,
        )  # fmt: skip

        def found(verdict: Verdict) -> None:
            if self.behind is not None:
                self.behind.observer.annotate(verdict)
            on_verdict(verdict)
            self.timeline.found(verdict.rule.name)
            self.holding.found(verdict)

        self.checker = Checker(
            self.guest_memory, self.chip.describe, self.pausing.pause, self._dma_running, found
        )
        self.checker.audit = Audit(options.audit, options.audit_seed)
        if options.vmlinux is not None:
            self.checker.use_debug_file(options.vmlinux)
        self.dma_log = DmaLog()
        observer: DmaObserver = self.checker if self.behind is None else self.behind.observe(self.checker)
        self.bus.observers += [observer, self.dma_log]
        self.timeline = Timeline(
            self.chip, self.bus.observers, reactor.now, self._state_of, lambda: self.checker.tally()
        )
        self.frames = FrameLog(self.chip, self.bus.observers, lambda: self.checker.sight(), self.page_states)
        if self.behind is None:
            self.server.memory.subscribe(lambda: self.checker.memory_changed())
        self.server.on_connect = self._client_agreed
        self.server.on_disconnect = self._client_gone
        self.server.on_close = on_gone
        self.was_connected = False
        self._next_attach = self._trusted_until = 0.0
        self._polled_at = 0
        reactor.call_later(_POLL, self._poll)

    def close(self) -> None:
        """Let go of QEMU and of guest memory."""
        self.server.on_disconnect = self.server.on_close = None
        self.chip.clock.stop()
        self.pausing.disconnect()
        self.server.close()
        if self.behind is not None:
            self.behind.drop()

    @property
    def guest_memory(self) -> MemoryMap:
        """Guest RAM by physical address."""
        return self.server.memory if self.behind is None else self.behind.ram

    def check_status(self) -> dict[str, Any]:
        """The checker's figures; behind a vIOMMU also those of maps."""
        status = self.checker.status()
        return status if self.behind is None else status | {"iommu": self.behind.observer.status()}

    def settle(self, *, final: bool) -> dict[str, Any]:
        """Is everything given back? See :meth:`vcapdev.dmacheck.checker.Checker.settle`."""
        who = self.checker if self.behind is None else self.behind.observer
        return who.settle(final=final)

    def page_states(self, sight: Sight | None = None) -> dict[int, str]:
        """State of each page of a frame, by default the last, by bus page."""
        who = self.checker if self.behind is None else self.behind.observer
        return who.page_states(sight)

    def attach(self, *, restored: bool = False) -> None:
        """Find the guest's kernel now, answering messages meanwhile.

        :param restored: a guest that goes on from a snapshot has just been given the card: the kernel is up,
            and will find it in a moment.
        """
        self.checker.attach(restored=restored)
        self._next_attach = self.reactor.now() + _ATTACH_AGAIN
        if restored:
            self._trusted_until = self._next_attach
        elif self.checker.attached:
            _keep_from_the_collector()

    def new_scene(self) -> None:
        """Forget findings and figures of the checker; the kernel that it knows stays known.

        Where the driver was exchanged the kernel is looked at again now, before its first program runs.
        """
        old, self.checker = self.checker, self.checker.afresh()
        if self.behind is None:
            self.bus.observers[self.bus.observers.index(old)] = self.checker
        else:
            self.behind.observer.checker = self.checker
        if self.config.bus_master and not self.checker.attached:
            self.checker.attach()

    def _poll(self) -> None:
        """Keep the checker up to date and ready before DMA starts: finding the kernel takes a second.

        A driver that has switched bus mastering on runs in a kernel that has booted far enough.
        """
        now = self.reactor.now()
        if not self.config.bus_master:
            if now >= self._trusted_until:
                self.checker.doubt()  # the kernel is on its way down, or the driver was unloaded
        elif not self.checker.attached and now >= self._next_attach:
            self.attach()
        quiet = self.chip.stats.fields == self._polled_at
        if quiet:
            self.checker.poll()
        self._polled_at = self.chip.stats.fields
        self.reactor.call_later(_POLL if quiet else _BUSY, self._poll)

    def _client_agreed(self) -> None:
        self.was_connected = True
        self.pausing.connect()

    def _client_gone(self) -> None:
        """The next virtual machine finds a card as after power-on."""
        self.holding.resume(hold_again=self.holding.wanted)
        self.pausing.disconnect()
        self.function.reset()
        if self.behind is not None:
            self.behind.drop()

    def _drain(self) -> None:
        """Between batches: hear QEMU; give a field up, which can take seconds, when we are asked to end."""
        self.server.drain()
        if self.reactor.stopping:
            self.chip.engine.stop()

    def _dma_running(self) -> bool:
        self.server.drain()
        return self.chip.dma_running

    # The function is made before the chip, which needs the server's memory, which needs the function.

    def _bar_read(self, offset: int, size: int) -> int:
        return self.chip.bar_read(offset, size)

    def _bar_write(self, offset: int, size: int, value: int) -> None:
        self.chip.bar_write(offset, size, value)

    def _bar_write_noted(self, offset: int, size: int, value: int) -> None:
        if self.behind is not None:
            self.behind.wrote(offset, size, value)
        self.chip.bar_write(offset, size, value)

    def _state_of(self, batch: Batch) -> str:
        if self.behind is None:
            return self.checker.state_of(batch)
        return self.page_states().get(int(batch.addr[0]) >> PAGE_SHIFT, "")

    def _reset_chip(self) -> None:
        self.chip.reset()


def _keep_from_the_collector() -> None:
    """Take what is alive out of the garbage collector's rounds.

    A kernel's types and symbols are some hundred thousand objects that live until the guest's next reboot;
    walking them stopped the card for 0.1 to 0.2 s every few seconds.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
