# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the host's end of the control channel, against a guest that this file plays over a socket pair."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from vcapdev.vm import agent as channel
from vcapdev.vm import frames as wire
from vcapdev.vm.agent import Agent, AgentError, AgentGoneError, GuestTimeoutError
from vcapdev.vm.frames import Decoder, Frame, encode


class FakeGuest(threading.Thread):
    """Answers each frame by ``react(frame)``, which gives the bytes to send."""

    def __init__(self, sock: socket.socket, react: Callable[[Frame], bytes]) -> None:
        super().__init__(daemon=True)
        self.sock, self.react = sock, react
        self.seen: list[Frame] = []

    def run(self) -> None:
        decoder = Decoder()
        while data := self.sock.recv(1 << 16):
            for frame in decoder.feed(data):
                self.seen.append(frame)
                with contextlib.suppress(OSError):  # the test may be over
                    self.sock.sendall(self.react(frame))


@pytest.fixture
def guest() -> Iterator[Callable[..., tuple[Agent, FakeGuest]]]:
    made: list[tuple[Agent, socket.socket, FakeGuest]] = []

    def make(react: Callable[[Frame], bytes], **options: object) -> tuple[Agent, FakeGuest]:
        ours, theirs = socket.socketpair()
        fake = FakeGuest(theirs, react)
        fake.start()
        agent = Agent(ours, **options)  # type: ignore[arg-type]
        made.append((agent, theirs, fake))
        return agent, fake

    yield make
    for agent, theirs, fake in made:
        agent.close()
        theirs.shutdown(socket.SHUT_RDWR)
        fake.join(10)
        theirs.close()


def exits(status: int, out: bytes = b"", err: bytes = b"") -> Callable[[Frame], bytes]:
    def react(frame: Frame) -> bytes:
        if frame.type != wire.SPAWN:
            return b""
        parts = [Frame(frame.id, wire.SPAWNED, struct.pack("<I", 55))]
        parts += [Frame(frame.id, wire.STDOUT, out)] if out else []
        parts += [Frame(frame.id, wire.STDERR, err)] if err else []
        parts.append(Frame(frame.id, wire.EXITED, struct.pack("<i", status)))
        return b"".join(map(encode, parts))

    return react


def test_a_command_gives_status_and_both_outputs(guest) -> None:
    agent, fake = guest(exits(3, b"out\n", b"err"))
    assert agent.run(["prog", "an argument"], timeout=10) == (3, "out\n", "err")
    assert fake.seen[0].payload == b"prog\0an argument\0"


def test_a_signal_is_a_negative_status(guest) -> None:
    agent, _ = guest(exits(-signal.SIGSEGV))
    assert agent.run(["prog"], timeout=10).status == -11


def test_lines_are_given_out_whole_however_they_arrive(guest) -> None:
    def react(frame: Frame) -> bytes:
        chunks = [b"on", b"e\ntw", "ö\n".encode()[:1], "ö\n".encode()[1:], b"last"]
        frames = [Frame(frame.id, wire.SPAWNED, bytes(4))]
        frames += [Frame(frame.id, wire.STDOUT, chunk) for chunk in chunks]
        return b"".join(map(encode, [*frames, Frame(frame.id, wire.EXITED, bytes(4))]))

    lines: list[str] = []
    agent, _ = guest(react)
    agent.run(["prog"], timeout=10, on_stdout=lines.append)
    assert lines == ["one", "twö", "last"]


def test_junk_between_and_before_frames_is_skipped(guest) -> None:
    noise = (
        random.Random(1).randbytes(5000) + wire.MAGIC.to_bytes(4, "little") * 3 + b"VCA1 and no header...."
    )

    def react(frame: Frame) -> bytes:
        return noise + exits(0, b"fine\n")(frame) + noise

    agent, _ = guest(react)
    assert agent.run(["prog"], timeout=10).stdout == "fine\n"


def test_decoder_survives_any_split_and_counts_junk() -> None:
    frames = [Frame(1, wire.STDOUT, b"x" * 10), Frame(2, wire.EXITED, bytes(4)), Frame(3, wire.END)]
    stream = b"junk!" + b"".join(b"\0\0" + encode(frame) for frame in frames)
    for step in (1, 2, 3, 7, len(stream)):
        decoder = Decoder()
        found = [f for at in range(0, len(stream), step) for f in decoder.feed(stream[at : at + step])]
        assert found == frames
        assert decoder.junk == 5 + 2 * len(frames)


def test_an_impossible_length_does_not_stall_the_channel() -> None:
    bad = struct.pack("<IIIHH", wire.MAGIC, 1 << 31, 1, wire.STDOUT, 0)
    assert Decoder().feed(bad + encode(Frame(9, wire.END))) == [Frame(9, wire.END)]


def test_a_program_that_cannot_be_started(guest) -> None:
    def react(frame: Frame) -> bytes:
        return encode(Frame(frame.id, wire.ERROR, struct.pack("<I", 2) + b"nonesuch: No such file"))

    agent, _ = guest(react)
    with pytest.raises(AgentError, match="cannot start nonesuch: nonesuch: No such file"):
        agent.run(["nonesuch"])


def test_a_command_that_runs_too_long_is_killed(guest) -> None:
    agent, fake = guest(
        lambda frame: encode(Frame(frame.id, wire.SPAWNED, bytes(4))) if frame.type == wire.SPAWN else b""
    )
    with pytest.raises(GuestTimeoutError, match=r"waited 0\.05 s for sleep in the guest"):
        agent.run(["sleep"], timeout=0.05)
    agent.pump(0)
    agent.wait_for(lambda: len(fake.seen) == 2, 10, "the signal")
    assert fake.seen[1].type == wire.SIGNAL
    assert fake.seen[1].payload == struct.pack("<I", signal.SIGKILL)


def test_big_files_go_both_ways_without_deadlock(guest) -> None:
    """Both sockets' buffers are smaller than what is under way, so each side must read while it writes."""
    data = random.Random(2).randbytes(3_000_000)
    stored = bytearray()

    def react(frame: Frame) -> bytes:
        if frame.type == wire.DATA:
            stored.extend(frame.payload)
            return b""
        if frame.type == wire.END:
            return encode(Frame(frame.id, wire.DONE))
        if frame.type == wire.PULL:
            chunks = [bytes(stored[at : at + 30000]) for at in range(0, len(stored), 30000)]
            return b"".join(encode(Frame(frame.id, wire.DATA, c)) for c in chunks) + encode(
                Frame(frame.id, wire.END)
            )
        return b""

    agent, fake = guest(react)
    agent.push(data, "/tmp/x", mode=0o755, timeout=30)
    assert fake.seen[0].payload == struct.pack("<I", 0o755) + b"/tmp/x\0"
    assert agent.pull("/tmp/x", timeout=30) == data


def test_a_refused_file(guest) -> None:
    def react(frame: Frame) -> bytes:
        if frame.type not in (wire.END, wire.PULL):
            return b""
        return encode(Frame(frame.id, wire.ERROR, struct.pack("<I", 28) + b"No space left on device"))

    agent, _ = guest(react)
    with pytest.raises(AgentError, match="cannot write /x: No space left"):
        agent.push(b"data", "/x")
    with pytest.raises(AgentError, match="cannot read /x: No space left"):
        agent.pull("/x")


def test_a_file_without_end_is_given_up(guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that does not stop sending must not fill the host's memory."""
    monkeypatch.setattr(channel, "_LARGEST_FILE", 1 << 20)
    piece = bytes(wire.MAX_PAYLOAD)
    agent, _ = guest(lambda frame: encode(Frame(frame.id, wire.DATA, piece)) * 33)
    with pytest.raises(AgentError, match=r"cannot read /x: it has more than 1 MiB"):
        agent.pull("/x")


def test_a_line_without_end_comes_in_pieces(guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_LONGEST_LINE", 100)
    lines: list[str] = []
    agent, _ = guest(exits(0, b"x" * 101 + b"\nrest"))
    agent.run(["prog"], timeout=10, on_stdout=lines.append)
    assert lines == ["x" * 101, "rest"]
    lines.clear()
    agent, _ = guest(
        lambda frame: b"".join(
            encode(Frame(frame.id, kind, payload))
            for kind, payload in [
                (wire.SPAWNED, bytes(4)),
                *[(wire.STDOUT, b"y" * 60)] * 4,
                (wire.EXITED, bytes(4)),
            ]
        )
    )
    agent.run(["prog"], timeout=10, on_stdout=lines.append)
    assert lines == ["y" * 120, "y" * 120]


def test_kernel_log_records_arrive_while_something_else_is_waited_for(guest) -> None:
    records: list[bytes] = []
    agent, _ = guest(
        lambda frame: encode(Frame(0, wire.KMSG, b"6,1,2,-;hello\n")) + exits(0)(frame),
        on_kmsg=records.append,
    )
    agent.run(["prog"], timeout=10)
    assert records == [b"6,1,2,-;hello\n"]


def test_greeting(guest) -> None:
    hello = {"version": wire.VERSION, "release": "6.1.0-56-amd64"}
    agent, _ = guest(lambda frame: encode(Frame(frame.id, wire.HELLO, json.dumps(hello).encode())))
    assert agent.greet(10) == hello


def test_a_greeting_of_nonsense_is_none(guest) -> None:
    agent, _ = guest(
        lambda frame: b"".join(encode(Frame(1, wire.HELLO, t)) for t in (b"[" * 30000, b"7", b"\xff"))
    )
    with pytest.raises(GuestTimeoutError):
        agent.greet(0.5)


def test_an_agent_of_another_version_is_refused(guest) -> None:
    agent, _ = guest(lambda frame: encode(Frame(frame.id, wire.HELLO, b'{"version": 99}')))
    with pytest.raises(AgentError, match="speaks version 99"):
        agent.greet(10)


def test_a_channel_that_closes_ends_the_wait() -> None:
    ours, theirs = socket.socketpair()
    agent = Agent(ours)
    theirs.close()
    with pytest.raises(AgentGoneError):
        agent.run(["prog"], timeout=10)
    agent.close()


def test_the_watcher_ends_the_wait(guest) -> None:
    class Crash(Exception):  # noqa: N818
        pass

    def watch() -> None:
        raise Crash

    agent, _ = guest(lambda frame: b"", watch=watch)
    with pytest.raises(Crash):
        agent.run(["prog"], timeout=10)


def test_time_that_the_guest_stood_still_is_no_time_of_a_wait(guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody looked at the stopped guest for an hour: whoever waits for it waits on."""
    now = [1000.0]
    monkeypatch.setattr(channel.time, "monotonic", lambda: now[0])
    waits = []

    def look() -> None:
        waits.append(1)
        if len(waits) == 1:
            now[0] += 3600
            agent.excuse(3600)
        elif len(waits) > 3:
            now[0] += 3

    agent, _ = guest(lambda frame: b"", watch=look)
    with pytest.raises(GuestTimeoutError, match="waited 5 s"):
        agent.wait_for(lambda: False, 5, "nothing")
    assert len(waits) > 4
