# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the end of a device process from a guest whose program keeps the engine busy for seconds."""

from __future__ import annotations

import os

import numpy as np

from vcapdev.dma import Batch
from vcapdev.serve.card import Card
from vcapdev.serve.options import ServeOptions
from vcapdev.vfiouser.reactor import Reactor

PAGE = 4096
MEMORY = PAGE * 400
SYNC_FM1, WRITE, SOL_EOL, JUMP = 0x8000_0006, 0x1000_0000, 3 << 26, 0x7000_0000
EVERY_OTHER_BYTE = 0x5000  # byte lanes that are disabled: each line becomes hundreds of pieces
WIDTH, LINES = 1020, 288


class Stopper:
    """A DMA observer that asks the process to end when the first batch has been moved."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.batches = 0

    def after_write(self, batch: Batch) -> None:
        self.batches += 1
        self._reactor.stop()

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


def test_a_long_field_is_given_up_when_the_process_is_to_end() -> None:
    ram = os.memfd_create("ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(ram, MEMORY)
    reactor = Reactor()
    card = Card(ServeOptions(clock="step"), reactor, lambda verdict: None, lambda: None)
    card.server.memory.map(0, MEMORY, ram, 0, writable=True)
    card.config.write(0x04, b"\x06\x00")
    program = [SYNC_FM1, 0]
    for line in range(LINES):
        program += [WRITE | SOL_EOL | EVERY_OTHER_BYTE | WIDTH * 4, (line + 4) * PAGE]
    program += [JUMP, 0]
    code = np.array(program, "<u4").view(np.uint8)
    card.server.memory.segments[0].data[: len(code)] = code
    crop = WIDTH >> 8 & 3 | 0x20  # VACTIVE is 576
    for base in (0, 0x80):
        for offset, value in ((0x0C, crop), (0x1C, WIDTH & 0xFF), (0x14, 576 & 0xFF), (0x10, 0x20),
                              (0x4C, 0x20), (0x50, 0)):  # fmt: skip
            card.chip.bar_write(base + offset, 4, value)
    card.chip.bar_write(0xDC, 4, 3)
    observer = Stopper(reactor)
    card.bus.observers.append(observer)  # type: ignore[arg-type]
    card.chip.bar_write(0x10C, 4, 3)
    card.chip.clock.step()
    assert observer.batches == 1, "the field went on"
    assert not card.chip.dma_running
    card.close()
    reactor.close()
