# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects memory from a card that was told to stop: in the middle of a field, at any place.

The guest's messages are handled before each batch; what they change there must be obeyed there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.bttv import (
    CAP_CTL,
    EOL,
    GPIO_DMA_CTL,
    INT_STAT,
    JUMP,
    RESYNC,
    RISC_COUNT,
    RISC_STRT_ADD,
    SOL,
    SYNC,
    VRO,
    WRITE,
)
from support.rootcomplex import Segment
from support.small import LINES, WIDTH, Small

from vcapdev.bt878 import fifo
from vcapdev.bt878.registers import IntStat
from vcapdev.dma import Abort, Batch, Checkpoint

LINE = SOL | EOL | WIDTH
STOP = SYNC | RESYNC | VRO
GROUP = 3  # lines in a batch


@pytest.fixture(params=["fast", "interpreted"])
def card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Four batches a field, on both paths."""
    monkeypatch.setattr(fifo, "GROUP_BYTES", GROUP * WIDTH)
    small = Small()
    small.chip.engine.fast = request.param == "fast"
    return small


def lines(card: Small, count: int = LINES, base: int = 0) -> list[int]:
    return [word for n in range(count) for word in (WRITE | LINE, card.target + base + n * WIDTH)]


def before_batch(card: Small, number: int, act: Callable[[], None]) -> None:
    """Have the guest's message arrive when the ``number``th batch (from 0) is about to be moved."""
    seen = [0]

    def drain() -> None:
        if seen[0] == number:
            act()
        seen[0] += 1

    card.rc.bus.on_drain = drain


def written(card: Small) -> int:
    """How many of the target's lines have arrived, from the first."""
    return sum(not card.untouched(n * WIDTH, WIDTH) for n in range(LINES))


def test_stop(card: Small) -> None:
    """The driver's "stop DMA" is a posted write: nothing is written after it was handled."""
    card.start(*lines(card), STOP)
    before_batch(card, 2, lambda: card.chip.bar_write(GPIO_DMA_CTL, 4, 0))
    card.field()
    assert written(card) == 2 * GROUP
    assert not card.chip.dma_running
    assert card.chip.stats.stopped_fields == 1
    card.field(4)
    assert written(card) == 2 * GROUP


def test_stop_and_start_elsewhere(card: Small) -> None:
    """The new program runs, the old one never again; it waits for the next field."""
    other = card.rc.program(SYNC | 0x6, 0, *lines(card, base=0x4000), STOP)
    card.start(*lines(card), STOP)

    def restart() -> None:
        card.chip.bar_write(GPIO_DMA_CTL, 4, 0)
        card.chip.bar_write(RISC_STRT_ADD, 4, other)
        card.chip.bar_write(GPIO_DMA_CTL, 4, 3)

    before_batch(card, 1, restart)
    card.field()
    assert written(card) == GROUP
    assert card.chip.bar_read(RISC_COUNT, 4) == other
    card.field(2)
    assert written(card) == GROUP
    assert card.memory(0x4000, WIDTH) == card.line(0, frame=2)


def test_fifo_emptied(card: Small) -> None:
    """FIFO_ENABLE off: the rest of the field is gone, the program waits where it was."""
    address = card.start(*lines(card), STOP)
    before_batch(card, 1, lambda: card.chip.bar_write(GPIO_DMA_CTL, 4, 2))
    card.field()
    assert written(card) == GROUP
    assert address < card.chip.bar_read(RISC_COUNT, 4) < address + 8 + LINES * 8
    card.field(2)
    assert written(card) == GROUP
    assert card.chip.dma_running


def test_bus_master_off_and_on(card: Small) -> None:
    """No bus cycle while it is off, data are dropped (FBUS), no abort; later fields arrive again."""
    loop = card.rc.allocate(4096)
    card.rc.put(loop, [SYNC | RESYNC | 0x6, 0, *lines(card), STOP, 0, JUMP, loop])
    card.start_at(loop)

    def off() -> None:
        card.rc.master = False

    before_batch(card, 2, off)
    card.field()
    reads = len(card.rc.recorder.reads)
    assert written(card) == 2 * GROUP
    card.field()
    assert card.latched() == {"FBUS"}
    assert card.chip.stats.lost_fields == 1
    assert len(card.rc.recorder.reads) == reads
    assert card.rc.recorder.aborts == []
    assert card.chip.bar_read(INT_STAT, 4) & IntStat.RISC_EN.mask
    card.rc.master = True
    card.field(3)  # the program finds its way back at the end of an odd field
    assert written(card) == LINES
    assert card.memory(11 * WIDTH, WIDTH) == card.line(11, frame=3)


def test_memory_unmapped(card: Small) -> None:
    """A map that goes away under a running program: PABORT, and the old memory is not touched."""
    far = card.rc.memory.add(Segment(0x4000_0000, 1 << 16))
    code = [word for n in range(LINES) for word in (WRITE | LINE, 0x4000_0000 + n * WIDTH)]
    card.start(*code, STOP)
    before_batch(card, 1, lambda: card.rc.memory.remove(far))
    card.field()
    assert card.latched() == {"PABORT"}
    assert (far.data[GROUP * WIDTH :] == 0xA5).all()
    assert card.rc.recorder.aborts[0][3] is Abort.UNMAPPED


def test_stopped_while_an_observer_looks(card: Small) -> None:
    """An observer may pause the guest and serve its messages: what is stopped there is not moved."""
    card.start(*lines(card), STOP)

    def stop(batch: Batch) -> None:
        if len(card.rc.recorder.batches) == 2:
            card.chip.bar_write(GPIO_DMA_CTL, 4, 0)

    card.rc.recorder.during = stop
    card.field()
    assert written(card) == GROUP
    assert card.rc.recorder.calls.count("after") == 1


def test_reset_in_the_middle(card: Small) -> None:
    """A reset of the function: registers as after power-on, programs gone, nothing more is moved."""
    card.start(*lines(card), STOP)
    before_batch(card, 1, card.chip.reset)
    card.field()
    assert written(card) == GROUP
    assert not card.chip.dma_running
    assert card.chip.bar_read(GPIO_DMA_CTL, 4) == 0
    assert set(card.rc.recorder.gone_ids) == set(card.rc.recorder.programs)
    assert Checkpoint.RESET in card.rc.recorder.checkpoints


def test_program_changed_in_the_middle(card: Small) -> None:
    """Drivers rewrite programs while they run: each batch's instructions are fetched just before."""
    address = card.start(*lines(card), STOP)
    elsewhere = card.target + 0x4000

    # Line 7 is in the third batch: its address is changed while the second one waits.
    def change() -> None:
        card.rc.put(address + 8 + 7 * 8 + 4, [elsewhere])

    before_batch(card, 1, change)
    card.field()
    assert card.untouched(7 * WIDTH, WIDTH)
    assert card.memory(0x4000, WIDTH) == card.line(7)
    assert written(card) == LINES - 1
    assert card.latched() == set()


def test_capture_is_switched_at_the_beginning_of_a_field(card: Small) -> None:
    """CAP_CTL is looked at once a field: clearing it in the middle cuts nothing."""
    card.start(*lines(card), STOP)
    before_batch(card, 1, lambda: card.chip.bar_write(CAP_CTL, 4, 0))
    card.field()
    assert written(card) == LINES


def test_dma_is_announced(card: Small) -> None:
    """Observers hear of start, stop, fields and register writes, whatever stopped DMA."""
    card.start(*lines(card, 3), 0xF000_0000)
    card.field(2)
    seen = [each for each in card.rc.recorder.checkpoints if each is not Checkpoint.REGISTER_WRITE]
    assert seen == [Checkpoint.DMA_START, Checkpoint.DMA_STOP, Checkpoint.FIELD]
    assert Checkpoint.REGISTER_WRITE in card.rc.recorder.checkpoints


def test_settings_are_no_checkpoint(card: Small) -> None:
    """A driver rewrites sizes and colours for every frame: only its turns to other work are worth a look."""
    checkpoints = card.rc.recorder.checkpoints
    checkpoints.clear()
    for offset, size in ((0x0D4, 4), (0x04C, 4), (0x08C, 4), (0x110, 4)):
        card.chip.bar_write(offset, size, 0)
    assert checkpoints == []
    for offset, size in ((0x100, 4), (0x102, 2), (0x104, 4), (0x0DC, 4), (0x114, 4), (0x10D, 1)):
        card.chip.bar_write(offset, size, 0)
    assert checkpoints == [Checkpoint.REGISTER_WRITE] * 6
