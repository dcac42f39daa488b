# SPDX-License-Identifier: GPL-2.0-or-later
"""Records what a QEMU says to the card, for tests/serve/test_recorded_traffic.py.

::

    tools/python tests/guest/record_traffic.py [QEMU]

boots a guest that captures three frames, with a relay between QEMU and card, and writes both sides of their
talk to ``tests/serve/recorded/``: one message a line, descriptors by what they are. To be repeated for a new
QEMU. No test of ours.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from vcapdev.progress import Silent
from vcapdev.run.capture import capture_command
from vcapdev.run.options import RunOptions
from vcapdev.run.pair import Pair
from vcapdev.run.prepare import prepare
from vcapdev.vfiouser import wire

DIRECTORY = Path(__file__).parents[1] / "serve" / "recorded"
OPTIONS = RunOptions(cold=True, swap="none", pressure="none", frames=3, memory=128)
REGIONS = (wire.Command.REGION_READ, wire.Command.REGION_WRITE)
KEPT = 150  # accesses to registers: all of the firmware's, and the driver's first


class Side:
    """One direction: message by message, since descriptors belong to the one that they come with."""

    def __init__(self, name: str, source: socket.socket, sink: socket.socket, notes: list[Any]) -> None:
        self._name, self.source, self._sink, self._notes = name, source, sink, notes

    def turn(self) -> bool:
        """Pass on and note the next message; False at the end."""
        data, rights, _, _ = self.source.recvmsg(wire.HEADER.size, socket.CMSG_SPACE(64), socket.MSG_WAITALL)
        if len(data) < wire.HEADER.size:
            self._sink.shutdown(socket.SHUT_WR)
            return False
        fds = array.array("i")
        for _, _, each in rights:
            fds.frombytes(each[: len(each) - len(each) % 4])
        while len(data) < wire.HEADER.unpack_from(data)[2]:
            data += self.source.recv(wire.HEADER.unpack_from(data)[2] - len(data))
        self._sink.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
        kinds = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
        self._notes.append(
            [self._name, data.hex(), *("ram" if "memfd" in kind else "event" for kind in kinds)]
        )
        for fd in fds:
            os.close(fd)
        return True


def relay(listener: socket.socket, card: Path, notes: list[Any]) -> None:
    """Stand between the first client of ``listener`` and the card, until either goes."""
    client, _ = listener.accept()
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(card))
    sides = [Side("qemu", client, server, notes), Side("card", server, client, notes)]
    while True:
        ready, _, _ = select.select([side.source for side in sides], [], [])
        for side in sides:
            if side.source in ready and not side.turn():
                return


def thinned(notes: list[Any]) -> list[Any]:
    """Without most of the register accesses, but with all else that was said."""
    kept, accesses, left_out = [], 0, set[int]()
    for who, text, *fds in notes:
        ident, command, *_ = wire.HEADER.unpack_from(bytes.fromhex(text))
        if who == "qemu":
            accesses += command in REGIONS
            (left_out.add if command in REGIONS and accesses > KEPT else left_out.discard)(ident)
        if ident not in left_out:
            kept.append([who, text, *fds])
    return kept


def main(qemu: str | None) -> None:
    options = replace(OPTIONS, qemu=qemu)
    prepared, notes = prepare(options, Silent()), []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        pair = Pair(options, prepared, work)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(work / "relay"))
            listener.listen()
            pair.vm.config.card_socket = work / "relay"
            thread = threading.Thread(target=relay, args=(listener, work / "card", notes))
            thread.start()
            try:
                agent = pair.start()
                agent.push(b"", "/tmp/expect")
                words = capture_command(options)
                at = words.index("--expect")
                done = agent.run([*words[:at], *words[at + 2 :]], timeout=60)
                assert done.status == 0, done.stderr
            finally:
                pair.stop()
                thread.join()
    DIRECTORY.mkdir(exist_ok=True)
    path = DIRECTORY / f"qemu-{prepared.qemu.version}.jsonl"
    path.write_text("".join(json.dumps(note) + "\n" for note in thinned(notes)))
    print(f"{path}: {len(thinned(notes))} of {len(notes)} messages")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
