# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest is untrusted: whatever it writes into its own memory, the checker neither fails nor hangs."""

from fakecard import FakeCard
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import STYLES, SyntheticGuest

from vcapdev.guestmm.btf import BtfError

A = 2000


@settings(max_examples=80, deadline=None)
@given(
    style=st.sampled_from(sorted(STYLES)),
    junk=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 63), st.binary(min_size=1, max_size=64)), max_size=6
    ),
)
def test_any_struct_pages(style, junk):
    guest = SyntheticGuest(style)
    try:
        for pfn in range(A, A + 6):
            guest.anon(pfn)
        card = FakeCard(guest)
        batch = card.program(*range(A, A + 6))
        card.write(batch)
        for page, offset, data in junk:
            guest.poke(guest.row_at(A + page) + offset, data)
            card.write(batch)
            card.field()
        card.checker.settle()
        card.checker.page_states()
        assert card.checker.status()["defects"] == []
        for verdict in card.found:
            assert len(verdict.splat().splitlines()) <= 40
    finally:
        guest.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 511), st.integers(0, 2**64 - 1), st.integers(0, 15))
def test_any_page_table(slot, entry, table):
    guest = SyntheticGuest()
    try:
        guest.anon(A)
        card = FakeCard(guest)
        batch = card.program(A)
        card.write(batch)
        guest.poke64(guest.top + table * 4096 + slot * 8, entry)
        guest.anon(A, pins=0)
        card.write(batch)
        guest.memory.generation += 1
        card.write(batch)
        card.checker.settle()
        assert card.checker.status()["defects"] == []
    finally:
        guest.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 0x9000), st.binary(min_size=1, max_size=200))
def test_any_kernel_variables(offset, junk):
    guest = SyntheticGuest()
    try:
        guest.poke((16 << 20) + 0x1000 + offset, junk)
        card = FakeCard(guest, start=False)
        card.checker.attach()
        guest.anon(A, pins=0)
        card.write(card.program(A))
        card.checker.settle()
        assert card.checker.status()["defects"] == []
    finally:
        guest.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
        min_size=1,
        max_size=20,
    )
)
def test_any_addresses(pieces):
    guest = SyntheticGuest()
    try:
        card = FakeCard(guest)
        batch = card.program(*([A] * len(pieces)))
        batch.addr[:] = [address for address, _ in pieces]
        batch.length[:] = [length for _, length in pieces]
        batch.cache.clear()
        card.write(batch)
        assert card.checker.status()["defects"] == []
    finally:
        guest.close()


def test_a_knot_in_the_types_is_told_and_is_no_defect():
    guest = SyntheticGuest()
    guest.variable("io_tlb_default_mem", bytes(64))
    number = len(guest.btf.types) + 1
    guest.btf.compound("io_tlb_mem", 64, [("", number, 0), ("", number, 0)])
    guest.write_note()
    card = FakeCard(guest, start=False)
    assert card.checker.attach() is False
    assert "nested without end" in card.checker.status()["why_not"]
    assert card.checker.status()["defects"] == []
    guest.close()


def test_a_knot_in_the_statistics_leaves_the_pins_unknown():
    guest = SyntheticGuest()
    guest.anon(A)
    card = FakeCard(guest)

    def knot(*_):
        raise BtfError("nested without end")

    card.checker._ground.attachment.kernel.btf.find = knot
    assert card.checker.settle()["outstanding"] is None
    guest.close()
