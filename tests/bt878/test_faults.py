# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the faults that the card commits on demand: each at its point, once, and nothing of it is left."""

from __future__ import annotations

import pytest
from support.bttv import EOL, FM1, GPIO_DMA_CTL, INT_STAT, IRQ, JUMP, RESYNC, SOL, SYNC, VRO, WRITE
from support.small import LINES, WIDTH, Small

from vcapdev.bt878.board import Eeprom
from vcapdev.bt878.eeprom import Eeprom24c02
from vcapdev.bt878.faults import BY_RUNNER, FAULTS, FaultBox
from vcapdev.bt878.faulty import Armed
from vcapdev.bt878.i2c import I2cBus
from vcapdev.bt878.registers import IntStat
from vcapdev.errors import UsageError

RISCI = IntStat.RISCI.mask
LINE = SOL | EOL | WIDTH
FIELD_NAMES = [name for name, fault in FAULTS.items() if fault.point == "field" and name not in BY_RUNNER]
STOPPING = {"risc-error", "parity-error", "master-abort"}


class Looping(Small):
    """A card whose program writes each odd field to the same lines, and interrupts at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = self.rc.levels
        self.told: list[Armed] = []
        self.box = FaultBox(self.chip, self.rc.time, self.told.append)
        start = self.rc.allocate(4096)
        words = [SYNC | RESYNC | FM1, 0]
        for n in range(LINES):
            words += [WRITE | LINE, self.target + n * WIDTH]
        self.rc.put(start, [*words, SYNC | RESYNC | VRO, 0, JUMP | IRQ | 1 << 16, start])
        self.start_at(start, mask=RISCI)

    def frame(self) -> None:
        """Both fields; the guest handles what it is told of."""
        for _ in range(2):
            self.field()
            if self.levels and self.levels[-1]:
                self.handle()

    def handle(self) -> int:
        """The handler's accesses: once if there is no cause."""
        status = self.chip.bar_read(INT_STAT, 4) & RISCI
        if status:
            self.chip.bar_write(INT_STAT, 4, status)
            self.chip.bar_read(INT_STAT, 4)
        return status

    def interrupts(self) -> int:
        """Rising edges so far."""
        return sum(self.levels)


@pytest.fixture
def card() -> Looping:
    return Looping()


def lines_written(card: Looping) -> int:
    """Of the last frame's, how many are there; the target is wiped."""
    count = sum(card.memory(n * WIDTH, WIDTH) != bytes(WIDTH) for n in range(LINES))
    card.rc.memory.at(card.target, LINES * WIDTH)[:] = 0
    return count


def test_a_lost_interrupt_is_seen_when_the_next_cause_comes(card: Looping) -> None:
    armed = card.box.arm("interrupt-lost", at=2)
    card.frame()
    assert (card.interrupts(), armed.seen, armed.fired) == (1, 1, False)
    card.frame()
    assert (card.interrupts(), armed.seen, armed.fired) == (1, 2, True)
    assert card.chip.registers.get("INT_STAT") & RISCI
    card.rc.time.advance(0.6)  # the card waits for the handler no longer
    card.frame()
    assert card.interrupts() >= 2
    assert armed.seen == card.interrupts() + 1


def test_a_late_interrupt_comes_when_its_time_has_passed(card: Looping) -> None:
    card.box.arm("interrupt-late", lasts=100)
    card.field(2)
    assert card.interrupts() == 0
    card.rc.time.advance(0.09)
    assert card.interrupts() == 0
    card.rc.time.advance(0.02)
    assert card.interrupts() == 1
    assert card.handle()


def test_a_doubled_interrupt_comes_again_without_a_cause(card: Looping) -> None:
    card.box.arm("interrupt-doubled")
    card.frame()
    assert card.levels == [True, False, True, False]  # the second ends when the handler finds nothing
    card.frame()
    assert card.levels[4:] == [True, False]


def test_a_stuck_interrupt_falls_after_so_many_runs_of_the_handler(card: Looping) -> None:
    card.box.arm("interrupt-stuck", lasts=4)
    card.frame()
    assert card.levels[-1] is True
    assert [card.handle() for _ in range(3)] == [0, 0, 0]
    assert card.levels[-1] is False


@pytest.mark.parametrize(
    ("name", "latched", "kept"),
    [
        ("sync-lost", {"HLOCK"}, LINES // 2),
        ("signal-lost", {"HLOCK", "VPRES"}, 0),
        ("norm-changed", {"FMTCHG"}, LINES),
        ("risc-error", {"OCERR"}, 0),
        ("parity-error", {"RIPERR", "PPERR"}, 0),
        ("sync-error", {"SCERR"}, LINES),
        ("fifo-overrun", {"FBUS"}, LINES // 2),
        ("master-abort", {"PABORT"}, 0),
    ],
)
def test_what_a_field_loses_and_which_bits_tell(
    card: Looping, name: str, latched: set[str], kept: int
) -> None:
    card.chip.bar_write(INT_STAT, 4, 0xFFFFF)
    armed = card.box.arm(name, at=2, lasts=1)  # the first field is odd: it comes in the third, the odd one
    card.frame()
    lines_written(card)
    armed.at = 3
    card.field()
    assert armed.fired
    assert latched <= card.latched()
    assert lines_written(card) == kept
    assert card.chip.engine.running == (name not in STOPPING)


@pytest.mark.parametrize("name", FIELD_NAMES)
def test_a_fault_comes_once_and_leaves_nothing(card: Looping, name: str) -> None:
    card.box.arm(name, lasts=2)
    card.frame()
    card.box.disarm()
    card.chip.bar_write(INT_STAT, 4, 0xFFFFF)
    card.start_at(card.chip.registers.get("RISC_STRT_ADD"), mask=RISCI)
    card.chip.bar_write(GPIO_DMA_CTL, 4, 0)
    card.chip.bar_write(GPIO_DMA_CTL, 4, 3)
    card.frame()
    card.chip.bar_write(INT_STAT, 4, 0xFFFFF)
    lines_written(card)
    for _ in range(3):
        card.frame()
    assert lines_written(card) == LINES
    assert card.latched() == set()
    assert card.chip.decoder.signal
    assert card.chip.spoil is None
    assert len(card.chip.bus.observers) == len(card.rc.bus.observers)
    assert card.chip.decoder.norm.name == "PAL"


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_whose_point_does_not_come_changes_nothing(card: Looping, name: str) -> None:
    armed = card.box.arm(name, at=100)
    for _ in range(3):
        card.frame()
    assert lines_written(card) == LINES
    assert card.interrupts() == 3
    assert not armed.fired
    expected = {"interrupt": 3, "field": 5, "i2c": 0, "stop": 0}  # the sixth field waits for a handler's end
    assert armed.seen == expected[FAULTS[name].point]
    card.box.disarm()
    card.frame()
    assert card.interrupts() == 4


def test_dma_goes_on_for_a_while_after_it_was_switched_off(card: Looping) -> None:
    armed = card.box.arm("dma-stop-ignored", lasts=2)
    card.chip.bar_write(GPIO_DMA_CTL, 4, 0)
    assert armed.fired
    assert card.chip.engine.running
    card.frame()
    assert lines_written(card) == LINES
    card.frame()
    assert not card.chip.engine.running
    lines_written(card)
    card.frame()
    assert lines_written(card) == 0


def test_a_driver_that_starts_again_meanwhile_is_obeyed(card: Looping) -> None:
    card.box.arm("dma-stop-ignored", lasts=50)
    card.chip.bar_write(GPIO_DMA_CTL, 4, 0)
    card.chip.bar_write(GPIO_DMA_CTL, 4, 3)
    assert card.chip.engine.running
    card.chip.bar_write(GPIO_DMA_CTL, 4, 0)
    assert not card.chip.engine.running


def test_nobody_acknowledges_once(card: Looping) -> None:
    rom = Eeprom(0x50, b"\x01")
    bus = card.chip.i2c.bus = I2cBus([Eeprom24c02(rom.address, rom.contents)])
    card.box.arm("i2c-nack", at=2)
    assert [bus.start(0xA0) for _ in range(3)] == [True, False, True]
    card.box.disarm()
    assert bus.refuses is None


@pytest.mark.parametrize("name", BY_RUNNER)
def test_what_the_runner_does_is_told_and_the_card_stands_still(card: Looping, name: str) -> None:
    card.box.arm(name, at=3)
    card.frame()
    assert card.told == []
    card.field()
    assert [armed.name for armed in card.told] == [name]
    before = card.chip.stats.fields
    card.field(4)
    assert card.chip.stats.fields == before
    card.box.disarm()
    card.field(2)
    assert card.chip.stats.fields > before


def test_another_fault_takes_the_place_of_the_one_before(card: Looping) -> None:
    card.box.arm("interrupt-lost", at=1)
    card.box.arm("signal-lost", at=100)
    card.frame()
    assert card.interrupts() == 1
    with pytest.raises(UsageError, match="no fault 'meteor'; there are interrupt-lost, "):
        card.box.arm("meteor")
