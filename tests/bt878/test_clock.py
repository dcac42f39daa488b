# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the rhythm of fields: a slow guest loses none, a dead one delays none for ever.

Time passes only where a test lets it.
"""

from __future__ import annotations

import pytest
from support.bttv import INT_MASK, INT_STAT, MASK, RISC_COUNT, SOL, WRITE, Driver
from support.rootcomplex import FakeTime, RootComplex

from vcapdev.bt878.clock import Clock
from vcapdev.bt878.registers import IntStat
from vcapdev.errors import UsageError

FIELD = 0.02


class Watched:
    """A clock whose events are noted with their times, in milliseconds."""

    def __init__(self, mode: str, busy: bool = True) -> None:
        self.time = FakeTime()
        self.start = self.time.now()
        self.busy = busy
        self.events: list[tuple[str, int]] = []
        self.interrupts = {"begin": False, "end": False}
        self.clock = Clock(
            self.time,
            lambda: self.note("begin"),
            lambda: self.note("end"),
            lambda: FIELD,
            lambda: self.busy,
            mode,
        )

    def note(self, what: str) -> None:
        self.events.append((what, round((self.time.now() - self.start) * 1000)))
        if self.interrupts[what]:
            self.clock.expect_handler()

    def begins(self) -> list[int]:
        return [when for what, when in self.events if what == "begin"]


def test_field_rate() -> None:
    """Begin every 20 ms, the end of a field at the next one's beginning; no drift."""
    watched = Watched("paced")
    watched.time.advance(1.0)
    assert watched.begins() == list(range(0, 1001, 20))
    assert watched.events[:3] == [("begin", 0), ("end", 20), ("begin", 20)]


def test_paced_waits_for_the_handler() -> None:
    """The end of a field does not come before the handler is done; then the next one follows at once."""
    watched = Watched("paced")
    watched.interrupts["begin"] = True
    watched.time.advance(0.09)
    assert watched.events == [("begin", 0)]
    watched.clock.handler_done()
    watched.time.advance(0)
    assert watched.events[1:] == [("end", 90), ("begin", 90)]


def test_an_early_handler_changes_nothing() -> None:
    """A guest that is fast enough sees the real field rate."""
    watched = Watched("paced")
    watched.interrupts["begin"] = True
    for _ in range(10):
        watched.time.advance(0.005)
        watched.clock.handler_done()
        watched.time.advance(0.015)
    assert watched.begins() == list(range(0, 201, 20))
    assert watched.clock.timeouts == 0


def test_an_interrupt_at_the_end_holds_the_next_field() -> None:
    """bttv's loop interrupt comes with the VRO: the next field begins after its handler."""
    watched = Watched("paced")
    watched.interrupts["end"] = True
    watched.time.advance(0.03)
    assert watched.events == [("begin", 0), ("end", 20)]
    watched.clock.handler_done()
    watched.time.advance(0)
    assert watched.events[-1] == ("begin", 30)


def test_a_handler_that_never_comes() -> None:
    """After 500 ms the wait is given up, and counted."""
    watched = Watched("paced")
    watched.interrupts["begin"] = True
    watched.time.advance(1.2)
    assert watched.begins() == [0, 500, 1000]
    assert watched.clock.timeouts == 2


def test_a_held_up_process_does_not_blame_the_guest() -> None:
    """The device stood still for a second (the checker paused the guest): the guest gets its time again."""
    watched = Watched("paced")
    watched.interrupts["begin"] = True
    watched.time.run_due()
    watched.time.time += 1.0
    watched.time.advance(0.3)
    watched.clock.handler_done()
    assert watched.clock.timeouts == 0


def test_real_waits_for_nobody() -> None:
    """As the hardware: a slow handler tears frames."""
    watched = Watched("real")
    watched.interrupts["begin"] = True
    watched.time.advance(0.1)
    assert watched.begins() == list(range(0, 101, 20))
    watched.time.time += 0.5
    watched.time.advance(0.02)
    assert watched.clock.late == 1


def test_fast_is_paced_by_the_handler_alone() -> None:
    """No time passes but the guest's."""
    watched = Watched("fast")
    watched.interrupts["begin"] = True
    for _ in range(5):
        watched.time.advance(0.001)
        watched.clock.handler_done()
    watched.time.advance(0)
    assert watched.begins() == [0, 1, 2, 3, 4, 5]


def test_fast_is_not_fast_for_nobody() -> None:
    """While nothing is captured fields come at their rate; switching DMA on begins one at once."""
    watched = Watched("fast", busy=False)
    watched.time.advance(0.05)
    assert watched.begins() == [0, 20, 40]
    watched.busy = True
    watched.interrupts["begin"] = True
    watched.clock.kick()
    watched.time.advance(0)
    assert watched.begins() == [0, 20, 40, 50]


def test_step() -> None:
    """Exactly as many fields as asked for, at once, or when the handler is done."""
    watched = Watched("step")
    watched.time.advance(1.0)
    assert watched.events == []
    watched.clock.step(3)
    assert len(watched.begins()) == 3
    watched.interrupts["begin"] = True
    watched.clock.step(2)
    assert (len(watched.begins()), watched.clock.steps) == (4, 1)
    watched.clock.handler_done()
    watched.time.advance(0)
    assert (len(watched.begins()), watched.clock.steps) == (5, 0)
    watched.clock.handler_done()
    watched.time.advance(1.0)
    assert len(watched.begins()) == 5


def test_mode_changes_and_stop() -> None:
    """The control channel switches modes at any time; a stopped clock schedules nothing more."""
    watched = Watched("step")
    with pytest.raises(UsageError, match="no mode 'slow'"):
        watched.clock.mode = "slow"
    watched.clock.mode = "paced"
    with pytest.raises(UsageError, match="set it to step"):
        watched.clock.step()
    watched.time.advance(0.03)
    assert len(watched.begins()) == 2
    watched.clock.stop()
    watched.clock.expect_handler()
    watched.time.advance(5.0)
    assert len(watched.begins()) == 2


class Guest:
    """A card on the paced clock with bttv's loop and an interrupt in the bottom field's program."""

    def __init__(self, norm: str = "PAL") -> None:
        self.rc = RootComplex()
        self.chip = self.rc.chip(norm, clock="paced")
        self.driver = Driver(self.rc, self.chip)
        self.driver.geometry(32, 48, sheight=48)
        self.driver.format(4)
        target = self.rc.allocate(4096)
        self.program = self.driver.hook(Driver.E_FIELD, [WRITE | SOL | 1 << 26 | 64, target] * 24, 1)
        self.driver.start()


def test_the_whole_handshake() -> None:
    """INT_STAT read with nothing pending is the handler's last access; until then the engine waits."""
    guest = Guest()
    guest.rc.time.advance(0.4)
    assert guest.chip.stats.fields == 0  # VSYNC of the first field has not been handled
    for _ in range(3):
        guest.driver.handle()
        guest.rc.time.advance(0.021)
    chip, main = guest.chip, guest.driver.main
    assert chip.registers.get("INT_STAT") & IntStat.RISCI.mask
    assert chip.bar_read(RISC_COUNT, 4) == main
    fields = chip.stats.fields
    status = chip.bar_read(INT_STAT, 4)
    guest.rc.time.advance(0.1)
    assert (chip.stats.fields, chip.bar_read(RISC_COUNT, 4)) == (fields, main)
    chip.bar_write(INT_STAT, 4, status)
    guest.rc.time.advance(0.1)
    assert chip.stats.fields == fields  # cleared, but the handler still works
    assert not chip.bar_read(INT_STAT, 4) & MASK
    guest.rc.time.advance(0.001)
    assert chip.stats.fields == fields + 1


def test_masking_ends_the_wait() -> None:
    """bttv masks everything when it thinks that the interrupt is locked up: time goes on."""
    guest = Guest()
    guest.rc.time.advance(0.1)
    assert guest.chip.clock.awaiting
    guest.chip.bar_write(INT_MASK, 4, 0)
    guest.rc.time.advance(0.1)
    assert guest.chip.stats.fields >= 5
    assert guest.chip.stats.handshake_timeouts == 0


def test_the_control_channel_ends_no_wait() -> None:
    """Looking at registers from outside is no access of the guest's."""
    guest = Guest()
    guest.rc.time.advance(0.1)
    guest.chip.bar_write(INT_STAT, 4, 0xFFFFF)
    guest.chip.registers.dump()
    guest.rc.time.advance(0.1)
    assert guest.chip.clock.awaiting


@pytest.mark.parametrize(("norm", "fields"), [("PAL", 50), ("SECAM", 50), ("NTSC", 59)])
def test_field_rates_of_the_norms(norm: str, fields: int) -> None:
    """50 fields a second, or 59.94."""
    rc = RootComplex()
    chip = rc.chip(norm, clock="real")
    rc.time.advance(1.0)
    assert chip.stats.fields == fields


def test_parity_everywhere_in_step() -> None:
    """FIELD in DSTATUS, FIELD in INT_STAT and VSYNC; the first field is odd."""
    rc = RootComplex()
    chip = rc.chip()
    for even in (0, 1, 0, 1):
        chip.bar_write(INT_STAT, 4, 0xFFFFF)
        chip.clock.step()
        status = chip.bar_read(INT_STAT, 4)
        assert IntStat.FIELD.get(status) == even
        assert chip.bar_read(0, 4) >> 5 & 1 == even
        assert status & IntStat.VSYNC.mask
    assert chip.frame == 2


def test_many_steps_leave_others_their_turn() -> None:
    """Who steps a thousand fields over the control channel does not keep QEMU waiting for all of them."""
    watched = Watched("step")
    watched.clock.step(1000)
    assert 0 < len(watched.begins()) < 100
    watched.time.run_due()
    assert 0 < watched.clock.steps < 1000
    watched.time.advance(0)
    assert watched.clock.steps == 0
    assert len(watched.begins()) == 1000


def test_frozen_time_does_not_pass() -> None:
    """A guest that is held stopped misses no field, and no handler of it is given up."""
    watched = Watched("paced")
    watched.time.advance(0.025)
    assert watched.begins() == [0, 20]
    watched.clock.freeze()
    watched.clock.freeze()
    watched.time.advance(5.0)
    assert watched.begins() == [0, 20]
    watched.clock.thaw()
    watched.clock.thaw()
    watched.time.advance(0.035)
    assert watched.begins() == [0, 20, 5040, 5060]
    watched.interrupts["begin"] = True
    watched.time.advance(0.02)
    watched.clock.freeze()
    watched.time.advance(5.0)
    watched.clock.thaw()
    watched.time.advance(0.4)
    watched.clock.handler_done()
    assert watched.clock.timeouts == 0
    assert watched.clock.late == 0


def test_a_freeze_within_a_field_lets_none_follow() -> None:
    """The checker freezes time from within the field that it found something in; kicks and steps wait."""
    watched = Watched("step")
    note = watched.note

    def freeze(what: str) -> None:
        note(what)
        watched.clock.freeze()

    watched.note = freeze  # type: ignore[method-assign]
    watched.clock.step(3)
    watched.clock.expect_handler()
    watched.clock.handler_done()
    watched.clock.kick()
    watched.time.advance(1.0)
    assert len(watched.begins()) == 1
    watched.note = note  # type: ignore[method-assign]
    watched.clock.thaw()
    watched.time.advance(0.1)
    assert len(watched.begins()) == 3
