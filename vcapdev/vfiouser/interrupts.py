# SPDX-License-Identifier: GPL-2.0-or-later
"""Interrupts: eventfds that the client installs, and the level of INTx.

QEMU takes any BAR access while an interrupt is pending for its end: it deasserts the line and sends UNMASK,
long before the driver has cleared the cause. Firing again at once would interrupt the guest for nothing,
never looking again would lose interrupts; so an UNMASK is followed by a second look after ``RELOOK`` seconds.
Of a device that can tell when its driver reads the cause of an interrupt (:meth:`IntxTrigger.handling`) we
know more: then that access was the handler's, which is left in peace until it clears something, for
``PATIENCE`` seconds at most. Handlers are slow enough to be interrupted by every second look otherwise.
With KVM the client may install an eventfd for UNMASK instead; that one is signalled at the real end of an
interrupt, so the second look is taken at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.device import IRQ_INTX, Irq
from vcapdev.vfiouser.reactor import Reactor, Timer

RELOOK = 300e-6  # seconds
PATIENCE = 20e-3  # seconds


class _EventFd:
    """An eventfd of the client's.

    Its O_NONBLOCK belongs to the client too, who may clear it at any time: no call may rest on it alone.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd

    def signal(self) -> None:
        os.set_blocking(self.fd, False)  # a full counter must not stall us
        with contextlib.suppress(BlockingIOError):  # a full counter: it is signalled already
            os.eventfd_write(self.fd, 1)

    def drain(self) -> bool:
        """Take back what the client has not seen yet; True when there was something."""
        try:
            return os.preadv(self.fd, [bytearray(8)], -1, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # kernels before 5.8
                raise
        os.set_blocking(self.fd, False)
        try:
            return os.eventfd_read(self.fd) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self.fd)


class Vector:
    """One edge-triggered interrupt (MSI, error, request)."""

    def __init__(self) -> None:
        self._trigger: _EventFd | None = None

    @property
    def installed(self) -> bool:
        """Whether the client has given an eventfd."""
        return self._trigger is not None

    def trigger(self) -> None:
        """Signal the interrupt once; nothing happens when the client has not installed it."""
        if self._trigger is not None:
            self._trigger.signal()

    def install(self, fd: int | None) -> None:
        """Take over the eventfd ``fd`` in place of an earlier one; None removes."""
        if self._trigger is not None:
            self._trigger.close()
        self._trigger = None if fd is None else _EventFd(fd)

    def mask(self) -> None:
        """The client masks the interrupt."""

    def unmask(self) -> None:
        """The client unmasks the interrupt."""

    def install_unmask(self, fd: int | None) -> None:
        """The client gives an eventfd by which it will unmask."""
        if fd is not None:
            raise OSError(errno.ENOTSUP, "UNMASK by eventfd is for INTx only")

    def close(self) -> None:
        """Give all descriptors back."""
        self.install(None)


class IntxTrigger(Vector):
    """The INTx pin: a level of the device's, turned into eventfd signals, masked by each."""

    def __init__(self, reactor: Reactor) -> None:
        super().__init__()
        self._reactor = reactor
        self._level = False
        self._masked = False  # by the client
        self._pending = False  # signalled, and not unmasked since
        self._unmask: _EventFd | None = None
        self._relook: Timer | None = None
        self._handling = False  # the driver has read the cause of the last signal
        self.kicks = 0  # signals sent, for statistics

    @property
    def level(self) -> bool:
        """What the device drives."""
        return self._level

    def set_level(self, level: bool) -> None:
        """The device asserts or deasserts its pin."""
        if level == self._level:
            return
        self._level = level
        if level:
            self._look()
        else:
            self._cancel_relook()
            if self._take_back():
                self._pending = False

    def install(self, fd: int | None) -> None:
        """Take over a trigger eventfd. A signal that nobody saw moves to the new one; none: all masks end."""
        if self._take_back() or fd is None:
            self._pending = False
        if fd is None:
            self._masked = False
            self._cancel_relook()
        super().install(fd)
        self._look()

    def mask(self) -> None:
        self._masked = True

    def unmask(self) -> None:
        self._masked = self._pending = False
        if self._level and (self._relook is None or not self._relook.active):
            self._look_later()

    def handling(self, begun: bool) -> None:
        """The driver has read the cause of the interrupt; or (False) has cleared one, and another is left."""
        if begun == self._handling:
            return
        self._handling = begun
        if self._relook is not None and self._relook.active:
            self._relook.cancel()
            self._look_later()

    def install_unmask(self, fd: int | None) -> None:
        """Take over an eventfd whose signal means UNMASK; None removes."""
        if self._unmask is not None:
            self._reactor.remove_reader(self._unmask.fd)
            self._unmask.close()
            self._unmask = None
        if fd is not None:
            self._unmask = _EventFd(fd)
            self._reactor.add_reader(fd, self._unmasked_by_eventfd)

    def close(self) -> None:
        self.install_unmask(None)
        super().close()

    @property
    def waits_on_eventfd(self) -> bool:
        """Whether an UNMASK may come by eventfd, so that the reactor must be polled promptly."""
        return self._unmask is not None

    def _unmasked_by_eventfd(self) -> None:
        if self._unmask is not None and self._unmask.drain():
            self._masked = self._pending = False
            self._look()

    def _look_later(self) -> None:
        self._relook = self._reactor.call_later(PATIENCE if self._handling else RELOOK, self._look)

    def _look(self) -> None:
        if self._level and self._trigger is not None and not self._masked and not self._pending:
            self._pending = True
            self._handling = False
            self.kicks += 1
            self._trigger.signal()

    def _take_back(self) -> bool:
        """Whether the client had not seen the last signal: then it will not send UNMASK either."""
        return self._trigger is not None and self._trigger.drain()

    def _cancel_relook(self) -> None:
        if self._relook is not None:
            self._relook.cancel()


class IrqTable:
    """All interrupts of a device, and what DEVICE_SET_IRQS does to them."""

    def __init__(self, irqs: Sequence[Irq], reactor: Reactor) -> None:
        self._irqs = list(irqs)
        self.intx = IntxTrigger(reactor)
        self._vectors: list[list[Vector]] = [[Vector() for _ in range(irq.count)] for irq in self._irqs]
        if self._vectors and self._vectors[IRQ_INTX]:
            self._vectors[IRQ_INTX][0] = self.intx

    def trigger(self, index: int, sub: int = 0) -> None:
        """Signal one edge-triggered interrupt."""
        self._vectors[index][sub].trigger()

    def close(self) -> None:
        """The client is gone: give all its descriptors back. The level of INTx stays the device's."""
        for vectors in self._vectors:
            for vector in vectors:
                vector.close()

    def set(self, flags: int, index: int, start: int, count: int, data: bytes, fds: list[int]) -> None:
        """Carry out one DEVICE_SET_IRQS; takes the descriptors that it keeps out of ``fds``.

        :raise OSError: when refused; then nothing was changed.
        """
        vectors = self._select(flags, index, start, count, data, fds)
        action, kind = flags & wire.IRQ_ACTIONS, flags & wire.IRQ_DATA_MASK
        if kind == wire.IRQ_DATA_EVENTFD:
            self._install(vectors, action, fds)
        elif not count:
            for vector in vectors:
                vector.close()
        else:
            for vector, wanted in zip(vectors, data or b"\1" * count, strict=True):
                if wanted:
                    _ACTIONS[action](vector)

    def _select(
        self, flags: int, index: int, start: int, count: int, data: bytes, fds: list[int]
    ) -> list[Vector]:
        """The vectors that a request is about; refuses all requests that are not well-formed."""
        action, kind = flags & wire.IRQ_ACTIONS, flags & wire.IRQ_DATA_MASK
        if flags != action | kind or action.bit_count() != 1 or kind.bit_count() != 1:
            raise OSError(errno.EINVAL, f"flags {flags:#x} do not name one action and one kind of data")
        if index >= len(self._irqs):
            raise OSError(errno.EINVAL, f"there is no interrupt index {index}")
        if len(data) != (count if kind == wire.IRQ_DATA_BOOL else 0):
            raise OSError(errno.EINVAL, f"{len(data)} bytes of data for {count} interrupts")
        if not count:
            if start or kind != wire.IRQ_DATA_NONE or action != wire.IRQ_ACTION_TRIGGER:
                raise OSError(errno.EINVAL, "count 0 is for disabling a whole index only")
            return self._vectors[index]
        irq = self._irqs[index]
        if start + count > irq.count:
            raise OSError(errno.EINVAL, f"interrupts {start}+{count} of {irq.count}")
        if action != wire.IRQ_ACTION_TRIGGER and not irq.flags & wire.IRQ_INFO_MASKABLE:
            raise OSError(errno.EINVAL, f"interrupt index {index} cannot be masked")
        if kind == wire.IRQ_DATA_EVENTFD:
            _check_eventfds(irq, action, count, fds)
        return self._vectors[index][start : start + count]

    def _install(self, vectors: list[Vector], action: int, fds: list[int]) -> None:
        for vector in vectors:
            fd = fds[0] if fds else None
            if action == wire.IRQ_ACTION_TRIGGER:
                vector.install(fd)
            else:
                vector.install_unmask(fd)
            del fds[:1]  # it is the vector's now


_ACTIONS: dict[int, Callable[[Vector], None]] = {
    wire.IRQ_ACTION_MASK: lambda vector: vector.mask(),
    wire.IRQ_ACTION_UNMASK: lambda vector: vector.unmask(),
    wire.IRQ_ACTION_TRIGGER: lambda vector: vector.trigger(),
}


def _check_eventfds(irq: Irq, action: int, count: int, fds: list[int]) -> None:
    if not irq.flags & wire.IRQ_INFO_EVENTFD:
        raise OSError(errno.EINVAL, "this interrupt has no eventfd")
    if action == wire.IRQ_ACTION_MASK:
        raise OSError(errno.ENOTSUP, "MASK by eventfd is not supported")
    if fds and len(fds) != count:
        raise OSError(errno.EINVAL, f"{len(fds)} descriptors for {count} interrupts")
    for fd in fds:
        if os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:[eventfd]":
            raise OSError(errno.EINVAL, "a descriptor is no eventfd")
