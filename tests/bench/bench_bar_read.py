# SPDX-License-Identifier: GPL-2.0-or-later
"""What a BAR read costs, against the floor of a bare recv and send of as many bytes.

Two processes joined by a socketpair; the client is the same for both, a loop of send and recv. The floor's
server is ``recv_into`` and ``send`` of fixed bytes in a loop, with nothing to wait for but the socket; the
other one is a whole server with its reactor, a listening socket and a device. Repetitions alternate between
the two and each pair gives a ratio, so that what else the machine does meets both; the median is the result.
Run it as a program to print the figures.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import time
from collections.abc import Callable

from vcapdev.vfiouser import Irq, Reactor, Region, Server, wire
from vcapdev.vfiouser.wire import Command

TARGET = 1.3
READS = 250  # in one repetition: short, so that most of them are not preempted
REPETITIONS = 251
COUNT = 4  # bytes read
_ABSENT = Region(0, False, False)
_REPLY_SIZE = wire.REGION_MESSAGE.size + COUNT


class _Registers:
    """A device of which a read costs next to nothing."""

    regions = [Region(4096, True, True), *[_ABSENT] * 6, Region(256, True, True), _ABSENT]
    irqs = [Irq(1, 7), *[Irq(0, 0)] * 4]

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        return b"\1\2\3\4"

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        pass

    def reset(self) -> None:
        pass


def _floor(sock: socket.socket) -> None:
    request, reply = bytearray(wire.REGION_MESSAGE.size), bytes(_REPLY_SIZE)
    while sock.recv_into(request):
        sock.send(reply)


def _server(sock: socket.socket) -> None:
    reactor = Reactor()
    server = Server(_Registers(), reactor)
    with socket.socket(socket.AF_UNIX) as listener:  # a second descriptor, as a device process has
        listener.bind("")
        listener.listen()
        reactor.add_reader(listener.fileno(), lambda: None)
        server.on_disconnect = reactor.stop
        server.serve_connected(sock)
        reactor.run()


class _Peer:
    """A process that serves one end of a socketpair, and the other end."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.sock, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self._child(serve, theirs)
        theirs.close()

    def _child(self, serve: Callable[[socket.socket], None], theirs: socket.socket) -> None:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            self.sock.close()
            serve(theirs)
            status = 0
        finally:
            os._exit(status)

    def round_trip(self, request: bytes) -> float:
        """Seconds for one of ``READS`` reads."""
        send, receive = self.sock.send, self.sock.recv
        start = time.perf_counter()
        for _ in range(READS):
            send(request)
            receive(_REPLY_SIZE)
        return (time.perf_counter() - start) / READS

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)  # a close alone: the other child may have inherited it
        self.sock.close()
        _, status = os.waitpid(self.pid, 0)
        if status:
            raise RuntimeError(f"the server of the benchmark failed: {status:#x}")


def measure() -> dict[str, float]:
    """Run the benchmark, all processes on one core.

    Left to itself the scheduler puts a peer on the client's core or on another, which may be asleep: that
    changes a round trip fourfold and says nothing of the server.

    :return: ``ratio`` (median over pairs of repetitions), its ``target``, and ``floor_us`` and ``read_us``,
        the median round trips in microseconds.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    floor, server = _Peer(_floor), _Peer(_server)
    try:
        version = wire.VERSION.pack(0, 0)
        server.sock.send(wire.HEADER.pack(0, Command.VERSION, 20, 0, 0) + version)
        server.sock.recv(20)
        request = wire.REGION_MESSAGE.pack(
            7, Command.REGION_READ, wire.REGION_MESSAGE.size, 0, 0, 0x100, 0, COUNT
        )
        pairs = [(floor.round_trip(request), server.round_trip(request)) for _ in range(REPETITIONS)]
    finally:
        floor.close()
        server.close()
        os.sched_setaffinity(0, cores)
    return {
        "ratio": statistics.median(read / bare for bare, read in pairs),
        "target": TARGET,
        "floor_us": statistics.median(bare for bare, _ in pairs) * 1e6,
        "read_us": statistics.median(read for _, read in pairs) * 1e6,
    }


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name}: {value:.3f}")
