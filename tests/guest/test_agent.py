# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the guest's end of the control channel, on a real kernel; the last test lets that kernel panic."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest

import vcapdev
from vcapdev.testing import Guest
from vcapdev.testing.states import GuestStateError
from vcapdev.vm.agent import AgentError, GuestTimeoutError
from vcapdev.vm.watch import GuestCrash

pytestmark = [pytest.mark.guest, vcapdev.guest(swap="zram")]


def test_outputs_and_status_are_apart(guest: Guest) -> None:
    result = guest.run("echo out; echo err >&2; exit 7")
    assert (result.status, result.stdout, result.stderr) == (7, "out\n", "err\n")
    assert guest.state == "shell"


def test_arguments_arrive_as_they_are(guest: Guest) -> None:
    words = ["a b", "", "ü$HOME'\"", "\n"]
    assert guest.run(["printf", "%s|", *words]).stdout == "a b||ü$HOME'\"|\n|"


def test_a_signal_is_told_and_reaches_the_whole_group(guest: Guest) -> None:
    process = guest.spawn(["sh", "-c", "sleep 1000 & echo $!; wait"])
    guest.wait(lambda: bool(process.stdout), 30, "the shell's output")
    process.kill(signal.SIGKILL)
    assert process.wait(30).status == -signal.SIGKILL
    child = process.stdout.strip()
    state = guest.run(["sh", "-c", f"grep -s State: /proc/{child}/status"]).stdout
    assert state == "" or "Z" in state


def test_a_child_in_the_background_does_not_hold_up_the_end(guest: Guest) -> None:
    result = guest.run(["sh", "-c", "sleep 1000 & echo started"], timeout=20)
    assert (result.status, result.stdout, result.stderr) == (0, "started\n", "")
    guest.run(["killall", "sleep"])


def test_a_program_that_does_not_exist(guest: Guest) -> None:
    with pytest.raises(AgentError, match="cannot start nonesuch: nonesuch: No such file or directory"):
        guest.run(["nonesuch"])


def test_a_command_that_runs_too_long_is_ended(guest: Guest) -> None:
    with pytest.raises(GuestTimeoutError):
        guest.run(["sh", "-c", "exec sleep 4321"], timeout=1)
    # One process has no "sleep 4321" in its command line: the search itself.
    search = "grep -l -s 4321 /proc/[0-9]*/cmdline | grep -v -c -e /proc/self -e /proc/$$"
    deadline = time.monotonic() + 30
    while guest.run(["sh", "-c", search]).stdout.strip() not in ("0", "1"):
        assert time.monotonic() < deadline, "the program outlived its end"


def test_much_output_from_several_at_once_is_complete(guest: Guest) -> None:
    processes = [guest.spawn(["seq", str(n), "200000"]) for n in (1, 100001)]
    for process, first in zip(processes, (1, 100001), strict=True):
        lines = process.wait(120).stdout.splitlines()
        assert lines[-1] == "200000"
        assert len(lines) == 200001 - first


def test_files_go_both_ways_whole(guest: Guest) -> None:
    data = random.Random(3).randbytes(3_000_001)
    guest.push(data, "/tmp/blob", mode=0o750)
    assert guest.run(["stat", "-c", "%a %s", "/tmp/blob"]).stdout == "750 3000001\n"
    assert guest.pull("/tmp/blob") == data
    assert guest.run(["rm", "/tmp/blob"]).status == 0
    with pytest.raises(AgentError, match="No such file"):
        guest.pull("/tmp/blob")
    with pytest.raises(AgentError, match="cannot write /proc/nothing"):
        guest.push(b"x", "/proc/nothing")


def test_files_whose_size_nobody_knows(guest: Guest) -> None:
    assert guest.pull("/proc/sys/kernel/osrelease").decode().strip() == guest.vm.agent.hello["release"]


def test_the_kernel_log_arrives_from_its_first_line_with_levels(guest: Guest) -> None:
    guest.wait(lambda: len(guest.vm.watch.kmsg.records) > 50, 30, "the kernel log")
    first = guest.vm.watch.kmsg.records[0]
    assert first.text.startswith("Linux version ")
    assert first.level == 5
    guest.run(["sh", "-c", "echo '<3>a word from a test' > /dev/kmsg"])
    guest.wait(
        lambda: any(r.text == "a word from a test" for r in guest.vm.watch.kmsg.records),
        30,
        "the test's record",
    )
    record = next(r for r in guest.vm.watch.kmsg.records if r.text == "a word from a test")
    assert (record.level, record.kernel) == (3, False)


def test_a_program_cannot_feign_a_kernel_failure(guest: Guest) -> None:
    text = "WARNING: CPU: 0 PID: 1 at imagination.c:1"
    guest.run(["sh", "-c", f"echo '<2>{text}' > /dev/kmsg"])
    logs = guest.vm.watch.kmsg, guest.vm.watch.console_log
    guest.wait(
        lambda: all(any(r.text == text for r in log.records) for log in logs),
        30,
        "the record in both logs",
    )
    deadline = time.monotonic() + 1.5  # longer than a failure is held back
    while time.monotonic() < deadline:
        guest.turn()


def test_every_module_was_loaded(guest: Guest) -> None:
    loaded = guest.pull("/proc/modules").decode()
    for module in ("bttv", "videobuf_dma_sg", "zram", "virtio_blk"):
        assert f"{module} " in loaded
    assert "cannot load" not in guest.vm.console_log.read_text(errors="replace")


def test_the_hog_swaps_and_the_agent_still_answers(guest: Guest) -> None:
    events: list[dict[str, object]] = []
    hog = guest.spawn(
        ["vcap-pressure", "--fill", "115"], on_stdout=lambda line: events.append(json.loads(line))
    )
    guest.wait(lambda: any(int(str(e.get("swapped_mib", 0))) > 8 for e in events), 60, "swapping")
    assert guest.run(["true"]).status == 0
    assert " pswpout 0\n" not in guest.pull("/proc/vmstat").decode()
    hog.kill()
    assert hog.wait(30).status == 0
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]


def test_a_hog_too_big_is_what_the_oom_killer_takes_and_that_is_told(guest: Guest) -> None:
    hog = guest.spawn(["vcap-pressure", "--hog", "2000"])
    assert hog.wait(120).status == 1
    assert json.loads(hog.stdout.splitlines()[-1])["event"] == "killed"
    assert guest.run(["true"]).status == 0
    guest.wait(lambda: bool(guest.vm.watch.reports), 30, "the report")
    assert guest.vm.watch.reports[-1].kind == "out-of-memory"


def test_wrong_usage_of_the_programs(guest: Guest) -> None:
    for words in (["vcap-capture", "--size", "0x0"], ["vcap-capture", "--nonsense"], ["vcap-pressure"]):
        result = guest.run(words)
        assert result.status == 2
        assert "usage" in result.stderr
    missing = guest.run(["vcap-capture", "--device", "/dev/video7"])
    assert missing.status == 3
    assert "cannot open /dev/video7" in missing.stderr


def test_a_panic_is_noticed_without_the_agent_and_keeps_the_memory(guest: Guest) -> None:
    """The guest runs no more afterwards."""
    vm, said = guest.vm, r"\(panic\): Kernel panic - not syncing: sysrq triggered crash"
    with guest.expect_complaint("panic"), pytest.raises(GuestCrash, match=said) as caught:
        guest.run("kill -STOP $(pidof vcap-agent); echo c > /proc/sysrq-trigger", timeout=60)
    assert caught.value.fatal
    assert "sysrq_handle_crash" in caught.value.kernel_log
    assert guest.state == "crashed"
    assert vm.qmp.execute("query-status")["status"] == "shutdown"
    assert vm.poll() is None  # QEMU is still there, and so is the guest's memory
    with pytest.raises(GuestCrash):
        vm.agent.run(["true"])
    with pytest.raises(GuestStateError, match="panic"):
        guest.run(["true"])
    guest.stop()
    assert vm.poll() is not None
