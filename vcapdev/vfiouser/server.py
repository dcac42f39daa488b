# SPDX-License-Identifier: GPL-2.0-or-later
"""The server: what each command does, for one client at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.connection import Connection, DisconnectError
from vcapdev.vfiouser.device import IRQ_INTX, NUM_IRQS, NUM_REGIONS, Device
from vcapdev.vfiouser.dmamap import DmaMap
from vcapdev.vfiouser.handshake import negotiate
from vcapdev.vfiouser.interrupts import IntxTrigger, IrqTable
from vcapdev.vfiouser.limits import Limits
from vcapdev.vfiouser.reactor import Reactor
from vcapdev.vfiouser.sockets import is_listening

_Handler = Callable[[memoryview, list[int]], bytes]
_KNOWN_FLAGS = wire.TYPE_MASK | wire.FLAG_NO_REPLY
_REFUSED_MAPS = 64  # remembered at a time
_TAKES_FDS = (wire.Command.DMA_MAP, wire.Command.DEVICE_SET_IRQS)
_UNMASK = wire.IRQ_SET.pack(wire.IRQ_SET.size, wire.IRQ_DATA_NONE | wire.IRQ_ACTION_UNMASK, IRQ_INTX, 0, 1)
_UNMASK_SIZE = wire.HEADER.size + len(_UNMASK)
_UNMASK_INTX = wire.HEADER.pack(0, wire.Command.DEVICE_SET_IRQS, _UNMASK_SIZE, 0, 0) + _UNMASK


def _to_stderr(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more: no reason to end
        print(f"vcapdev: {line}", file=sys.stderr, flush=True)


class Server:
    """Serves a device over vfio-user.

    :param device: what is served; called from the reactor's thread only.
    :param log: takes each refusal as one line, for a person; standard error by default.
    """

    def __init__(
        self,
        device: Device,
        reactor: Reactor,
        *,
        limits: Limits | None = None,
        log: Callable[[str], None] = _to_stderr,
    ) -> None:
        self._device = device
        self._reactor = reactor
        self._limits = limits or Limits()
        self._max_transfer = self._limits.max_transfer
        self._log = log
        self._said: set[str] = set()  # lines about this client
        self._regions = [tuple(region) for region in device.regions]
        self._irqs_info = [(irq.count, irq.flags) for irq in device.irqs]
        if len(self._regions) != NUM_REGIONS or len(self._irqs_info) != NUM_IRQS:
            raise ValueError(f"a PCI device has {NUM_REGIONS} regions and {NUM_IRQS} interrupt indexes")
        self._device_read = device.region_read
        self.memory = DmaMap(self._limits)
        self.irqs = IrqTable(device.irqs, reactor)
        self.interrupts: IntxTrigger = self.irqs.intx
        self.on_connect: Callable[[], None] | None = None  # the version is agreed
        self.on_disconnect: Callable[[], None] | None = None  # a client for which on_connect came is gone
        self.on_close: Callable[[], None] | None = None  # any connection has ended, after on_disconnect
        self.refusals = 0  # messages refused, for statistics
        self._connection: Connection | None = None
        self._agreed = False
        self._refused_maps: set[tuple[int, int]] = set()
        self._listener: socket.socket | None = None
        self._handlers = self._commands()

    @property
    def connected(self) -> bool:
        """Whether a client has agreed on the version and is still there."""
        return self._agreed

    def serve(self, sock: socket.socket) -> None:
        """Serve a socket of either kind; see :meth:`serve_listening` and :meth:`serve_connected`."""
        if is_listening(sock):
            self.serve_listening(sock)
        else:
            self.serve_connected(sock)

    def serve_listening(self, sock: socket.socket) -> None:
        """Accept one client after another from ``sock``, which stays the caller's; one at a time."""
        sock.setblocking(False)
        self._listener = sock
        self._reactor.add_reader(sock.fileno(), self._accept)

    def serve_connected(self, sock: socket.socket) -> None:
        """Serve the client at the other end of ``sock``, which is the server's from now on."""
        if self._connection is not None:
            raise RuntimeError("a client is being served already")
        self._said.clear()
        self._connection = Connection(sock, self, self._reactor, self._limits)
        self._connection.linger_when(lambda: not self.interrupts.waits_on_eventfd)

    def drain(self) -> None:
        """Handle all pending messages now, without waiting.

        For a device in a long piece of work: maps may vanish and registers change during the call. From
        inside ``region_read``, ``region_write`` or ``reset`` it does nothing.
        """
        if self._connection is not None:
            self._connection.drain()

    def close(self) -> None:
        """End the client's connection and give all descriptors and mappings back."""
        if self._listener is not None:
            self._reactor.remove_reader(self._listener.fileno())
            self._listener = None
        if self._connection is not None:
            self._connection.close("")
        self.memory.clear()
        self.irqs.close()

    # What the connection calls.

    def message(
        self, ident: int, command: int, flags: int, payload: memoryview, fds: list[int] | None
    ) -> bytes:
        """The reply to any message, empty for none."""
        if flags & wire.TYPE_MASK == wire.TYPE_REPLY:
            self._note(f"{wire.command_name(command)}: a reply to nothing")
            return b""  # answering a reply could go on for ever
        try:
            payload_out = self._handle(command, flags, payload, fds)
        except OSError as error:
            answer = self.refused(ident, command, error)
            if command == wire.Command.VERSION and not self._agreed:
                raise DisconnectError("no agreement on the version", answer) from error
        else:
            answer = wire.reply(ident, command, payload_out)
        return b"" if flags & wire.FLAG_NO_REPLY else answer

    def refused(self, ident: int, command: int, error: OSError) -> bytes:
        """The reply to a refused message, which is counted and logged."""
        number = error.errno or errno.EIO
        self.refusals += 1
        self._note(f"{wire.command_name(command)} refused: {error.strerror or os.strerror(number)}")
        return wire.error_reply(ident, command, number)

    def closed(self, reason: str) -> None:
        """The client is gone: forget its memory and interrupts; the device keeps its state."""
        if reason:
            self._note(f"the client is disconnected: {reason}")
        agreed, self._agreed, self._connection = self._agreed, False, None
        self.memory.clear()
        self._refused_maps.clear()
        self.irqs.close()
        if agreed and self.on_disconnect is not None:
            self.on_disconnect()
        if self.on_close is not None:
            self.on_close()

    def _handle(self, command: int, flags: int, payload: memoryview, fds: list[int] | None) -> bytes:
        if flags & ~_KNOWN_FLAGS or flags & wire.TYPE_MASK:
            raise OSError(errno.EINVAL, f"flags {flags:#x} are not those of a command")
        if fds is None:
            raise OSError(errno.EMFILE, f"more than {self._limits.max_message_fds} descriptors")
        if fds and command not in _TAKES_FDS:
            raise OSError(errno.EINVAL, "this command takes no descriptors")
        if (command == wire.Command.VERSION) == self._agreed:
            text = "the version is agreed already" if self._agreed else "VERSION must come first"
            raise OSError(errno.EPROTO, text)
        handler = self._handlers.get(command)
        if handler is None:
            number = errno.ENOTSUP if command in list(wire.Command) else errno.ENOSYS
            raise OSError(number, "not a command that this server serves")
        return handler(payload, fds)

    def _commands(self) -> dict[int, _Handler]:
        command = wire.Command
        return {
            command.VERSION: self._version,
            command.DMA_MAP: self._dma_map,
            command.DMA_UNMAP: self._dma_unmap,
            command.DEVICE_GET_INFO: self._get_info,
            command.DEVICE_GET_REGION_INFO: self._get_region_info,
            command.DEVICE_GET_REGION_IO_FDS: self._get_region_io_fds,
            command.DEVICE_GET_IRQ_INFO: self._get_irq_info,
            command.DEVICE_SET_IRQS: self._set_irqs,
            command.REGION_READ: self._read,
            command.REGION_WRITE: self._write,
            command.REGION_WRITE_MULTI: self._write_multi,
            command.DEVICE_RESET: self._reset,
        }

    # One method a command: payload and descriptors in, payload out; OSError refuses.

    def _version(self, payload: memoryview, fds: list[int]) -> bytes:
        answer = negotiate(payload, self._limits)
        self._agreed = True
        if self._connection is not None:
            words = self._device.regions[0]
            if words.readable and words.writable:
                self._connection.words_fast(self._device_read, self._device.region_write, words.size)
            if self._device.irqs[IRQ_INTX].count:
                self._connection.act_fast(_UNMASK_INTX, self.interrupts.unmask)
        if self.on_connect is not None:
            self.on_connect()
        return answer

    def _dma_map(self, payload: memoryview, fds: list[int]) -> bytes:
        _exactly(payload, wire.DMA_MAP.size)
        argsz, flags, offset, address, size = wire.DMA_MAP.unpack(payload)
        _argsz(argsz, wire.DMA_MAP.size)
        if flags & ~wire.DMA_MAP_WRITE != wire.DMA_MAP_READ:
            raise OSError(errno.EINVAL, f"flags {flags:#x}: a map is readable, or readable and writable")
        if len(fds) > 1:
            raise OSError(errno.EINVAL, f"{len(fds)} descriptors for one map")
        fd = fds[0] if fds else None
        try:
            kept = self.memory.map(address, size, fd, offset, writable=bool(flags & wire.DMA_MAP_WRITE))
        except OSError:
            if len(self._refused_maps) < _REFUSED_MAPS:
                self._refused_maps.add((address, size))
            raise
        self._refused_maps.discard((address, size))
        if kept:
            fds.clear()
        return b""

    def _dma_unmap(self, payload: memoryview, fds: list[int]) -> bytes:
        _exactly(payload, wire.DMA_UNMAP.size)
        argsz, flags, address, size = wire.DMA_UNMAP.unpack(payload)
        _argsz(argsz, wire.DMA_UNMAP.size)
        if flags & wire.DMA_UNMAP_DIRTY_BITMAP:
            raise OSError(errno.ENOTSUP, "dirty pages are not tracked")
        if flags == wire.DMA_UNMAP_ALL and not address and not size:
            self.memory.clear()
            self._refused_maps.clear()
        elif not flags and (address, size) in self._refused_maps:
            self._refused_maps.discard((address, size))  # QEMU does not remember that it was refused
        elif flags or not size or (address | size) % wire.PAGE_SIZE or address + size > 1 << 64:
            raise OSError(errno.EINVAL, f"flags {flags:#x}, range {address:#x}+{size:#x}")
        else:
            self.memory.unmap(address, size)
        return bytes(payload)

    def _get_info(self, payload: memoryview, fds: list[int]) -> bytes:
        _exactly(payload, wire.DEVICE_INFO.size)
        argsz, flags, _, _ = wire.DEVICE_INFO.unpack(payload)
        _argsz(argsz, wire.DEVICE_INFO.size)
        _no_flags(flags)
        flags = wire.DEVICE_FLAG_RESET | wire.DEVICE_FLAG_PCI
        return wire.DEVICE_INFO.pack(wire.DEVICE_INFO.size, flags, NUM_REGIONS, NUM_IRQS)

    def _get_region_info(self, payload: memoryview, fds: list[int]) -> bytes:
        _exactly(payload, wire.REGION_INFO.size)
        argsz, flags, index, _, _, _ = wire.REGION_INFO.unpack(payload)
        _argsz(argsz, wire.REGION_INFO.size)
        _no_flags(flags)
        size, readable, writable = self._regions[_index(index, NUM_REGIONS, "region")]
        flags = (wire.REGION_FLAG_READ if readable else 0) | (wire.REGION_FLAG_WRITE if writable else 0)
        return wire.REGION_INFO.pack(wire.REGION_INFO.size, flags, index, 0, size, 0)

    def _get_region_io_fds(self, payload: memoryview, fds: list[int]) -> bytes:
        _exactly(payload, wire.REGION_IO_FDS.size)
        argsz, flags, index, _ = wire.REGION_IO_FDS.unpack(payload)
        _argsz(argsz, wire.REGION_IO_FDS.size)
        _no_flags(flags)
        _index(index, NUM_REGIONS, "region")
        # A success would have to carry at least one descriptor; every access must reach us as a message.
        raise OSError(errno.ENOTSUP, "no region has descriptors for its accesses")

    def _get_irq_info(self, payload: memoryview, fds: list[int]) -> bytes:
        _exactly(payload, wire.IRQ_INFO.size)
        argsz, flags, index, _ = wire.IRQ_INFO.unpack(payload)
        _argsz(argsz, wire.IRQ_INFO.size)
        _no_flags(flags)
        count, flags = self._irqs_info[_index(index, NUM_IRQS, "interrupt index")]
        return wire.IRQ_INFO.pack(wire.IRQ_INFO.size, flags, index, count)

    def _set_irqs(self, payload: memoryview, fds: list[int]) -> bytes:
        if len(payload) < wire.IRQ_SET.size:
            raise OSError(errno.EINVAL, f"{len(payload)} bytes are too short")
        argsz, flags, index, start, count = wire.IRQ_SET.unpack_from(payload)
        if argsz != len(payload):
            raise OSError(errno.EINVAL, f"argsz {argsz} in a message of {len(payload)} bytes")
        if fds and not flags & wire.IRQ_DATA_EVENTFD:
            raise OSError(errno.EINVAL, "descriptors, but not as data")
        self.irqs.set(flags, index, start, count, bytes(payload[wire.IRQ_SET.size :]), fds)
        return b""

    def _read(self, payload: memoryview, fds: list[int]) -> bytes:
        _exactly(payload, wire.REGION_ACCESS.size)
        offset, region, count = wire.REGION_ACCESS.unpack(payload)
        size, readable, _ = self._regions[_index(region, NUM_REGIONS, "region")]
        if not readable or not 0 < count <= size - offset or count > self._max_transfer:
            raise _range_error(region, offset, count, size, bool(readable))
        data = self._device_read(region, offset, count)
        if len(data) != count:
            raise RuntimeError(f"the device answered {len(data)} bytes to a read of {count}")
        return bytes(payload) + data

    def _write(self, payload: memoryview, fds: list[int]) -> bytes:
        if len(payload) < wire.REGION_ACCESS.size:
            raise OSError(errno.EINVAL, f"{len(payload)} bytes are too short")
        offset, region, count = wire.REGION_ACCESS.unpack_from(payload)
        _exactly(payload, wire.REGION_ACCESS.size + count)
        self._check_write(region, offset, count)
        self._device.region_write(region, offset, bytes(payload[wire.REGION_ACCESS.size :]))
        return bytes(payload[: wire.REGION_ACCESS.size])

    def _write_multi(self, payload: memoryview, fds: list[int]) -> bytes:
        if len(payload) < wire.WRITE_MULTI.size:
            raise OSError(errno.EINVAL, f"{len(payload)} bytes are too short")
        (number,) = wire.WRITE_MULTI.unpack_from(payload)
        if number > wire.WRITE_MULTI_MAX:
            raise OSError(errno.E2BIG, f"{number} writes in one message")
        _exactly(payload, wire.WRITE_MULTI.size + number * wire.WRITE_MULTI_ONE.size)
        writes = list(wire.WRITE_MULTI_ONE.iter_unpack(payload[wire.WRITE_MULTI.size :]))
        for offset, region, count, data in writes:
            if count > len(data):
                raise OSError(errno.EINVAL, f"{count} bytes in a record of {len(data)}")
            self._check_write(region, offset, count)
        for offset, region, count, data in writes:
            self._device.region_write(region, offset, data[:count])
        return wire.WRITE_MULTI.pack(number)

    def _check_write(self, region: int, offset: int, count: int) -> None:
        size, _, writable = self._regions[_index(region, NUM_REGIONS, "region")]
        if not writable or not 0 < count <= size - offset or count > self._max_transfer:
            raise _range_error(region, offset, count, size, bool(writable))

    def _reset(self, payload: memoryview, fds: list[int]) -> bytes:
        _exactly(payload, 0)
        self._device.reset()
        return b""

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # the client has given up already, or no descriptor is left for it
        self.drain()  # sees the end of a client that has just gone
        if self._connection is not None:
            sock.close()
            self._note("a second client is turned away: one at a time")
            return
        self.serve_connected(sock)

    def _note(self, line: str) -> None:
        """Log a line about the client, once, unless it has caused too many already."""
        if line in self._said or len(self._said) >= self._limits.max_log_lines:
            return
        self._said.add(line)
        self._log(line)
        if len(self._said) == self._limits.max_log_lines:
            self._log("further messages about this client are not shown")


def _exactly(payload: memoryview, size: int) -> None:
    if len(payload) != size:
        raise OSError(errno.EINVAL, f"{len(payload)} bytes where {size} belong")


def _argsz(argsz: int, size: int) -> None:
    if argsz < size:
        raise OSError(errno.EINVAL, f"argsz {argsz} is below {size}")


def _no_flags(flags: int) -> None:
    if flags:
        raise OSError(errno.EINVAL, f"flags {flags:#x} where none belong")


def _index(index: int, count: int, what: str) -> int:
    if index >= count:
        raise OSError(errno.EINVAL, f"there is no {what} {index}")
    return index


def _range_error(region: int, offset: int, count: int, size: int, allowed: bool) -> OSError:
    if size and not allowed:
        return OSError(errno.EACCES, f"region {region} does not allow it")
    return OSError(errno.EINVAL, f"{count} bytes at {offset:#x} of region {region}, which has {size:#x}")
