# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects crash detection: by the agent's stream, by the console alone, and by QEMU's events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vcapdev.vm.console import ConsoleTail
from vcapdev.vm.watch import CrashWatch, GuestCrash

PANIC = [
    "[    8.155021] Kernel panic - not syncing: sysrq triggered crash",
    "[    8.155530] CPU: 0 PID: 124 Comm: sh Not tainted 6.1.0-56-amd64 #1",
    "[    8.168031] Kernel Offset: 0x15400000 from 0xffffffff81000000",
]


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Events:
    """As much of a QMP client as the watch needs."""

    closed = False

    def __init__(self, *events: dict[str, Any]) -> None:
        from collections import deque

        self.events = deque(events)

    def poll(self) -> None:
        pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def console(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


@pytest.fixture
def watch(console: Path, clock: Clock) -> CrashWatch:
    return CrashWatch(ConsoleTail(console), now=clock)


def kmsg(line: str, level: int = 4) -> bytes:
    seconds, text = line[1:].split("] ", 1)
    return f"{level},1,{int(float(seconds) * 1e6)},-;{text}\n".encode()


def write(console: Path, lines: list[str]) -> None:
    with console.open("a") as file:
        file.write("\r\n".join(lines) + "\r\n")


def test_nothing_happens_without_cause(watch: CrashWatch, console: Path) -> None:
    watch.poll()
    write(console, ["[    1.000000] all is well", "WARNING: CPU: a program wrote this to the console"])
    watch.poll()
    assert not watch.crashed


def test_a_panic_on_the_console_alone_is_fatal_and_repeats(watch, console, clock) -> None:
    """The agent is dead by then: the console is all there is."""
    write(console, PANIC)
    watch.poll()  # held back, so that the rest of the story can come
    clock.time += 1.0
    for _ in range(2):
        with pytest.raises(GuestCrash, match=r"\(panic\): Kernel panic - not syncing: sysrq") as caught:
            watch.poll()
    assert caught.value.fatal
    assert caught.value.kernel_log.splitlines() == PANIC
    assert watch.crashed


def test_a_failure_is_told_within_a_second(watch, console, clock) -> None:
    assert not watch.pending
    watch.feed_kmsg(kmsg("[   11.500100] WARNING: CPU: 0 PID: 133 at mm/gup.c:2184 x"))
    watch.poll()
    assert watch.pending
    clock.time += 1.0
    with pytest.raises(GuestCrash, match=r"mm/gup\.c:2184") as caught:
        watch.poll()
    assert not caught.value.fatal
    assert not watch.pending


def test_a_warning_is_told_once_though_both_sources_have_it(watch, console, clock) -> None:
    line = "[   11.500100] WARNING: CPU: 0 PID: 133 at mm/gup.c:2184 x"
    watch.feed_kmsg(kmsg(line))
    write(console, [line])
    watch.poll()
    clock.time += 1.0
    with pytest.raises(GuestCrash):
        watch.poll()
    write(console, ["[   12.000000] more"])
    clock.time += 1.0
    watch.poll()
    assert not watch.crashed


def test_the_longer_story_is_given(watch, console, clock) -> None:
    """The agent's stream breaks off in a panic; the console has the whole text."""
    watch.feed_kmsg(kmsg(PANIC[0], 0))
    write(console, PANIC)
    watch.poll()
    clock.time += 1.0
    with pytest.raises(GuestCrash) as caught:
        watch.poll()
    assert caught.value.kernel_log.splitlines() == PANIC
    assert watch.log_text().splitlines() == PANIC


def test_a_soft_lockup_is_reported_and_no_failure(watch, clock) -> None:
    watch.feed_kmsg(kmsg("[   30.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [kswapd0:50]", 0))
    clock.time += 10
    watch.poll()
    assert [incident.kind for incident in watch.reports] == ["soft-lockup"]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}, "reset"),
        ({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}}, "shutdown"),
        ({"event": "RESET", "data": {"guest": True, "reason": "guest-reset"}}, "reset"),
        ({"event": "GUEST_PANICKED", "data": {"action": "pause"}}, "reset"),
    ],
)
def test_qemus_events_end_the_wait_though_nothing_was_logged(watch, clock, event, kind) -> None:
    watch.qmp = Events({"event": "RTC_CHANGE"}, event)
    watch.poll()
    clock.time += 1.0
    with pytest.raises(GuestCrash) as caught:
        watch.poll()
    assert (caught.value.kind, caught.value.fatal) == (kind, True)


def test_the_host_ending_qemu_is_no_crash(watch, clock) -> None:
    watch.qmp = Events({"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}})
    watch.poll()
    clock.time += 1.0
    watch.poll()
    assert not watch.crashed


def test_what_a_program_wrote_to_kmsg_is_no_failure_on_the_console_either(watch, console, clock) -> None:
    line = "[   11.500100] WARNING: CPU: 0 PID: 1 at imagination.c:1"
    write(console, [line])
    watch.poll()
    watch.feed_kmsg(kmsg(line, 12))  # facility "user"
    clock.time += 1.0
    watch.poll()
    assert not watch.crashed


def test_an_event_makes_an_oops_fatal_and_keeps_its_name(watch, console, clock) -> None:
    write(console, ["[    9.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008"])
    watch.qmp = Events({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}})
    watch.poll()
    clock.time += 1.0
    with pytest.raises(GuestCrash) as caught:
        watch.poll()
    assert (caught.value.kind, caught.value.fatal) == ("oops", True)


def test_lost_records_are_counted(watch: CrashWatch) -> None:
    watch.kmsg_lost()
    assert watch.kmsg.lost == 1


def test_a_console_that_floods_or_breaks_lines_is_read_in_order(console: Path) -> None:
    tail = ConsoleTail(console)
    assert tail.poll() == []
    console.write_bytes(b"one\r\ntw")
    assert tail.poll() == ["one"]
    with console.open("ab") as file:
        file.write(b"o\n\xff\xfe\n" + b"x" * 10000)
    assert tail.poll() == ["two", "��"]
    assert tail.last_lines(1) == ["x" * 8192]
