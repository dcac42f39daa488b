# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects ``--gdb``: symbols at wrong addresses, or a run that gives up while one thinks, are no help."""

from __future__ import annotations

import io
import lzma
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "image"))
from crafted_elf import module

from vcapdev.errors import GuestError
from vcapdev.run.debugger import Debugger, arguments, script_of, sections_of
from vcapdev.run.options import RunOptions
from vcapdev.run.screen import Screen

SYSFS = """/sys/module/bttv/sections/.text 0xffffffffc0300000
/sys/module/bttv/sections/.data 0xffffffffc0310000
/sys/module/bttv/sections/.init.text 0xffffffffc0320000
/sys/module/zram/sections/.bss 0xffffffffc0400000
cat: can't open something
"""


class Guest:
    """A guest that says whether it runs, and what its modules' sections are."""

    def __init__(self, work: Path, *answers: bool) -> None:
        self.config = SimpleNamespace(workdir=work)
        self.answers, self.commands = list(answers), list[str]()
        self.qmp = self

    def execute(self, command: str) -> Any:
        self.commands.append(command)
        if command == "query-status" and not self.answers:
            raise GuestError("QEMU has ended")
        return {"running": self.answers.pop(0)} if command == "query-status" else {}

    def run(self, _words: list[str]) -> Any:
        return SimpleNamespace(stdout=SYSFS)

    def pump(self, _seconds: float) -> None:
        self.commands.append("pump")


@pytest.fixture
def stock(tmp_path: Path) -> Any:
    """What was prepared: bttv compressed, zram not, and the user's own bttv."""
    root = tmp_path / "modules/kernel"
    root.mkdir(parents=True)
    (root / "bttv.ko.xz").write_bytes(lzma.compress(module("bttv")))
    (root / "zram.ko").write_bytes(module("zram"))
    guest = SimpleNamespace(modules=root.parent, release="6.1.0-x")
    return SimpleNamespace(guest=guest, overrides={})


def debugger(
    guest: Guest, stock: Any, options: RunOptions | None = None
) -> tuple[Debugger, io.StringIO, list[float]]:
    shown, excused = io.StringIO(), list[float]()
    options = RunOptions(gdb="driver") if options is None else options
    return (
        Debugger(options, stock, guest, Screen(shown), excused.append),  # type: ignore[arg-type]
        shown,
        excused,
    )


def test_qemu_is_asked_for_a_stub_only_where_it_is_wanted(tmp_path: Path) -> None:
    assert arguments(RunOptions(), tmp_path) == []
    assert arguments(RunOptions(gdb="driver"), tmp_path) == [
        "-gdb",
        f"unix:{tmp_path}/gdb,server=on,wait=off",
    ]
    assert arguments(RunOptions(gdb="boot"), tmp_path)[-1] == "-S"


def test_symbols_are_put_where_the_guest_says(tmp_path: Path) -> None:
    files = {"bttv": Path("/m/bttv.ko"), "zram": Path("/m/zram.ko")}
    lines = script_of(sections_of(SYSFS), files, Path("/w/gdb")).splitlines()
    assert "add-symbol-file /m/bttv.ko 0xffffffffc0300000 -s .data 0xffffffffc0310000" in lines
    assert not any("zram" in line for line in lines), "a module without code has no place"
    assert not any("c0320000" in line for line in lines), "the kernel has freed what only served its start"
    assert lines[-1] == "target remote /w/gdb"


def test_a_path_with_spaces_stays_one_word() -> None:
    script = script_of(sections_of(SYSFS), {"bttv": Path("/my modules/bttv.ko")}, None)
    assert 'add-symbol-file "/my modules/bttv.ko" 0x' in script
    assert "target remote" not in script


def test_the_guest_stands_until_gdb_lets_it_go_on(tmp_path: Path, stock: Any) -> None:
    guest = Guest(tmp_path, False, False, True)
    one, shown, _ = debugger(guest, stock)
    one.loaded(guest)  # type: ignore[arg-type]
    assert guest.commands == ["stop", "query-status", "pump", "query-status", "pump", "query-status"]
    assert f"gdb -x {tmp_path}/gdb-commands\n" in shown.getvalue()
    assert "linux-image-6.1.0-x-dbg" in shown.getvalue()
    script = (tmp_path / "gdb-commands").read_text()
    assert f"add-symbol-file {tmp_path}/bttv.ko 0xffffffffc0300000" in script
    assert (tmp_path / "bttv.ko").read_bytes() == module("bttv"), "gdb cannot read compressed modules"


def test_own_modules_and_an_own_kernel_have_their_own_symbols(tmp_path: Path, stock: Any) -> None:
    own = tmp_path / "mine.ko"
    own.write_bytes(module("bttv"))
    stock.overrides["bttv"] = own
    guest = Guest(tmp_path, True)
    one, shown, _ = debugger(guest, stock, RunOptions(gdb="driver", vmlinux=Path("/k/vmlinux")))
    one.loaded(guest)  # type: ignore[arg-type]
    assert f"add-symbol-file {own} " in (tmp_path / "gdb-commands").read_text()
    assert "gdb-commands /k/vmlinux\n" in shown.getvalue()
    assert "without symbols" not in shown.getvalue()


def test_at_the_boot_gdb_is_told_later_where_the_driver_is(tmp_path: Path, stock: Any) -> None:
    guest = Guest(tmp_path)
    one, shown, _ = debugger(guest, stock, RunOptions(gdb="boot"))
    one.booting()
    assert "before its first instruction" in shown.getvalue()
    assert "target remote" in (tmp_path / "gdb-commands").read_text()
    one.loaded(guest)  # type: ignore[arg-type]
    assert guest.commands == [], "it goes on as it is"
    assert f"source {tmp_path}/gdb-commands" in shown.getvalue()
    assert "target remote" not in (tmp_path / "gdb-commands").read_text()


def test_time_in_which_gdb_holds_the_guest_does_not_count(
    tmp_path: Path, stock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("vcapdev.run.debugger.time.monotonic", lambda: now[0])
    one, _, excused = debugger(Guest(tmp_path, True, False, False), stock)
    for seconds in (0.05, 5.0, 7.0, 8.0, 9.0):  # too soon, running, held, held, ended
        now[0] += seconds
        one.turn()
    assert excused == [7.0, 8.0]
