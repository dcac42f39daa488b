# SPDX-License-Identifier: GPL-2.0-or-later
"""The reactor: timers in order and never early, descriptors, a stop and a wake from anywhere."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from vcapdev.vfiouser import Reactor


@pytest.fixture
def reactor():
    made = Reactor()
    yield made
    made.close()


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_timers_in_order_and_not_early(reactor):
    seen = []
    now = reactor.now()
    for delay in (0.003, 0.001, 0.0005, 0.002, 0.001):
        reactor.call_at(now + delay, lambda delay=delay: seen.append((delay, reactor.now() - now)))
    reactor.call_later(0.004, reactor.stop)
    reactor.run()
    assert [delay for delay, _ in seen] == [0.0005, 0.001, 0.001, 0.002, 0.003]
    assert all(when >= delay for delay, when in seen)


def test_a_timer_of_its_own_round_waits_for_the_next(reactor):
    """Else a device without a clock (delay 0) would never let a message through."""
    rounds = []

    def again():
        rounds.append(1)
        if len(rounds) < 3:
            reactor.call_later(0, again)

    reactor.call_later(0, again)
    reactor._run_due()
    assert len(rounds) == 1
    reactor.call_later(0, reactor.stop)
    reactor.run()


def test_cancel(reactor):
    seen = []
    first = reactor.call_later(0, lambda: (seen.append("first"), second.cancel()))
    second = reactor.call_later(0, lambda: seen.append("second"))
    third = reactor.call_later(0, lambda: seen.append("third"))
    third.cancel()
    third.cancel()
    reactor.call_later(0.001, reactor.stop)
    reactor.run()
    assert seen == ["first"]
    assert not first.active
    first.cancel()


def test_cancelled_timers_do_not_pile_up(reactor):
    for _ in range(10_000):
        reactor.call_later(1000, lambda: None).cancel()
    assert len(reactor._timers) < 200
    keep = reactor.call_later(5, lambda: None)
    reactor.run_once()
    assert reactor.deadline == keep.when


def test_readers_and_writers(reactor, pipe):
    reader, writer = pipe
    seen = []

    def on_readable():
        seen.append(os.read(reader, 10))
        reactor.remove_reader(reader)
        reactor.stop()

    def on_writable():
        os.write(writer, b"x")
        reactor.remove_writer(writer)

    reactor.add_reader(reader, on_readable)
    reactor.add_writer(writer, on_writable)
    reactor.run()
    assert seen == [b"x"]
    reactor.remove_reader(reader)
    reactor.remove_writer(writer)


def test_a_reader_removed_in_the_same_round_is_not_called(reactor):
    pipes = [os.pipe() for _ in range(2)]
    seen = []

    def take(number):
        seen.append(number)
        for reader, _ in pipes:
            reactor.remove_reader(reader)

    for number, (reader, writer) in enumerate(pipes):
        os.write(writer, b"x")
        reactor.add_reader(reader, lambda number=number: take(number))
    reactor.run_once()
    assert len(seen) == 1
    for ends in pipes:
        for end in ends:
            os.close(end)


def test_removing_what_is_closed_is_harmless(reactor):
    reader, writer = os.pipe()
    reactor.add_reader(reader, lambda: None)
    os.close(reader)
    reactor.remove_reader(reader)
    os.close(writer)


def test_wake_and_stop_from_another_thread(reactor):
    thread = threading.Timer(0, reactor.stop)
    thread.start()
    reactor.run()
    thread.join()
    reactor.call_later(0, reactor.stop)
    reactor.run()  # a stop counts once


def test_who_wakes_a_loop_that_was_closed_writes_to_no_stranger():
    """Its descriptor may be somebody else's by now."""
    reactor = Reactor()
    number = reactor._wakeup
    reactor.close()
    stranger = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        os.dup2(stranger, number)
        reactor.stop()
        reactor.wake()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(stranger)
    finally:
        os.close(stranger)
        if number != stranger:
            os.close(number)


def test_stop_from_a_signal_handler(reactor):
    before = signal.signal(signal.SIGALRM, lambda *_: reactor.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        reactor.run()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_a_callback_raises_reaches_the_caller(reactor):
    def fail():
        raise KeyError("defect")

    reactor.call_later(0, fail)
    with pytest.raises(KeyError, match="defect"):
        reactor.run()


def test_a_timer_behind_a_cancelled_one_is_in_time(reactor):
    """The timerfd stays set for the cancelled one: that wake-up is early, and only leads to the next."""
    seen = []
    now = reactor.now()
    first = reactor.call_at(now + 0.002, lambda: seen.append("cancelled"))
    reactor.run_once()
    reactor._arm()
    first.cancel()
    reactor.call_at(now + 0.006, lambda: (seen.append(reactor.now() - now), reactor.stop()))
    reactor.run()
    assert len(seen) == 1
    assert seen[0] >= 0.006


def test_a_cancelled_timer_hurries_nobody(reactor):
    """Loops that linger ask for the deadline: it is that of the next timer which is still wanted."""
    later = reactor.call_later(50, lambda: None)
    sooner = reactor.call_later(1, lambda: None)
    sooner.cancel()
    assert reactor.deadline == later.when
    later.cancel()
    assert reactor.deadline == float("inf")


def test_a_callback_cancels_what_is_due_with_it(reactor):
    """Both have left the heap by then, which is empty."""
    seen = []
    timers = []
    timers += [reactor.call_later(0, lambda: (seen.append(1), timers[1].cancel()))]
    timers += [reactor.call_later(0, lambda: seen.append(2))]
    reactor._run_due()
    assert seen == [1]
