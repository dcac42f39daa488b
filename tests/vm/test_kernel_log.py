# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the classifier: each kind of failure is seen with its story, what a slow host causes is none.

The logs are what Linux 5.10 to 6.12 print, shortened where a call trace is long.
"""

from __future__ import annotations

import pytest

from vcapdev.vm.kernel_log import KernelLog, Record, classify, parse_console, parse_kmsg


def feed(text: str, log: KernelLog | None = None) -> KernelLog:
    log = log or KernelLog()
    for line in text.strip().splitlines():
        record = parse_console(line.strip())
        assert record is not None, line
        log.feed(record)
    return log


WARNING = """
[   10.000001] bttv: driver version 0.9.19 loaded
[   11.500000] ------------[ cut here ]------------
[   11.500100] WARNING: CPU: 0 PID: 133 at mm/gup.c:2184 internal_get_user_pages_remote+0x42/0x60
[   11.500200] Modules linked in: bttv(O) tveeprom rc_core videobuf_dma_sg
[   11.500300] Call Trace:
[   11.500400]  <TASK>
[   11.500500]  videobuf_dma_init_user_locked+0x103/0x1a0 [videobuf_dma_sg]
[   11.500600]  </TASK>
[   11.500700] ---[ end trace 0000000000000000 ]---
[   12.900000] bttv: 0: timeout
"""

OOPS_PANIC = """
[   31.100000] BUG: unable to handle page fault for address: ffffea0004000008
[   31.100100] #PF: supervisor read access in kernel mode
[   31.100200] #PF: error_code(0x0000) - not-present page
[   31.100300] Oops: 0000 [#1] PREEMPT SMP NOPTI
[   31.100400] CPU: 0 PID: 140 Comm: vcap-capture Tainted: G           O       6.1.0-56-amd64 #1
[   31.100500] RIP: 0010:free_swap_cache+0x11/0x80
[   31.100600] Call Trace:
[   31.100700]  <TASK>
[   31.100800]  do_swap_page+0x8ee/0xa20
[   31.100900] ---[ end trace 0000000000000000 ]---
[   31.101000] RIP: 0010:free_swap_cache+0x11/0x80
[   31.101100] Kernel panic - not syncing: Fatal exception
[   31.101200] Kernel Offset: 0x15400000 from 0xffffffff81000000
"""

POISON = """
[   20.000000] pagealloc: memory corruption
[   20.000100] 00000000a1b2c3d4: 10 80 eb 10 80 eb 10 80 aa aa aa aa aa aa aa aa  ................
[   20.000200] CPU: 0 PID: 128 Comm: vcap-pressure Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2
[   20.000300] Call Trace:
[   20.000400]  __kernel_unpoison_pages.cold+0xa3/0xd7
[   20.000500] page:00000000b5d1d6b3 refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x9a3c
[   20.000600] page dumped because: pagealloc: corrupted page details
"""


def test_a_warning_is_a_failure_with_its_slice() -> None:
    (incident,) = feed(WARNING).incidents
    assert (incident.kind, incident.failure, incident.panicked) == ("warning", True, False)
    assert incident.title.startswith("WARNING: CPU: 0 PID: 133 at mm/gup.c:2184")
    lines = incident.text.splitlines()
    assert "cut here" in lines[0]
    assert "end trace" in lines[-1]
    assert incident.complete


def test_an_oops_and_its_panic_are_one_incident() -> None:
    (incident,) = feed(OOPS_PANIC).incidents
    assert (incident.kind, incident.panicked) == ("oops", True)
    assert "Kernel panic - not syncing: Fatal exception" in incident.text
    assert "do_swap_page" in incident.text


def test_page_poison_is_found_and_the_dump_belongs_to_it() -> None:
    (incident,) = feed(POISON).incidents
    assert incident.kind == "page-poison"
    assert "pfn:0x9a3c" in incident.text


def test_a_long_hex_dump_does_not_push_the_call_trace_out() -> None:
    """Page poison prints up to 256 lines of the page, and only then who touched it."""
    head, dump, *rest = POISON.strip().splitlines()
    lines = [head, *[f"[   20.0001{n % 100:02}] {dump.split('] ')[1]}" for n in range(256)], *rest]
    (incident,) = feed("\n".join(lines)).incidents
    assert incident.text.count("00000000a1b2c3d4") == 8
    assert "Call Trace:" in incident.text
    assert "pfn:0x9a3c" in incident.text


def test_two_warnings_are_two_incidents() -> None:
    log = feed(WARNING)
    feed(WARNING.replace("[   1", "[   4").replace("gup.c:2184", "gup.c:99"), log)
    assert [incident.title.rsplit(" ", 2)[1] for incident in log.incidents] == [
        "mm/gup.c:2184",
        "mm/gup.c:99",
    ]


def test_a_second_story_right_behind_the_first_is_its_own() -> None:
    log = feed(WARNING.rsplit("\n", 2)[0])
    feed("[   11.500800] BUG: Bad page state in process kswapd0  pfn:09a3c", log)
    assert [incident.kind for incident in log.incidents] == ["warning", "bad-page"]


def test_a_failure_inside_a_mere_report_counts() -> None:
    log = feed("[   90.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!".replace(".0]", ".000000]"))
    feed(OOPS_PANIC.replace("[   31", "[   90"), log)
    assert [(i.kind, i.failure) for i in log.incidents] == [("soft-lockup", False), ("oops", True)]


def test_a_slice_has_an_end_even_without_a_marker() -> None:
    log = feed(POISON)
    for number in range(1000):
        log.feed(Record(20_000_700 + number, "more"))
    assert len(log.incidents[0].records) == 150
    assert log.incidents[0].complete


def test_silence_ends_a_story() -> None:
    log = feed(POISON)
    feed("[   25.000000] zram0: detected capacity change from 0 to 524288", log)
    assert "zram0" not in log.incidents[0].text


@pytest.mark.parametrize(
    ("line", "kind", "failure"),
    [
        ("Kernel panic - not syncing: sysrq triggered crash", "panic", True),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "oops", True),
        ("BUG: unable to handle page fault for address: ffffea0004000008", "oops", True),
        ("Oops: general protection fault, maybe for address 0x0: 0000 [#1] PREEMPT SMP", "oops", True),
        (
            "general protection fault, probably for non-canonical address 0xdead000000000108: 0000",
            "oops",
            True,
        ),
        ("invalid opcode: 0000 [#1] PREEMPT SMP NOPTI", "oops", True),
        ("divide error: 0000 [#1] SMP", "oops", True),
        ("traps: PANIC: double fault, error_code: 0x0", "oops", True),
        ("kernel BUG at mm/swapfile.c:1234!", "bug", True),
        (
            "WARNING: CPU: 1 PID: 7 at drivers/media/pci/bt8xx/bttv-risc.c:300 bttv_risc_packed",
            "warning",
            True,
        ),
        ("WARNING: possible circular locking dependency detected", "lockdep", True),
        ("WARNING: possible recursive locking detected", "lockdep", True),
        ("WARNING: inconsistent lock state", "lockdep", True),
        ("WARNING: suspicious RCU usage", "lockdep", True),
        ("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected", "lockdep", True),
        ("WARNING: possible irq lock inversion dependency detected", "lockdep", True),
        ("WARNING: bad unlock balance detected!", "lockdep", True),
        ("WARNING: bad contention detected!", "lockdep", True),
        ("WARNING: held lock freed!", "lockdep", True),
        ("WARNING: Nested lock was not taken", "lockdep", True),
        ("WARNING: lock held when returning to user space!", "lockdep", True),
        ("WARNING: vcap-capture/140 still has locks held!", "lockdep", True),
        ("[ BUG: Invalid wait context ]", "lockdep", True),
        ("INFO: trying to register non-static key.", "lockdep", True),
        ("INFO: possible circular locking dependency detected", "lockdep", True),
        ("BUG: KASAN: use-after-free in videobuf_dma_free+0x10/0x90", "kasan", True),
        ("BUG: KFENCE: use-after-free read in bttv_dma_free+0x10/0x90", "kfence", True),
        ("UBSAN: array-index-out-of-bounds in drivers/media/x.c:1:2", "ubsan", True),
        ("pagealloc: single bit error", "page-poison", True),
        ("pagealloc: memory corruption", "page-poison", True),
        ("check_poison_mem: 12 callbacks suppressed", "page-poison", True),
        ("BUG: Bad page state in process vcap-pressure  pfn:09a3c", "bad-page", True),
        ("BUG: Bad page map in process vcap-capture  pte:8000000009a3c025", "bad-page", True),
        ("BUG: Bad rss-counter state mm:00000000 type:MM_ANONPAGES val:-1", "bad-page", True),
        ("BUG kmalloc-64 (Tainted: G    B   O     ): Poison overwritten", "slab", True),
        ("BUG: sleeping function called from invalid context at mm/gup.c:1", "atomic", True),
        ("BUG: scheduling while atomic: swapper/0/0x00000002", "atomic", True),
        ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [kswapd0:50]", "soft-lockup", False),
        ("BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 32s!", "soft-lockup", False),
        ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "rcu-stall", False),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu-stall", False),
        ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: {", "rcu-stall", False),
        ("rcu: rcu_preempt kthread starved for 5252 jiffies!", "rcu-stall", False),
        ("INFO: task kworker/0:1:12 blocked for more than 120 seconds.", "hung-task", False),
        ("Out of memory: Killed process 133 (vcap-pressure) total-vm:200000kB", "out-of-memory", False),
        ("vcap-capture[133]: segfault at 8 ip 0000000000401000 sp 00007ffd error 4", "segfault", False),
        ("traps: vcap-capture[133] general protection fault ip:401000 sp:7ffd error:0", "segfault", False),
        ("traps: sh[9] trap invalid opcode ip:401000 sp:7ffd error:0 in busybox", "segfault", False),
    ],
)
def test_kinds(line: str, kind: str, failure: bool) -> None:
    found = classify(Record(0, line))
    assert found is not None
    assert (found.name, found.failure) == (kind, failure)


@pytest.mark.parametrize(
    "line",
    [
        "bttv: 0: timeout: drop=0 irq=12/15, risc=0a3c1010, bits: HSYNC OFLOW",
        "Spectre V2 : WARNING: Unprivileged eBPF is enabled",
        "mem auto-init: stack:all(zero), heap alloc:on, heap free:off",
        "ACPI BIOS Error (bug): Could not resolve symbol",
        "Kernel command line: console=ttyS0 page_poison=1 oops=panic panic=-1",
        "watchdog: Delayed init of the lockup detector failed: -19",
        "rcu: Preemptible hierarchical RCU implementation.",
        "bttv: module verification failed: signature and/or required key missing - tainting kernel",
        "PANIC is a word that a driver may use",
    ],
)
def test_ordinary_lines_are_nothing(line: str) -> None:
    assert classify(Record(0, line)) is None


def test_what_a_program_writes_to_kmsg_is_not_the_kernels() -> None:
    record = parse_kmsg(b"12,100,5000000,-;WARNING: CPU: 0 PID: 1 at my/imagination.c:1\n")
    assert record is not None
    assert not record.kernel
    assert KernelLog().feed(record) is None


def test_kmsg_records() -> None:
    record = parse_kmsg(
        b"4,815,11500100,-,caller=T1;WARNING: a\\x0ab\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:04.0\n"
    )
    assert record == Record(11500100, "WARNING: a\nb", 4, True)
    assert parse_kmsg(b"nonsense") is None
    assert parse_kmsg(b"\xff\xfe") is None


def test_console_lines() -> None:
    assert parse_console("[   11.500100] text\r\n") == Record(11500100, "text")
    assert parse_console("[   11.500100][  T133] text") == Record(11500100, "text")
    assert parse_console("vcap-init: WARNING: CPU: my own words") is None
    assert parse_console("") is None
