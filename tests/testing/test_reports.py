# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects that what a debugging kernel reports fails the test during which it comes, and no other.

Reports are given whole, as kernel/locking/lockdep.c, mm/page_poison.c and arch/x86/mm/fault.c print them. The
guests here are not there (fakepair.py): nothing is booted. Stock kernels have no lockdep; one's own may.
"""

from __future__ import annotations

from pathlib import Path

import fakepair
import pytest

pytest_plugins = "pytester"

REPORTS = {
    "circular": (
        "lockdep",
        """\
======================================================
WARNING: possible circular locking dependency detected
6.1.0-mine #3 Tainted: G           O
------------------------------------------------------
vcap-capture/140 is trying to acquire lock:
ffff888003a12e58 (&mm->mmap_lock){++++}-{3:3}, at: videobuf_dma_init_user+0x2b/0x80 [videobuf_dma_sg]
but task is already holding lock:
ffff888004c8a0b8 (&q->vb_lock){+.+.}-{3:3}, at: videobuf_qbuf+0x52/0x4a0 [videobuf_core]
which lock already depends on the new lock.
 *** DEADLOCK ***
stack backtrace:
 check_noncircular+0x116/0x130""",
    ),
    "recursive": (
        "lockdep",
        """\
============================================
WARNING: possible recursive locking detected
6.1.0-mine #3 Tainted: G           O
--------------------------------------------
v4l2-ctl/151 is trying to acquire lock:
ffff888004c8a2c0 (&btv->s_lock){-.-.}-{2:2}, at: bttv_irq_next_video+0x20/0x90 [bttv]
but task is already holding lock:
ffff888004c8a2c0 (&btv->s_lock){-.-.}-{2:2}, at: bttv_irq+0x110/0x6b0 [bttv]
 *** DEADLOCK ***""",
    ),
    "irq-unsafe": (
        "lockdep",
        """\
=====================================================
WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected
6.1.0-mine #3 Tainted: G           O
-----------------------------------------------------""",
    ),
    "wait-context": (
        "lockdep",
        """\
=============================
[ BUG: Invalid wait context ]
6.12.0-mine #1 Tainted: G           O
-----------------------------
swapper/0/0 is trying to lock:
ffff888004c8a0b8 (&btv->lock){+.+.}-{4:4}, at: bttv_irq+0x40/0x6b0 [bttv]
other info that might help us debug this:
context-{2:2}""",
    ),
    "rcu": (
        "lockdep",
        """\
=============================
WARNING: suspicious RCU usage
6.1.0-mine #3 Not tainted
-----------------------------""",
    ),
    "freed-lock": (
        "lockdep",
        """\
=========================
WARNING: held lock freed!
6.1.0-mine #3 Not tainted
-------------------------""",
    ),
    "poison": (
        "page-poison",
        """\
pagealloc: memory corruption
00000000a1b2c3d4: 10 80 eb 10 80 eb 10 80 aa aa aa aa aa aa aa aa  ................
CPU: 0 PID: 128 Comm: vcap-pressure Not tainted 6.1.0-mine #1
Call Trace:
 __kernel_unpoison_pages.cold+0xa3/0xd7
page:00000000b5d1d6b3 refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x9a3c
page dumped because: pagealloc: corrupted page details""",
    ),
    "debug-pagealloc": (
        "oops",
        """\
BUG: unable to handle page fault for address: ffff888009a3c010
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
Oops: 0000 [#1] PREEMPT SMP DEBUG_PAGEALLOC NOPTI
CPU: 0 PID: 140 Comm: vcap-capture Tainted: G           O       6.1.0-mine #1
RIP: 0010:bttv_irq_wakeup_video+0x31/0x120 [bttv]
---[ end trace 0000000000000000 ]---""",
    ),
}
CONFTEST = """
import fakepair

def pytest_vcapdev_opener(config):
    return fakepair.opener
"""
TESTS = """
import vcapdev

REPORT = {report!r}

def test_before(guest): pass

def test_during(guest): guest.run("kernel " + REPORT)

def test_after(guest): assert guest.run("say well").lines == ["well"]

@vcapdev.guest(allow=[{kind!r}])
def test_allowed(guest): guest.run("kernel " + REPORT)

@vcapdev.guest(allow=["soft-lockup"])
def test_of_another_kind(guest): guest.run("kernel " + REPORT)
"""


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_fails_the_test_during_which_it_comes(pytester: pytest.Pytester, name: str) -> None:
    kind, text = REPORTS[name]
    pytester.syspathinsert(Path(fakepair.__file__).parent)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS.format(report=text.replace("\n", "\\n"), kind=kind))
    fakepair.BOOTS.clear()
    result = pytester.runpytest_inprocess("-p", "vcapdev.testing.plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["FAILED *::test_during*", "FAILED *::test_of_another_kind*"])
    said = result.stdout.str()
    assert said.count(f"the guest's kernel complained ({kind}): ") == 2
    for line in text.splitlines():
        assert said.count(line) >= 2, f"the report has the whole slice, but not {line}"
    assert len(fakepair.BOOTS) == 3  # whether allowed or not: lockdep is off since
