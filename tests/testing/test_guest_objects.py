# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects Guest and Card apart from pytest, with a guest and a device that are not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fakepair
import pytest
from fakepair import FakeDevice

from vcapdev.bt878.listing import listing
from vcapdev.errors import InconclusiveError, UsageError, ViolationError
from vcapdev.testing import Guest, GuestConfig
from vcapdev.testing.modules import module_file
from vcapdev.testing.pressure import command, seconds
from vcapdev.testing.states import GuestStateError
from vcapdev.vm.agent import GuestTimeoutError

sys.path.insert(0, str(Path(__file__).parents[1] / "image"))
from crafted_elf import module

RELEASE = "6.1.0-9-amd64"


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(GuestConfig(swap="disk"), opener=fakepair.opener) as guest:
        yield guest


@pytest.fixture
def device(guest: Guest) -> FakeDevice:
    found = guest.device
    assert isinstance(found, FakeDevice)
    return found


def test_a_guest_that_is_off_refuses_at_once() -> None:
    guest = Guest(opener=fakepair.opener)
    with pytest.raises(GuestStateError, match="the guest is off, not shell"):
        guest.run("say here")
    with pytest.raises(GuestStateError, match="the guest is off, not shell"):
        guest.card.stats()


def test_a_command_that_must_not_fail_is_told_with_its_last_words(guest: Guest) -> None:
    assert guest.run("false").status == 1
    with pytest.raises(Exception, match="'false' in the guest ended with status 1: it said nothing"):
        guest.run("false", check=True)
    with pytest.raises(UsageError, match="a command is text, or a list of texts"):
        guest.run([])
    with pytest.raises(GuestTimeoutError):
        guest.run("hang")
    assert guest.state == "shell"


def test_what_does_not_end_by_itself_is_ended_with_the_test(guest: Guest) -> None:
    process = guest.spawn("hang")
    guest.end()
    assert process.status == -9


def test_files_that_are_not_there(guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="push: nothing is no file"):
        guest.push("nothing", "/tmp/x")
    guest.push(b"abc", "/tmp/x")
    assert guest.pull("/tmp/x", tmp_path / "y") == (tmp_path / "y").read_bytes() == b"abc"


def test_a_program_that_guests_do_not_have_is_brought(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"a program")
    asked = []
    monkeypatch.setattr("vcapdev.testing.guest.foreign_program", lambda one, _: asked.append(one) or program)
    assert guest.bring("ffmpeg") == "/tmp/ffmpeg"
    assert guest.pull("/tmp/ffmpeg") == b"a program"
    assert [one.name for one in asked] == ["ffmpeg"]
    with pytest.raises(UsageError, match=r"there is no program 'ffmeg'.* 'ffmpeg'"):
        guest.bring("ffmeg")


def test_the_log_begins_with_the_test(guest: Guest) -> None:
    guest.run("kernel before")
    guest.begin(name="second")
    guest.run("kernel after")
    assert [line.split("] ")[1] for line in guest.dmesg().splitlines()] == ["after"]
    assert "before" in guest.dmesg(all_of_it=True)


def test_registers_print_themselves_decoded(guest: Guest, device: FakeDevice) -> None:
    status = guest.card.registers["INT_STAT"]
    assert (status, status.field("RISCI"), status.field("RISCS")) == (0x10000800, 1, 1)
    assert str(status) == "INT_STAT 0x10000800 RISCS=0x1 RISCI"
    assert guest.card.interrupts.latched == {"RISCI"}
    guest.card.registers["INT_MASK"] = 0
    assert device.registers["INT_MASK"] == 0
    assert guest.card.interrupts.pending == frozenset()
    with pytest.raises(UsageError, match="no register 'INT_STATE'; did you mean 'INT_STAT'"):
        guest.card.registers["INT_STATE"]
    with pytest.raises(UsageError, match="INT_STAT has no field 'RISC'; did you mean"):
        status.field("RISC")


def test_only_a_clock_that_is_stepped_can_be(guest: Guest, device: FakeDevice) -> None:
    with pytest.raises(UsageError, match=r"the clock runs by itself; set card\.clock = 'step'"):
        guest.card.step()
    with guest.card.stepped():
        guest.card.step(3)
        assert guest.card.fields == 3
    assert device.clock == "paced"
    with pytest.raises(UsageError, match="the clock has no mode 'slow'"):
        guest.card.clock = "slow"


def test_the_next_test_finds_the_camera_as_it_wants_it(guest: Guest, device: FakeDevice) -> None:
    guest.card.signal(norm="NTSC", connected=False)
    assert device.signal == {"norm": "NTSC", "connected": False}
    guest.begin()
    assert device.signal == {"norm": "PAL", "connected": True}
    guest.begin(GuestConfig(norm="SECAM"))
    assert device.signal["norm"] == "SECAM"


def test_a_fault_that_the_card_cannot_commit_itself_is_carried_out_once(
    guest: Guest, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled: list[str] = []
    monkeypatch.setattr(guest.bus, "unplug", lambda: pulled.append(guest.run("say pulled").stdout))
    with guest.card.fault("unplug", at=5) as fault:
        device.queue = [{"event": "verdict", "verdict": {}}, {"event": "fault", "fault": "unplug", "at": 5}]
        assert not fault.fired
        guest.run("say on")
        assert fault.fired
    device.queue = [{"event": "fault", "fault": "unplug", "at": 5}]  # nobody has armed it any more
    guest.turn()
    assert pulled == ["pulled\n"]
    with pytest.raises(UsageError, match=r"card\.fault\('unplug'\): at=0: points are counted from 1"):
        guest.card.fault("unplug", at=0)


def test_clean_is_not_said_of_nothing(guest: Guest, device: FakeDevice) -> None:
    guest.card.dma.assert_clean(at_least=100)
    with pytest.raises(InconclusiveError, match="only 100 pages were judged"):
        guest.card.dma.assert_clean(at_least=101)
    for wrong, said in (
        ({"attached": False, "why_not": "no BTF"}, "nothing was checked: no BTF"),
        ({"unchecked_writes": 3}, "3 writes came before the checker could look"),
        ({"defects": ["it fell over"]}, "a defect of the checker: it fell over"),
    ):
        device.status = wrong
        with pytest.raises(InconclusiveError, match=said):
            guest.card.dma.assert_clean()


def test_findings_are_told_whole_and_the_rest_by_their_first_line(guest: Guest, device: FakeDevice) -> None:
    for rule in ("not-pinned", "free-page", "free-page"):
        device.find(rule)
    with pytest.raises(ViolationError) as caught:
        guest.card.dma.assert_clean()
    assert str(caught.value).splitlines() == [
        "2 findings came:",
        "vcapdev: not-pinned (V0): a page",
        "  more about it",
        "  vcapdev: free-page (V0): a page (2 times)",
    ]


@pytest.mark.parametrize(("text", "value"), [("50ms", 0.05), ("2s", 2.0), ("100 us", 0.0001), (0.5, 0.5)])
def test_times_in_the_ways_that_people_write_them(text: str | float, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["fast", "0ms", -1, True, "5 h"])
def test_what_is_no_time(text: object) -> None:
    with pytest.raises(UsageError, match="give a time such as '50ms' or '1s'"):
        seconds(text)  # type: ignore[arg-type]


def test_the_words_of_the_pressure_program() -> None:
    assert command("pageout", "20ms", 100, "disk") == ["vcap-pressure", "--pageout", "--every", "20"]
    assert command("hog", None, 120, "zram") == ["vcap-pressure", "--fill", "120"]
    with pytest.raises(UsageError, match="is always there; every= is for the others"):
        command("hog", "50ms", 100, "zram")


def test_a_module_for_another_kernel_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "bttv.ko"
    file.write_bytes(module("bttv"))
    assert module_file(file, RELEASE).name == "bttv"
    with pytest.raises(UsageError) as caught:
        module_file(file, "6.12.1-amd64")
    assert str(caught.value) == (
        f"{file} was built for the kernel {RELEASE}, and the guest's is 6.12.1-amd64;"
        " build it against that kernel's headers"
    )
    file.write_bytes(b"no module")
    with pytest.raises(UsageError, match=r"bttv\.ko cannot be loaded: "):
        module_file(file, RELEASE)


def test_a_program_is_listed_until_it_comes_back_or_makes_no_sense() -> None:
    words = [0x80008004, 0, 0x1C000600, 0x1000, 0x70000000, 0x100]
    memory = b"".join(word.to_bytes(4, "little") for word in words)

    def peek(address: int, length: int) -> bytes:
        return memory[max(0, address - 0x100) :][:length] if address >= 0x100 else b""

    shown = [(one.address, one.text) for one in listing(0x100, peek, 100)]
    assert shown == [
        (0x100, "SYNC RESYNC VRE"),
        (0x108, "WRITE SOL EOL 1536 bytes to 0x00001000"),
        (0x110, "JUMP to 0x00000100"),
    ]
    assert len(listing(0x100, peek, 2)) == 2
    assert listing(0, peek, 10) == []
