# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the process from the guest: no program and no register write raises, hangs, or writes astray."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings
from support.bttv import FM1, FM3, GPIO_DMA_CTL, SYNC
from support.small import Small

from vcapdev.bt878.registers import IntStat

WORD = st.one_of(
    st.integers(0, 0xFFFF_FFFF),
    st.builds(
        lambda op, flags, count: op << 28 | flags << 24 | count,
        st.sampled_from([1, 1, 2, 5, 7, 8, 9, 10, 11]),
        st.integers(0, 15),
        st.sampled_from([0, 1, 4, 6, 12, 14, 63, 64, 65, 4095]),
    ),
    st.integers(0x10_0000, 0x10_4000),  # in memory: targets, and programs to jump to
)
REGISTER = st.tuples(
    st.one_of(st.integers(0, 0x4F).map(lambda n: n * 4), st.just(GPIO_DMA_CTL)), st.integers(0, 0xFFFF_FFFF)
)


@settings(max_examples=120)
@given(
    st.lists(WORD, min_size=1, max_size=60),
    st.lists(REGISTER, max_size=6),
    st.lists(st.lists(REGISTER, max_size=3), max_size=4),
    st.sampled_from([4, 8, 14]),
    st.sampled_from([0, IntStat.RISCI.mask]),
)
def test_anything_goes(
    words: list[int],
    before: list[tuple[int, int]],
    during: list[list[tuple[int, int]]],
    code: int,
    mask: int,
) -> None:
    """Random programs and register writes, also from within a field; afterwards the card still works.

    Nobody is there to handle interrupts: where one is unmasked, each wait for it has to end by itself.
    """
    card = Small(code)

    def drain() -> None:
        for offset, value in during.pop() if during else ():
            card.chip.bar_write(offset, 4, value)

    card.rc.bus.on_drain = drain
    card.start_at(card.rc.program(SYNC | (FM3 if code == 8 else FM1), 0, *words))
    for offset, value in before:
        card.chip.bar_write(offset, 4, value)
    card.chip.bar_write(0x104, 4, mask)
    card.field(4)
    card.rc.time.advance(5.0)
    assert card.chip.clock.steps == 0
    card.chip.last_frame()
    card.rc.bus.on_drain = None
    card.chip.reset()
    card.start_at(card.rc.program(0xF000_0000))
    assert card.latched() == {"OCERR"}
