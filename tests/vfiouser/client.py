# SPDX-License-Identifier: GPL-2.0-or-later
"""A small vfio-user client for tests: any message, right or wrong, over any socket.

With ``pump`` the server lives in the same thread: it is let to handle what was sent, so that no test waits.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vcapdev.vfiouser import wire
from vcapdev.vfiouser.wire import Command

DEADLINE = 10.0  # seconds; no reply ever takes so long

# What QEMU 11.1 proposes (hw/vfio-user/proxy.c, caps_json).
QEMU_CAPABILITIES = {
    "migration": {"max_bitmap_size": 268435456, "pgsize": 4096},
    "max_msg_fds": 16,
    "max_data_xfer_size": 1048576,
    "max_dma_maps": 65535,
    "pgsizes": 4096,
    "write_multiple": True,
}


class Reply(NamedTuple):
    """One message from the server."""

    ident: int
    command: int
    flags: int
    errno: int
    payload: bytes


class Disconnected(Exception):  # noqa: N818 - an event, expected by many tests
    """The server has closed the connection."""


class Client:
    """The client's end of a connection."""

    def __init__(self, sock: socket.socket, pump: Callable[[], None] = lambda: None) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self.pump = pump
        self._ident = 0

    def close(self) -> None:
        self.sock.close()
        self.pump()

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Anything at all, with descriptors on its first byte."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], ancillary)

    def send(
        self,
        command: int,
        payload: bytes = b"",
        *,
        fds: Sequence[int] = (),
        flags: int = 0,
        size: int | None = None,
    ) -> int:
        """One message; ``size`` overrides the true one in the header. Returns its id."""
        self._ident = (self._ident + 1) & 0xFFFF
        length = wire.HEADER.size + len(payload) if size is None else size
        self.send_bytes(wire.HEADER.pack(self._ident, command, length, flags, 0) + payload, fds)
        return self._ident

    def receive(self) -> Reply:
        """The next message of the server.

        :raise Disconnected: when there will be none.
        """
        self.pump()
        header = self._exactly(wire.HEADER.size)
        ident, command, size, flags, errno = wire.HEADER.unpack(header)
        return Reply(ident, command, flags, errno, self._exactly(size - wire.HEADER.size))

    def silent(self) -> bool:
        """Whether the server, having handled everything, has sent nothing and is still there."""
        self.pump()
        return not select.select([self.sock], [], [], 0)[0]

    def call(
        self,
        command: int,
        payload: bytes = b"",
        *,
        fds: Sequence[int] = (),
        flags: int = 0,
        expect: int = 0,
    ) -> bytes:
        """Send a command, check its reply's header, return the reply's payload.

        :param expect: the errno of the refusal that must come; 0 for success.
        """
        ident = self.send(command, payload, fds=fds, flags=flags)
        reply = self.receive()
        assert (reply.ident, reply.command) == (ident, command)
        assert reply.errno == expect, f"{Command(command).name}: errno {reply.errno}, expected {expect}"
        assert reply.flags == (wire.TYPE_REPLY | wire.FLAG_ERROR if expect else wire.TYPE_REPLY)
        assert not expect or not reply.payload
        return reply.payload

    def version(self, capabilities: object = QEMU_CAPABILITIES) -> dict[str, object]:
        """Agree on the version as QEMU does; returns the capabilities agreed."""
        data = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        payload = self.call(Command.VERSION, wire.VERSION.pack(0, 0) + data)
        assert wire.VERSION.unpack_from(payload) == (0, 0)
        assert payload[-1] == 0
        assert len(payload) <= wire.VERSION.size + len(data), "QEMU has no room for a longer reply"
        agreed: dict[str, object] = json.loads(payload[wire.VERSION.size : -1])["capabilities"]
        return agreed

    def dma_map(
        self,
        address: int,
        size: int,
        fd: int | None = None,
        offset: int = 0,
        flags: int = wire.DMA_MAP_READ | wire.DMA_MAP_WRITE,
        expect: int = 0,
    ) -> None:
        payload = wire.DMA_MAP.pack(wire.DMA_MAP.size, flags, offset, address, size)
        self.call(Command.DMA_MAP, payload, fds=() if fd is None else (fd,), expect=expect)

    def dma_unmap(self, address: int, size: int, flags: int = 0, expect: int = 0) -> None:
        payload = wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, flags, address, size)
        answer = self.call(Command.DMA_UNMAP, payload, expect=expect)
        assert expect or answer == payload

    def read(self, region: int, offset: int, count: int, expect: int = 0) -> bytes:
        request = wire.REGION_ACCESS.pack(offset, region, count)
        answer = self.call(Command.REGION_READ, request, expect=expect)
        assert expect or answer[: wire.REGION_ACCESS.size] == request
        return answer[wire.REGION_ACCESS.size :]

    def write(self, region: int, offset: int, data: bytes, expect: int = 0) -> None:
        request = wire.REGION_ACCESS.pack(offset, region, len(data))
        answer = self.call(Command.REGION_WRITE, request + data, expect=expect)
        assert expect or answer == request

    def post(self, region: int, offset: int, data: bytes) -> None:
        """A posted write, as QEMU sends it for a BAR."""
        request = wire.REGION_ACCESS.pack(offset, region, len(data))
        self.send(Command.REGION_WRITE, request + data, flags=wire.FLAG_NO_REPLY)

    def set_irqs(
        self,
        flags: int,
        index: int = 0,
        start: int = 0,
        count: int = 1,
        data: bytes = b"",
        fds: Sequence[int] = (),
        expect: int = 0,
    ) -> None:
        payload = wire.IRQ_SET.pack(wire.IRQ_SET.size + len(data), flags, index, start, count) + data
        assert self.call(Command.DEVICE_SET_IRQS, payload, fds=fds, expect=expect) == b""

    def install_intx(self, eventfd: int) -> None:
        self.set_irqs(wire.IRQ_DATA_EVENTFD | wire.IRQ_ACTION_TRIGGER, fds=[eventfd])

    def unmask_intx(self) -> None:
        self.set_irqs(wire.IRQ_DATA_NONE | wire.IRQ_ACTION_UNMASK)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.sock.recv(size - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Disconnected
            data += part
        return data


def memfd(size: int, seals: int | None = fcntl.F_SEAL_SHRINK, flags: int = 0) -> int:
    """Guest RAM as QEMU makes it; ``seals`` None: it cannot be sealed at all."""
    allow = 0 if seals is None else os.MFD_ALLOW_SEALING
    fd = os.memfd_create("ram", os.MFD_CLOEXEC | allow | flags)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
