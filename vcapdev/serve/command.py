# SPDX-License-Identifier: GPL-2.0-or-later
"""``vcapdev serve``: one card for a QEMU that somebody starts, until SIGTERM.

After QEMU's conventions for back-end programs: it stays in the foreground, ends cleanly on SIGTERM, and
logs to standard error.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from vcapdev.bt878.faulty import Armed
from vcapdev.dmacheck.verdict import Verdict
from vcapdev.errors import ExitStatus, GuestError
from vcapdev.serve.card import Card
from vcapdev.serve.commands import Commands, fault_event, held_event, verdict_event
from vcapdev.serve.control import ControlServer
from vcapdev.serve.options import ServeOptions
from vcapdev.serve.sockets import adopt, listening
from vcapdev.vfiouser.reactor import Reactor
from vcapdev.vfiouser.sockets import is_listening

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(options: ServeOptions) -> ExitStatus:
    """Be a card until SIGTERM, SIGINT or "quit"; findings by then are its exit status.

    :raise VcapdevError: when a socket cannot be had, the board does not exist, or the one client of a
        connected descriptor went without a word.
    """
    if options.with_parent:
        _end_with_parent()
    reactor = Reactor()
    control: list[ControlServer] = []
    findings: list[Verdict] = []

    def found(verdict: Verdict) -> None:
        findings.append(verdict)
        for channel in control:
            channel.broadcast(verdict_event(verdict))
        with suppress(OSError):  # whoever read our output has gone; the finding counts all the same
            print(verdict.splat(), flush=True)

    def held(verdict: Verdict, stopped: bool) -> None:
        for channel in control:
            channel.broadcast(held_event(verdict, stopped))

    def fault(armed: Armed) -> None:
        for channel in control:
            channel.broadcast(fault_event(armed))

    connected_only = left = False

    def gone() -> None:
        nonlocal left
        if connected_only:
            left = True
            reactor.stop()

    with ExitStack() as stack:
        stack.enter_context(_ending(reactor.stop))
        client, connected_only = _client_socket(options, stack)
        card = Card(options, reactor, found, gone, held, fault)
        stack.callback(card.close)
        if options.control is not None:
            listener = stack.enter_context(listening(options.control, "--control"))
            commands = Commands(card, reactor.stop)
            control.append(ControlServer(reactor, listener, commands.dispatch))
            stack.callback(control[0].close)
        card.server.serve(client)
        reactor.run()
    reactor.close()
    if left and not card.was_connected:
        raise GuestError(f"--fd {options.fd}: the other end went before it agreed on a version of vfio-user")
    return ExitStatus.FINDINGS if findings else ExitStatus.CLEAN


def _client_socket(options: ServeOptions, stack: ExitStack) -> tuple[socket.socket, bool]:
    """The socket for QEMU, and whether the process ends with its one connection."""
    if options.socket_path is not None:
        return stack.enter_context(listening(options.socket_path, "--socket-path")), False
    assert options.fd is not None
    sock = adopt(options.fd)
    return sock, not is_listening(sock)


@contextmanager
def _ending(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP end the reactor, however busy it is."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """SIGTERM when the parent ends, however it ends (prctl(2)); at once when it has ended already."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
