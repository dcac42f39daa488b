# SPDX-License-Identifier: GPL-2.0-or-later
"""DEVICE_SET_IRQS and the INTx pin: every form QEMU sends, the re-arm rule, nothing lost or doubled."""

from __future__ import annotations

import errno
import os

import pytest
from client import DEADLINE

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.interrupts import RELOOK
from vcapdev.vfiouser.wire import Command

NONE, BOOL, EVENTFD = wire.IRQ_DATA_NONE, wire.IRQ_DATA_BOOL, wire.IRQ_DATA_EVENTFD
MASK, UNMASK, TRIGGER = wire.IRQ_ACTION_MASK, wire.IRQ_ACTION_UNMASK, wire.IRQ_ACTION_TRIGGER
ERR, REQ = 3, 4


@pytest.fixture
def eventfd(new_fd):
    return lambda: new_fd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))


@pytest.fixture
def trigger(served, eventfd):
    fd = eventfd()
    served.client.install_intx(fd)
    return fd


def kicks(fd):
    """How often the client was signalled since the last look."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def wait_relook(served):
    """Run the reactor over the moment of the second look."""
    ended = []
    served.reactor.call_later(2 * RELOOK, lambda: ended.append(1))
    end = served.reactor.now() + DEADLINE
    while not ended:
        assert served.reactor.now() < end, "the reactor's timer did not come"
        served.reactor.run_once(0.001)


def test_rising_edge_kicks_once(served, trigger):
    pin = served.server.interrupts
    pin.set_level(True)
    pin.set_level(True)
    assert kicks(trigger) == 1
    assert pin.level


def test_automasked_until_unmask(served, trigger):
    pin = served.server.interrupts
    pin.set_level(True)
    assert kicks(trigger) == 1
    pin.set_level(False)
    pin.set_level(True)
    assert kicks(trigger) == 0
    served.client.unmask_intx()
    assert kicks(trigger) == 0, "QEMU unmasks before the driver has cleared the cause"
    wait_relook(served)
    assert kicks(trigger) == 1


def test_no_second_interrupt_when_the_cause_is_cleared_in_time(served, trigger):
    pin = served.server.interrupts
    pin.set_level(True)
    assert kicks(trigger) == 1
    served.client.unmask_intx()
    pin.set_level(False)
    wait_relook(served)
    assert kicks(trigger) == 0
    pin.set_level(True)
    assert kicks(trigger) == 1


def test_new_edge_between_unmask_and_second_look(served, trigger):
    pin = served.server.interrupts
    pin.set_level(True)
    assert kicks(trigger) == 1
    served.client.unmask_intx()
    pin.set_level(False)
    pin.set_level(True)
    assert kicks(trigger) == 1
    wait_relook(served)
    assert kicks(trigger) == 0, "it is pending: a second kick would be spurious"


def test_falling_level_takes_an_unseen_kick_back(served, trigger):
    """And then no UNMASK will come: the next edge must not wait for one."""
    pin = served.server.interrupts
    pin.set_level(True)
    pin.set_level(False)
    assert kicks(trigger) == 0
    pin.set_level(True)
    assert kicks(trigger) == 1


def test_level_is_high_before_the_trigger_is_installed(served, eventfd):
    served.server.interrupts.set_level(True)
    fd = eventfd()
    served.client.install_intx(fd)
    assert kicks(fd) == 1


def test_qemu_removes_and_installs_another_at_reset(served, trigger, eventfd):
    served.server.interrupts.set_level(True)
    assert kicks(trigger) == 1
    served.client.set_irqs(NONE | TRIGGER, count=0)
    second = eventfd()
    served.client.install_intx(second)
    assert (kicks(trigger), kicks(second)) == (0, 1)


def test_replacing_moves_a_kick_that_nobody_saw(served, trigger, eventfd):
    served.server.interrupts.set_level(True)
    second = eventfd()
    served.client.install_intx(second)
    assert (kicks(trigger), kicks(second)) == (0, 1)


def test_replacing_keeps_the_automask(served, trigger, eventfd):
    served.server.interrupts.set_level(True)
    assert kicks(trigger) == 1
    second = eventfd()
    served.client.install_intx(second)
    assert kicks(second) == 0


def test_removal_by_eventfd_without_descriptor(served, trigger):
    served.client.set_irqs(EVENTFD | TRIGGER)
    served.server.interrupts.set_level(True)
    assert kicks(trigger) == 0


def test_client_masks(served, trigger):
    pin = served.server.interrupts
    served.client.set_irqs(NONE | MASK)
    pin.set_level(True)
    assert kicks(trigger) == 0
    served.client.unmask_intx()
    wait_relook(served)
    assert kicks(trigger) == 1


def test_bool_data(served, trigger):
    served.client.set_irqs(BOOL | MASK, data=b"\0")
    served.server.interrupts.set_level(True)
    assert kicks(trigger) == 1
    served.client.set_irqs(BOOL | UNMASK, data=b"\0")
    wait_relook(served)
    assert kicks(trigger) == 0
    served.client.set_irqs(BOOL | UNMASK, data=b"\1")
    wait_relook(served)
    assert kicks(trigger) == 1


def test_client_triggers(served, trigger):
    served.client.set_irqs(NONE | TRIGGER)
    assert kicks(trigger) == 1
    served.client.set_irqs(BOOL | TRIGGER, data=b"\1")
    assert kicks(trigger) == 1
    served.client.set_irqs(BOOL | TRIGGER, data=b"\0")
    assert kicks(trigger) == 0


def test_unmask_by_eventfd_looks_at_once(served, trigger, eventfd):
    """KVM signals it at the real end of an interrupt."""
    unmask = eventfd()
    served.client.set_irqs(EVENTFD | UNMASK, fds=[unmask])
    served.server.interrupts.set_level(True)
    assert kicks(trigger) == 1
    os.eventfd_write(unmask, 1)
    served.reactor.run_once(DEADLINE)
    assert kicks(trigger) == 1
    assert kicks(unmask) == 0
    served.client.set_irqs(EVENTFD | UNMASK)
    os.eventfd_write(unmask, 1)
    served.pump()
    assert kicks(trigger) == 0


def test_edge_triggered_indexes(served, eventfd):
    fds = [eventfd() for _ in range(3)]
    served.client.set_irqs(EVENTFD | TRIGGER, index=REQ, count=3, fds=fds)
    served.server.irqs.trigger(REQ, 1)
    assert [kicks(fd) for fd in fds] == [0, 1, 0]
    served.client.set_irqs(EVENTFD | TRIGGER, index=REQ, start=1, count=1)
    served.server.irqs.trigger(REQ, 1)
    served.server.irqs.trigger(REQ, 2)
    assert [kicks(fd) for fd in fds] == [0, 0, 1]
    served.client.set_irqs(NONE | TRIGGER, index=REQ, count=0)
    served.server.irqs.trigger(REQ, 0)
    assert kicks(fds[0]) == 0


def test_disabling_an_index_that_has_nothing(served):
    for index in range(5):
        served.client.set_irqs(NONE | TRIGGER, index=index, count=0)


def test_full_counter_does_not_stall_the_server(served, new_fd):
    blocking = new_fd(os.eventfd((1 << 32) - 1, os.EFD_CLOEXEC))
    os.eventfd_write(blocking, (1 << 64) - (1 << 32) - 1)
    served.client.install_intx(blocking)
    served.client.set_irqs(NONE | TRIGGER)
    assert served.client.read(0, 0, 4) == bytes(4)


@pytest.mark.parametrize(
    ("flags", "index", "start", "count", "data", "expect"),
    [
        (NONE, 0, 0, 1, b"", errno.EINVAL),
        (TRIGGER, 0, 0, 1, b"", errno.EINVAL),
        (NONE | EVENTFD | TRIGGER, 0, 0, 1, b"", errno.EINVAL),
        (NONE | MASK | UNMASK, 0, 0, 1, b"", errno.EINVAL),
        (NONE | TRIGGER | 0x40, 0, 0, 1, b"", errno.EINVAL),
        (NONE | TRIGGER, 5, 0, 0, b"", errno.EINVAL),
        (NONE | TRIGGER, 0, 1, 0, b"", errno.EINVAL),
        (NONE | MASK, 0, 0, 0, b"", errno.EINVAL),
        (EVENTFD | TRIGGER, 0, 0, 0, b"", errno.EINVAL),
        (NONE | TRIGGER, 0, 0, 2, b"", errno.EINVAL),
        (NONE | TRIGGER, 0, 1, 1, b"", errno.EINVAL),
        (NONE | TRIGGER, 0, 0xFFFFFFFF, 0xFFFFFFFF, b"", errno.EINVAL),
        (NONE | TRIGGER, 1, 0, 1, b"", errno.EINVAL),
        (NONE | MASK, ERR, 0, 1, b"", errno.EINVAL),
        (BOOL | MASK, 0, 0, 1, b"", errno.EINVAL),
        (BOOL | MASK, 0, 0, 1, b"\1\1", errno.EINVAL),
        (NONE | MASK, 0, 0, 1, b"\1", errno.EINVAL),
        (EVENTFD | MASK, 0, 0, 1, b"", errno.ENOTSUP),
    ],
)
def test_refusals(served, flags, index, start, count, data, expect):
    served.client.set_irqs(flags, index, start, count, data, expect=expect)


@pytest.mark.parametrize(
    "payload", [b"", bytes(19), wire.IRQ_SET.pack(19, 33, 0, 0, 0), wire.IRQ_SET.pack(24, 33, 0, 0, 0)]
)
def test_short_and_argsz(served, payload):
    served.client.call(Command.DEVICE_SET_IRQS, payload, expect=errno.EINVAL)


def test_wrong_descriptors(served, eventfd, ram):
    served.client.set_irqs(EVENTFD | TRIGGER, fds=[eventfd(), eventfd()], expect=errno.EINVAL)
    served.client.set_irqs(EVENTFD | TRIGGER, fds=[ram], expect=errno.EINVAL)
    served.client.set_irqs(NONE | TRIGGER, fds=[eventfd()], expect=errno.EINVAL)
    served.client.set_irqs(EVENTFD | TRIGGER, index=REQ, count=3, fds=[eventfd()], expect=errno.EINVAL)
    served.client.set_irqs(EVENTFD | TRIGGER, fds=[eventfd()] * 9, expect=errno.EMFILE)
    served.server.interrupts.set_level(True)


def test_a_client_that_makes_its_eventfd_blocking_stalls_nobody(served, eventfd):
    """O_NONBLOCK is shared with the client: cleared behind our back, no call may wait, full or empty."""
    trigger, unmask = eventfd(), eventfd()
    served.client.install_intx(trigger)
    served.client.set_irqs(EVENTFD | UNMASK, fds=[unmask])
    pin = served.server.interrupts
    pin.set_level(True)
    assert kicks(trigger) == 1
    for fd in (trigger, unmask):
        os.set_blocking(fd, True)
    pin.set_level(False)  # takes back a signal that is not there
    os.set_blocking(trigger, False)
    os.eventfd_write(unmask, 1)
    served.pump()
    os.eventfd_write(trigger, (1 << 64) - 2)  # full
    os.set_blocking(trigger, True)
    pin.set_level(True)
    assert pin.level


def test_unmasking_intx_is_the_same_on_both_ways(served, new_fd):
    """The short way of the message that ends each interrupt: the same reply, the same effect."""
    eventfd = new_fd(os.eventfd(0, os.EFD_CLOEXEC))
    install = wire.IRQ_SET.pack(20, wire.IRQ_DATA_EVENTFD | wire.IRQ_ACTION_TRIGGER, 0, 0, 1)
    unmask = wire.IRQ_SET.pack(20, wire.IRQ_DATA_NONE | wire.IRQ_ACTION_UNMASK, 0, 0, 1)
    served.client.call(Command.DEVICE_SET_IRQS, install, fds=[eventfd])
    for acts in (served.server._connection._acts, {}):
        served.server._connection._acts = acts
        served.server.interrupts.set_level(True)
        assert os.eventfd_read(eventfd) == 1
        assert served.client.call(Command.DEVICE_SET_IRQS, unmask) == b""
        assert not served.server.interrupts._masked
        assert not served.server.interrupts._pending
        served.server.interrupts.set_level(False)


def test_unmasking_with_a_descriptor_is_refused(served, ram):
    unmask = wire.IRQ_SET.pack(20, wire.IRQ_DATA_NONE | wire.IRQ_ACTION_UNMASK, 0, 0, 1)
    served.client.call(Command.DEVICE_SET_IRQS, unmask, fds=[ram], expect=errno.EINVAL)
