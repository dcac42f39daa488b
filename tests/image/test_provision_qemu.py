# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects which QEMU is taken: the one asked for, the one on PATH, or Debian's through its own loader."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from aptrepo import Repository

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.progress import Silent
from vcapdev.vm.qemu import Qemu, probe, provision_qemu

SCRIPT = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
*--version*) echo 'QEMU emulator version {version} (Debian)';;
*"-device help"*) echo 'name "{device}", bus PCI';;
esac
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Cache) -> Path:
    """A directory that comes first on PATH, where no other has a QEMU."""
    directory = tmp_path / "bin"
    directory.mkdir()
    rest = [
        place for place in os.environ["PATH"].split(":") if not Path(place, "qemu-system-x86_64").exists()
    ]
    monkeypatch.setenv("PATH", ":".join([str(directory), *rest]))
    return directory


def fake(tools: Path, version: str, device: str, name: str = "qemu-system-x86_64") -> Path:
    file = tools / name
    file.write_text(SCRIPT.format(log=tools / "log", version=version, device=device))
    file.chmod(0o755)
    return file


def qemu(explicit: str | None = None, **options: bool | Path) -> Qemu:
    return provision_qemu(explicit, Silent(), **options)  # type: ignore[arg-type]


@pytest.fixture
def packaged(repository: Repository, set_sources: Callable[[str], Path], tmp_path: Path) -> Repository:
    """A repository whose trixie-backports has a QEMU; its dynamic loader is a script that plays QEMU."""
    set_sources(f"deb [signed-by=KEYRING] {repository.uri} bookworm main\n")
    loader = SCRIPT.format(log=tmp_path / "loader.log", version="11.1.3", device="vfio-user-pci").encode()
    repository.add("libc6", "2.41-1", {"usr/lib64/ld-linux-x86-64.so.2": loader}, suite="trixie")
    repository.add("qemu-system-x86", "1:10.0-1", {"usr/bin/old": b""}, suite="trixie")
    files = {
        "usr/bin/qemu-system-x86_64": b"not run by itself",
        "usr/share/qemu/efi-virtio.rom": b"",
        "usr/share/seabios/bios.bin": b"",
        "usr/lib/x86_64-linux-gnu/liba.so": b"",
    }
    backports = "trixie-backports"
    repository.add("qemu-system-x86", "1:11.1.3-1~bpo13+1", files, depends="libc6", suite=backports)
    repository.publish("trixie")
    repository.publish(backports)
    return repository


def test_one_on_path_with_the_client_is_taken(tools: Path) -> None:
    file = fake(tools, "10.1.0", "vfio-user-pci")
    got = qemu()
    assert got.argv == [str(file)]
    assert got.version == "10.1.0"
    assert "on PATH" in got.source
    assert got.packages == []


def test_the_answer_is_kept_until_the_binary_changes(tools: Path, cache: Cache) -> None:
    fake(tools, "10.1.0", "vfio-user-pci")
    qemu()
    asked = (tools / "log").read_text()
    qemu()
    assert (tools / "log").read_text() == asked
    fake(tools, "10.1.0", "vfio-user-pci-x")
    assert not probe([str(tools / "qemu-system-x86_64")], cache).usable


def test_one_that_is_too_old_gives_way_to_debians(tools: Path, packaged: Repository) -> None:
    fake(tools, "7.2.0", "vfio-pci")
    got = qemu()
    assert got.version == "11.1.3"
    assert "1:11.1.3-1~bpo13+1 (trixie-backports)" in got.source
    assert [package.name for package in got.packages] == ["libc6", "qemu-system-x86"]
    assert got.resolution is not None


def test_debians_runs_through_its_own_loader_and_libraries(tools: Path, packaged: Repository) -> None:
    argv = qemu().argv
    tree = Path(argv[0]).parents[2]
    assert argv == [
        f"{tree}/usr/lib64/ld-linux-x86-64.so.2",
        "--inhibit-cache",
        "--library-path",
        f"{tree}/usr/lib/x86_64-linux-gnu",
        f"{tree}/usr/bin/qemu-system-x86_64",
        "-L",
        f"{tree}/usr/share/qemu",
        "-L",
        f"{tree}/usr/share/seabios",
    ]


def test_a_lock_pins_qemu_even_with_one_on_path(tools: Path, packaged: Repository, tmp_path: Path) -> None:
    from vcapdev.image.lock import write_lock

    first = qemu()
    assert first.resolution is not None
    write_lock(tmp_path / "lock.json", [first.resolution])
    fake(tools, "10.1.0", "vfio-user-pci")
    assert qemu().version == "10.1.0"
    assert qemu(lock=tmp_path / "lock.json").argv == first.argv
    write_lock(tmp_path / "other.json", [])
    assert qemu(lock=tmp_path / "other.json").version == "10.1.0"


def test_packages_without_a_loader_are_refused(
    tools: Path, packaged: Repository, repository: Repository
) -> None:
    repository.add("libc6", "2.42-1", {"usr/share/nothing": b""}, suite="trixie")
    repository.publish("trixie")
    with pytest.raises(SetupError, match="hold no qemu-system-x86_64 with its loader"):
        qemu()


def test_an_explicit_one_that_is_not_there(tools: Path) -> None:
    with pytest.raises(UsageError, match="--qemu no-such-qemu: there is no such program"):
        qemu("no-such-qemu")


def test_an_explicit_one_without_the_client(tools: Path) -> None:
    fake(tools, "7.2.0", "vfio-pci", "old-qemu")
    with pytest.raises(UsageError, match=r"QEMU 7\.2\.0 has no vfio-user-pci device \(10\.1 is the first"):
        qemu("old-qemu")


def test_an_explicit_one_that_is_no_qemu(tools: Path) -> None:
    file = tools / "other"
    file.write_text("#!/bin/sh\necho something else\n")
    file.chmod(0o755)
    with pytest.raises(UsageError, match=r"is not a working QEMU \(something else\)") as caught:
        qemu(str(file))
    assert "\n" not in str(caught.value)


def test_an_explicit_path_is_taken_as_it_is(tools: Path) -> None:
    file = fake(tools, "11.0.0", "vfio-user-pci", "mine")
    assert qemu(str(file)).argv == [str(file)]
    assert qemu("mine").argv == [str(file)]
