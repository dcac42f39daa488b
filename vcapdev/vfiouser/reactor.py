# SPDX-License-Identifier: GPL-2.0-or-later
"""The one event loop of a device process: descriptors and timers, in one thread.

``poll`` counts in milliseconds, too coarse for the 300 us of an interrupt's second look, so the next timer is
a timerfd among the descriptors. ``poll`` and not ``epoll``: with a handful of descriptors it is no slower,
and epoll's standing interest would make every message dearer while a connection waits in its own read.
Nothing else in a device asks for the time or sleeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import math
import os
import select
import threading
import time
from collections.abc import Callable

Callback = Callable[[], None]

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_NEVER = float("inf")
_COMPACT_FROM = 64  # a heap this small is never worth rebuilding

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


def _timerfd() -> int:
    fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    return fd


class Timer:
    """A call that is due at a time; made by a reactor."""

    __slots__ = ("_fn", "_reactor", "_sequence", "when")

    def __init__(self, when: float, sequence: int, fn: Callback, reactor: Reactor) -> None:
        self.when = when  # seconds, monotonic
        self._sequence = sequence
        self._fn: Callback | None = fn
        self._reactor = reactor

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self._sequence) < (other.when, other._sequence)

    @property
    def active(self) -> bool:
        """Whether the call is still to come."""
        return self._fn is not None

    def cancel(self) -> None:
        """Make sure that the call does not happen (again); harmless when it has happened."""
        if self._fn is not None:
            self._fn = None
            self._reactor._cancelled()

    def _take(self) -> Callback | None:
        fn, self._fn = self._fn, None
        return fn


class Reactor:
    """Waits for descriptors and timers and calls back. For one thread, but for ``wake`` and ``stop``.

    What a callback raises ends :meth:`run` and reaches its caller.
    """

    now = staticmethod(time.monotonic)  # seconds; only differences mean something

    def __init__(self) -> None:
        self.deadline = _NEVER  # no timer is due earlier than this; for loops that linger outside of run()
        self._timers: list[Timer] = []
        self._dead = 0  # cancelled timers that are still in the heap
        self._sequence = itertools.count()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._stopped = False
        self._poller = select.poll()
        self._timerfd = _timerfd()
        self._armed = _NEVER
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed, self._closing = False, threading.RLock()  # a signal's handler may enter it twice
        self.add_reader(self._timerfd, self._expired)
        self.add_reader(self._wakeup, self._woken)

    def close(self) -> None:
        """Give the reactor's own descriptors back; those added are their owners'."""
        os.close(self._timerfd)
        with self._closing:
            self._closed = True
            os.close(self._wakeup)

    def call_at(self, when: float, fn: Callback) -> Timer:
        """Call ``fn`` at ``when`` (seconds, as :attr:`now` counts), never from inside this call."""
        timer = Timer(when, next(self._sequence), fn, self)
        heapq.heappush(self._timers, timer)
        if when < self.deadline:
            self.deadline = when
        return timer

    def call_later(self, delay: float, fn: Callback) -> Timer:
        """Call ``fn`` in ``delay`` seconds; with 0, after the descriptors that are ready now."""
        return self.call_at(self.now() + delay, fn)

    def add_reader(self, fd: int, fn: Callback) -> None:
        """Call ``fn`` whenever ``fd`` is readable, at its end, or broken; replaces an earlier ``fn``."""
        self._readers[fd] = fn
        self._interest(fd)

    def remove_reader(self, fd: int) -> None:
        """Forget the reader; harmless when there is none. To be called before ``fd`` is closed."""
        if self._readers.pop(fd, None) is not None:
            self._interest(fd)

    def add_writer(self, fd: int, fn: Callback) -> None:
        """Call ``fn`` whenever ``fd`` takes data, or is broken; replaces an earlier ``fn``."""
        self._writers[fd] = fn
        self._interest(fd)

    def remove_writer(self, fd: int) -> None:
        """Forget the writer; harmless when there is none. Call it before closing ``fd``."""
        if self._writers.pop(fd, None) is not None:
            self._interest(fd)

    def run(self) -> None:
        """Serve until :meth:`stop`; may be called again afterwards."""
        while not self._stopped:
            self._run_due()
            if not self._stopped:
                self._serve(self._arm())
        self._stopped = False
        self._settle_deadline()

    def run_once(self, timeout: float = 0.0) -> None:
        """Serve what is ready or due, waiting at most ``timeout`` seconds for it."""
        self._run_due()
        self._serve(max(0, math.ceil(1e3 * min(timeout, self.deadline - self.now()))))
        self._run_due()

    def stop(self) -> None:
        """Make :meth:`run` return soon. Safe in a signal handler and from any thread."""
        self._stopped = True
        self.deadline = -_NEVER  # whoever lingers outside of run() sees a timer that is due
        self.wake()

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called and :meth:`run` has still to return: long work should end."""
        return self._stopped

    def wake(self) -> None:
        """Make a waiting :meth:`run` go round once. Safe in a signal handler, from any thread, at any time.

        A thread that says :meth:`stop` may come to this after the loop's own has ended it, and closed it.
        """
        with self._closing:
            if not self._closed:
                os.eventfd_write(self._wakeup, 1)

    def _woken(self) -> None:
        os.eventfd_read(self._wakeup)

    def _expired(self) -> None:
        self._armed = _NEVER
        with contextlib.suppress(BlockingIOError):  # it was armed anew meanwhile
            os.read(self._timerfd, 8)

    def _interest(self, fd: int) -> None:
        mask = (select.POLLIN if fd in self._readers else 0) | (select.POLLOUT if fd in self._writers else 0)
        if mask:
            self._poller.register(fd, mask)
        else:
            self._poller.unregister(fd)

    def _serve(self, timeout: int | None) -> None:
        """Call back for what is ready within ``timeout`` milliseconds; None waits as long as it takes."""
        for fd, events in self._poller.poll(timeout):
            if events & ~select.POLLOUT and (fn := self._readers.get(fd)) is not None:
                fn()
            if events & ~select.POLLIN and (fn := self._writers.get(fd)) is not None:
                fn()

    def _run_due(self) -> None:
        now = self.now()
        due: list[Timer] = []
        while self._timers and self._timers[0].when <= now:
            due.append(heapq.heappop(self._timers))
        for timer in due:
            fn = timer._take()
            if fn is None:
                self._dead = max(0, self._dead - 1)
            else:
                fn()
        self._settle_deadline()

    def _settle_deadline(self) -> None:
        while self._timers and not self._timers[0].active:
            heapq.heappop(self._timers)
            self._dead = max(0, self._dead - 1)
        if not self._stopped:
            self.deadline = self._timers[0].when if self._timers else _NEVER

    def _cancelled(self) -> None:
        self._dead += 1
        if self._timers and not self._timers[0].active:
            self._settle_deadline()
        if self._dead > _COMPACT_FROM and 2 * self._dead > len(self._timers):
            self._timers = [timer for timer in self._timers if timer.active]
            heapq.heapify(self._timers)
            self._dead = 0

    def _arm(self) -> int | None:
        """Set the timerfd for the next timer, unless it wakes us earlier anyway.

        :return: how long to wait for descriptors, as ``_serve`` takes it.
        """
        when = self.deadline
        if when <= self.now():
            return 0
        if when < self._armed:
            sec, part = divmod(when, 1.0)
            spec = _Itimerspec(_Timespec(0, 0), _Timespec(int(sec), int(part * 1e9) + 1))
            if _libc.timerfd_settime(self._timerfd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
                raise OSError(ctypes.get_errno(), "timerfd_settime")
            self._armed = when
        return None
