# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects bundles and the prompt: a finding can be looked at later, with everything bound by name."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from finding import PFN, USER, Scene
from synthetic import note_bytes

from vcapdev.cli import main
from vcapdev.errors import ExitStatus, SetupError, UsageError
from vcapdev.evidence import bundle
from vcapdev.evidence.bundle import Content, check_target, read_index, write_bundle
from vcapdev.evidence.look import prompt
from vcapdev.evidence.vcpus import parse_registers
from vcapdev.guestmm.kernel import AttachError

LIMIT = 64 << 20
DEADLINE = 60.0  # seconds for anything that a healthy process does
ROOT = Path(__file__).parents[2]

QUESTIONS = """\
print("pfn", hex(pfn))
print("refcount", page._refcount.counter.value_())
print("area", hex(vma.vm_start.value_()), hex(vma.vm_end.value_()))
print("task", task.tgid.value_(), task.comm.string_())
print("bytes", prog.read(pfn << 12, 5, physical=True))
print("buffer", buffer.page, "of", buffer.pages)
print("by", instruction.instruction, instruction.line)
print("rule", verdict["rule"])
splat()
page._refcount.counter
1 / 0
print("still here")
"""

ANSWERS = [
    f"pfn {PFN:#x}",
    "refcount 1",
    f"area {USER:#x} {USER + 0x10000:#x}",
    "task 42 b'capture'",
    "bytes b'video'",
    "buffer 0 of 1",
    "by WRITE 0 0",
    "rule not-pinned",
    "vcapdev: not-pinned (V3): ",
    "(int)1",
    "still here",
]


def ask(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def content(scene: Scene, **changes: Any) -> Content:
    texts = {"console.log": "the console\n", "dma-trace.txt": "write\n"}
    return Content(scene.verdict, True, texts, [{"rip": 0x1234}], report={"schema": 1}, **changes)


def test_a_bundle_is_reopened_and_everything_is_bound(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "bundle"
    write_bundle(directory, scene.memory, content(scene), LIMIT)
    scene.guest.poke(PFN << 12, b"later")
    ask(monkeypatch, QUESTIONS)
    assert main(["look", str(directory)]) == ExitStatus.CLEAN
    shown = capsys.readouterr()
    for answer in ANSWERS:
        assert answer in shown.out, answer
    assert "ZeroDivisionError" in shown.err


def test_the_prompt_reads_live_memory(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.guest.poke(PFN << 12, b"now!!")
    ask(monkeypatch, 'print(prog.read(pfn << 12, 5, physical=True))\nprint(prog["KIND_B"].value_())\n')
    scene.guest.btf.enum("kind", {"KIND_A": 3, "KIND_B": 4})
    scene.guest.write_note()
    assert prompt(scene.memory, scene.verdict)
    out = capsys.readouterr().out
    assert "b'now!!'" in out
    assert "\n4\n" in out, "enumerators are found by name, as drgn's helpers need them"


def test_leaving_by_exit_is_told_apart_from_the_end_of_input(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, "exit()\n")
    assert prompt(scene.memory, scene.verdict) is False
    ask(monkeypatch, "")
    assert prompt(scene.memory, scene.verdict) is True


def test_a_finding_without_a_page_opens_a_prompt_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verdict in (
        {},
        {"pfn": -1, "key": "k"},
        {"pfn": 1 << 60},
        {**scene.verdict, "evidence": {"now": None}},
    ):
        ask(monkeypatch, "print('page is', page)\nprint('vma is', vma)\n")
        assert prompt(scene.memory, verdict)
        assert "vma is None" in capsys.readouterr().out


def test_an_owner_that_leads_nowhere_does_not_keep_the_prompt_away(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.verdict["evidence"]["now"]["mapping"] = 0x1234567890 | 1
    scene.verdict["evidence"]["before"] = scene.verdict["evidence"]["after"] = None
    ask(monkeypatch, "print('pfn is', pfn)\n")
    assert prompt(scene.memory, scene.verdict)
    out = capsys.readouterr().out
    assert "the owner could not be followed" in out
    assert f"pfn is {PFN}" in out


def test_the_index_tells_what_is_there(scene: Scene, tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "bundle"
    index = write_bundle(directory, scene.memory, content(scene), LIMIT)
    assert json.loads((directory / "bundle.json").read_text()) == index == read_index(directory)
    assert index["finding"] == scene.verdict["key"]
    assert index["kernel"] == "6.1.0-test"
    assert index["vcpus_stopped"] is True
    assert index["vcpus"] == [{"rip": 0x1234}]
    assert index["memory"]["left_out"] == {}
    names = {path.name for path in directory.iterdir()}
    assert names == {
        *("bundle.json", "memory.core", "splat.txt", "README", "report.json", "console.log", "dma-trace.txt"),
    }
    assert (directory / "splat.txt").read_text() == scene.verdict["splat"]


def test_a_bundle_stays_within_its_bounds(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MAX_TEXT", 1000)
    for pfn in range(3000, 4000):
        scene.guest.poke(pfn << 12, b"free, and full of what was there")
    for pfn in range(4000, 4500):
        scene.guest.anon(pfn, pins=0)
        scene.guest.poke(pfn << 12, b"a user's")
    big = content(scene)
    big.texts["console.log"] = "x" * 5000 + "the end"  # type: ignore[index]
    limit = 4 << 20
    index = write_bundle(tmp_path / "b", scene.memory, big, limit)
    assert index["memory"]["left_out"]["free"] >= 1000
    assert index["memory"]["written"] * 4096 <= limit
    assert sum(path.stat().st_blocks * 512 for path in (tmp_path / "b").iterdir()) < limit + (1 << 20)
    kept = (tmp_path / "b" / "console.log").read_text()
    assert len(kept) == 1000
    assert kept.endswith("the end")


def test_memory_without_a_kernel_is_kept_all_the_same(scene: Scene, tmp_path: Path) -> None:
    scene.guest.poke(scene.guest.note_at, bytes(64))
    index = write_bundle(tmp_path / "b", scene.memory, content(scene), LIMIT)
    assert index["kernel"] is None
    assert "no VMCOREINFO note" in index["why_no_kernel"]


def test_other_directories_are_not_replaced(scene: Scene, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", scene.memory, content(scene), LIMIT)
    write_bundle(tmp_path / "b", scene.memory, content(scene), LIMIT)
    other = tmp_path / "photos"
    other.mkdir()
    check_target(other)
    (other / "cat.png").write_text("a cat")
    with pytest.raises(UsageError, match="holds other files"):
        write_bundle(other, scene.memory, content(scene), LIMIT)
    with pytest.raises(UsageError, match="this is a file"):
        check_target(other / "cat.png")
    assert (other / "cat.png").read_text() == "a cat"


def test_a_full_disk_leaves_nothing_half_written(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "write_core", full)
    with pytest.raises(SetupError, match="No space left"):
        write_bundle(tmp_path / "b", scene.memory, content(scene), LIMIT)
    assert not (tmp_path / "b").exists()


def test_what_is_no_bundle_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(tmp_path)]) == ExitStatus.USAGE
    (tmp_path / "bundle.json").write_text('{"format": 99}')
    assert main(["look", str(tmp_path)]) == ExitStatus.USAGE
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "no bundle of vcapdev" in said[0]
    assert "reads format 1" in said[1]


def test_registers_are_read_from_what_qemu_prints() -> None:
    text = (
        "CPU#0\r\nRAX=0000000000000001 RBX=00000000000000ff RCX=0000000000000000 RDX=0000000000000000\r\n"
        "R8 =00000000ffffffff R9 =0000000000000009 R10=0000000000000010 R11=0000000000000011\r\n"
        "RIP=ffffffff81c00be0 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n"
        "CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\r\n"
        "GS =0000 ffff88800ba00000 00000000 00000000\r\nCR0=80050033 CR3=0000000005e10000\r\n"
        "CPU#1\r\nRIP=0000000000001000 RFL=00000002 [-------]\r\n"
    )
    first, second = parse_registers(text)
    assert first["rip"] == 0xFFFFFFFF81C00BE0
    assert (first["rax"], first["rbx"], first["r8"], first["r9"], first["r11"]) == (
        1,
        255,
        0xFFFFFFFF,
        9,
        0x11,
    )
    assert (first["cs"], first["gs_base"], first["rfl"]) == (0x10, 0xFFFF88800BA00000, 0x246)
    assert first["cr3"] == 0x5E10000
    assert second["rip"] == 0x1000
    assert parse_registers("nothing of the kind") == []


def test_a_former_kernels_note_does_not_confuse_a_guest_that_stands_still(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing tells the two apart then but who has seen one of them run."""
    text = "".join(f"{key}={value}\n" for key, value in scene.guest.values.items()).encode()
    scene.guest.poke(0x480000, note_bytes(text + b"FORMER=1\n"))
    ask(monkeypatch, "print('never')\n")
    with pytest.raises(AttachError, match="none seems to run"):
        prompt(scene.memory, scene.verdict)
    scene.memory.note = text
    index = write_bundle(tmp_path / "b", scene.memory, content(scene), LIMIT)
    assert index["kernel"] == "6.1.0-test"
    ask(monkeypatch, "print('bytes', prog.read(pfn << 12, 5, physical=True))\n")
    assert main(["look", str(tmp_path / "b")]) == ExitStatus.CLEAN
    assert "bytes b'video'" in capsys.readouterr().out


@pytest.mark.parametrize("last_words", [b"\x04", b"exit()\n"])
def test_on_a_terminal_it_is_drgns_own_prompt(scene: Scene, tmp_path: Path, last_words: bytes) -> None:
    directory = tmp_path / "bundle"
    write_bundle(directory, scene.memory, content(scene), LIMIT)
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vcapdev", "look", str(directory)],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True,
        env={**os.environ, "HOME": str(tmp_path), "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    try:
        told = read_until(ours, b">>> ", b"")
        os.write(ours, b"print('task', task.tgid.value_(), hex(pfn))\n")
        told = read_until(ours, b"task 42", told)
        before, after = told.split(b"task 42")
        told = before + b"task 42" + read_until(ours, b">>> ", after)  # what comes earlier may be lost
        os.write(ours, last_words)
        assert process.wait(DEADLINE) == ExitStatus.CLEAN
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
    assert b"Bound here:" in told
    assert f"task 42 {PFN:#x}".encode() in told


def read_until(fd: int, words: bytes, told: bytes) -> bytes:
    """What a terminal shows, until it shows these words."""
    end = time.monotonic() + DEADLINE
    while words not in told:
        assert time.monotonic() < end, f"waited for {words!r}; there was {told!r}"
        if select.select([fd], [], [], 0.5)[0]:
            told += os.read(fd, 4096)
    return told
