# SPDX-License-Identifier: GPL-2.0-or-later
"""One client's stream socket: messages with their descriptors in, replies out, and nothing that blocks.

Framing. The kernel never reads beyond data that came with descriptors, but it may read what lies before such
data in the same call. So a large read would leave open to which message descriptors belong. Each read here
asks for 36 bytes, then for the exact rest: no message that may carry descriptors is shorter than that, so
what comes with a read that ends in a second message belongs to that one. A REGION_READ, the message that a
guest waits for, and a REGION_WRITE of four bytes, the one that comes most often, fit: one system call each.

Speed. Waiting in poll and then reading costs a third of a round trip. While no timer is due soon, the
connection *lingers* after a message: it waits in the read itself, for a kernel tick or two.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.limits import Limits
from vcapdev.vfiouser.reactor import Reactor

_HEAD = 36  # bytes of the first read of each message: a DEVICE_SET_IRQS without data
_READ = wire.REGION_MESSAGE.size  # bytes of a REGION_READ
# In words: id, command and size; flags and error, all zero in a plain command; offset; region; count.
_unpack = struct.Struct(f"<QQQII{_HEAD - _READ}x").unpack
_pack_reply = struct.Struct("<QQQII4s").pack
_PLAIN_READ = wire.Command.REGION_READ | _READ << 16
_PLAIN_WRITE = wire.Command.REGION_WRITE | _HEAD << 16  # of four bytes
_DONE = wire.reply(0, 0, b"")[4:]  # a reply without payload, behind id and command
_GROWN = 4 << 32  # a reply is so many bytes longer than its REGION_READ
_POSTED, _REPLY = int(wire.FLAG_NO_REPLY), int(wire.TYPE_REPLY)
_TRUNCATED = int(socket.MSG_CTRUNC)  # more descriptors came than there was room for
_COARSE = 6  # CLOCK_MONOTONIC_COARSE, which goes on by ticks; the time module does not name it
_TICK = time.clock_getres(_COARSE)  # seconds: 1, 4 or 10 ms, as the kernel was built
_QUIET = 2 * _TICK + 0.001  # seconds until the next timer that allow to linger
_BURST = 0.005  # seconds after which other descriptors get their turn
_DRAIN = 0.02  # seconds after which drain() ends though messages keep coming
_RECEIVE_TIMEOUT = struct.pack("@ll", 0, 1000)  # struct timeval; the kernel rounds it up to a tick
_DONTWAIT = int(socket.MSG_DONTWAIT)
_NOW = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_LINGER = int(socket.MSG_CMSG_CLOEXEC)


class Messages(Protocol):
    """Who handles messages."""

    def refused(self, ident: int, command: int, error: OSError) -> bytes:
        """The reply to a message that ``error`` refuses."""

    def message(
        self, ident: int, command: int, flags: int, payload: memoryview, fds: list[int] | None
    ) -> bytes:
        """The reply to any message, empty for none. Takes the descriptors that it keeps out of ``fds``.

        ``fds`` is None when more came than the limit allows (then all are closed already). ``payload`` is
        valid during the call.
        :raise DisconnectError: to end the connection.
        """

    def closed(self, reason: str) -> None:
        """The connection has ended, its socket is closed."""


class DisconnectError(Exception):
    """The client has to go; ``reply`` is sent first."""

    def __init__(self, reason: str, reply: bytes = b"") -> None:
        super().__init__(reason)
        self.reply = reply


class Connection:
    """Reads, dispatches, replies; owned by a server."""

    def __init__(self, sock: socket.socket, messages: Messages, reactor: Reactor, limits: Limits) -> None:
        sock.setblocking(True)  # each call says by a flag whether it waits
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_TIMEOUT)
        self._sock = sock
        self._messages = messages
        self._reactor = reactor
        self._limits = limits
        self._ancillary = socket.CMSG_SPACE(4 * limits.max_message_fds)
        self._head = bytearray(_HEAD)
        self._heads = [self._head]
        self._body = bytearray(_HEAD)  # a message that needs more than one read; grows as needed
        self._have = 0  # bytes of it that are there
        self._fds: list[int] = []  # descriptors that came with it
        self._fds_refused = False  # more came than the limit allows
        self._out: bytes | bytearray = b""  # replies that the socket did not take yet
        self._busy = False  # handling messages: who asks to drain from within has to wait
        self._linger_allowed: Callable[[], bool] = lambda: True
        self._read: Callable[[int, int, int], bytes] = _no_region
        self._write: Callable[[int, int, bytes], None] = _no_region_write
        self._end = 0  # of what these two may be asked for: the first offset at which no word is left
        self._acts: dict[bytes, Callable[[], None]] = {}  # by all of a message but its id
        self.open = True
        reactor.add_reader(sock.fileno(), self._readable)

    def words_fast(
        self, read: Callable[[int, int, int], bytes], write: Callable[[int, int, bytes], None], size: int
    ) -> None:
        """From now on, serve words of region 0 on the short way: reads, and writes that want no reply.

        :param read: called as ``read(0, offset, 4)``.
        :param write: called as ``write(0, offset, data)``.
        :param size: of the region, in bytes.
        """
        self._read, self._write, self._end = read, write, size - 3

    def act_fast(self, request: bytes, act: Callable[[], None]) -> None:
        """Likewise ``act()`` for a command of these bytes, whatever its id; its reply has no payload."""
        if len(request) != _HEAD:
            raise ValueError(f"{len(request)} bytes are not the length of a first read")
        self._acts[request[2:]] = act

    def linger_when(self, allowed: Callable[[], bool]) -> None:
        """Let ``allowed`` say whether lingering would harm."""
        self._linger_allowed = allowed

    def drain(self) -> None:
        """Handle what has arrived, without waiting. From inside a message's handler it does nothing."""
        if not self._busy and not self._out and self.open:
            self._turn(_DRAIN, False)

    def close(self, reason: str) -> None:
        """End the connection and give back everything that came over it."""
        if not self.open:
            return
        self.open = False
        self._reactor.remove_reader(self._sock.fileno())
        self._reactor.remove_writer(self._sock.fileno())
        self._sock.close()
        _close_all(self._fds)
        self._messages.closed(reason)

    def _readable(self) -> None:
        self._turn(_BURST, True)

    def _turn(self, seconds: float, in_reactor: bool) -> None:
        self._busy = True
        try:
            self._pump(self._reactor.now() + seconds, in_reactor)
        finally:
            self._busy = False

    def _pump(self, until: float, in_reactor: bool) -> None:
        """Read and handle messages until none is left, or ``until``, or, in the reactor, a timer is due.

        A plain REGION_READ or posted REGION_WRITE of a word is handled in here: every call less counts.
        """
        reactor, now = self._reactor, self._reactor.now
        head, heads, room = self._head, self._heads, self._ancillary
        receive, send = self._sock.recvmsg_into, self._sock.send
        read, end, unpack, pack = self._read, self._end, _unpack, _pack_reply
        linger = in_reactor and self._linger_allowed()
        flags = _NOW
        while True:
            if self._have:
                if not self._receive_rest():
                    return
            else:
                try:
                    got, ancillary, status, _ = receive(heads, room, flags)
                except BlockingIOError:
                    return
                except OSError as error:
                    self.close(error.strerror or str(error))
                    return
                word, mode, offset, region, count = unpack(head)
                if (
                    got == _READ
                    and word >> 16 == _PLAIN_READ
                    and count == 4
                    and offset < end
                    and not (region or mode or ancillary or status & _TRUNCATED)
                ):
                    try:
                        data = read(0, offset, 4)
                    except OSError as error:
                        self._send(self._messages.refused(word & 0xFFFF, wire.Command.REGION_READ, error))
                    else:
                        if len(data) != 4:
                            raise RuntimeError(f"the device answered {len(data)} bytes to a read of 4")
                        reply = pack(word + _GROWN, _REPLY, offset, 0, 4, data)
                        try:
                            sent = send(reply, _DONTWAIT)
                        except OSError:
                            sent = 0
                        if sent == _HEAD:
                            moment = now()
                            if linger and moment < until and moment < reactor.deadline - _QUIET:
                                flags = _LINGER
                                continue
                        else:
                            self._send(reply[sent:])
                elif (
                    got == _HEAD
                    and word >> 16 == _PLAIN_WRITE
                    and count == 4
                    and offset < end
                    and mode == _POSTED
                    and not (region or ancillary or status & _TRUNCATED)
                ):
                    self._posted_write(offset, bytes(head[_READ:]))
                elif (
                    got == _HEAD
                    and not (ancillary or status & _TRUNCATED)
                    and (act := self._acts.get(bytes(head[2:]))) is not None
                ):
                    act()
                    self._send(head[:4] + _DONE)
                elif not self._received(got, ancillary, status):
                    return
            moment = now()
            if self._out or not self.open:
                return
            if moment > until or (in_reactor and moment >= reactor.deadline):
                return
            flags = _LINGER if linger and moment < reactor.deadline - _QUIET else _NOW

    def _posted_write(self, offset: int, data: bytes) -> None:
        try:
            self._write(0, offset, data)
        except OSError as error:
            ident = int.from_bytes(self._head[:2], "little")
            self._messages.refused(ident, wire.Command.REGION_WRITE, error)

    def _receive_rest(self) -> bool:
        """Go on with a message of which a part is there: read to its end, or to the end of its head."""
        want = self._size() if self._have >= wire.HEADER.size else _HEAD
        if len(self._body) < want:
            self._body.extend(bytes(want - len(self._body)))
        try:
            with memoryview(self._body) as body, body[self._have : want] as rest:
                got, ancillary, status, _ = self._sock.recvmsg_into([rest], self._ancillary, _NOW)
        except BlockingIOError:
            return False
        except OSError as error:
            self.close(error.strerror or str(error))
            return False
        return self._received(got, ancillary, status)

    def _received(self, got: int, ancillary: list[tuple[int, int, bytes]], status: int) -> bool:
        if not got:
            self.close("in the middle of a message" if self._have else "")
            return False
        if not self._have:  # it was read into _head
            self._body[:got] = self._head[:got]
        self._have += got
        arrived = _descriptors(ancillary)
        refused = bool(status & _TRUNCATED)
        if refused:
            _close_all(arrived)
        while self.open and self._have >= wire.HEADER.size:
            size = self._size()
            if not wire.HEADER.size <= size <= self._limits.max_message:
                _close_all(arrived)
                self._refuse_size(size)
                return False
            if self._have < size:
                break
            if self._have == size:  # what came with the last byte of a read belongs to the last message in it
                self._fds += arrived
                self._fds_refused |= refused
                arrived, refused = [], False
            self._dispatch(size)
        if not self.open:
            _close_all(arrived)
            return False
        self._fds += arrived
        self._fds_refused |= refused
        self._check_total_fds()
        return True

    def _check_total_fds(self) -> None:
        """A message may come in many pieces, each with descriptors: the limit is on their sum."""
        if self._fds_refused or len(self._fds) > self._limits.max_message_fds:
            _close_all(self._fds)
            self._fds_refused = True

    def _size(self) -> int:
        size: int = wire.HEADER.unpack_from(self._body)[2]
        return size

    def _dispatch(self, size: int) -> None:
        """Handle the message at the beginning of the buffer and take it out."""
        ident, command, _, flags, _ = wire.HEADER.unpack_from(self._body)
        self._check_total_fds()
        fds = None if self._fds_refused else self._fds
        message = bytes(self._body[wire.HEADER.size : size])
        self._body[: self._have - size] = self._body[size : self._have]
        self._have -= size
        self._fds, self._fds_refused = [], False
        try:
            answer = self._messages.message(ident, command, flags, memoryview(message), fds)
        except DisconnectError as end:
            self._send(end.reply)
            self.close(str(end))
            return
        finally:
            if fds is not None:
                _close_all(fds)
        if answer:
            self._send(answer)

    def _refuse_size(self, size: int) -> None:
        ident, command, _, flags, _ = wire.HEADER.unpack_from(self._body)
        if flags & (wire.TYPE_MASK | wire.FLAG_NO_REPLY) == wire.TYPE_COMMAND:
            number = errno.EINVAL if size < wire.HEADER.size else errno.EMSGSIZE
            self._send(wire.error_reply(ident, command, number))
        self.close(f"{wire.command_name(command)} with a message size of {size} bytes")

    def _send(self, data: bytes | bytearray) -> None:
        """Send, or keep for later what the socket does not take; meanwhile nothing is read."""
        if not self.open or not data:
            return
        if self._out:
            self._out += data
            return
        try:
            sent = self._sock.send(data, _DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        if sent < len(data):
            self._out = data[sent:]
            self._reactor.remove_reader(self._sock.fileno())
            self._reactor.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._out, _DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        self._out = self._out[sent:]
        if not self._out:
            self._reactor.remove_writer(self._sock.fileno())
            self._reactor.add_reader(self._sock.fileno(), self._readable)


def _no_region(region: int, offset: int, count: int) -> bytes:
    raise OSError(errno.EINVAL, "no region may be read yet")


def _no_region_write(region: int, offset: int, data: bytes) -> None:
    raise OSError(errno.EINVAL, "no region may be written yet")


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            count = len(data) // 4
            fds += struct.unpack(f"={count}i", data[: 4 * count])
    return fds


def _close_all(fds: list[int]) -> None:
    while fds:
        socket.close(fds.pop())
