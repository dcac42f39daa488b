# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects saved guests as entries of the cache: what they depend on, one maker, no use of damaged ones."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.progress import Progress, Silent
from vcapdev.vm import restore, snapshot
from vcapdev.vm.commandline import VmConfig, build_command_line
from vcapdev.vm.kernel_log import Record, parse_kmsg
from vcapdev.vm.machine import Vm
from vcapdev.vm.ramimage import PAGES
from vcapdev.vm.restore import SnapshotError
from vcapdev.vm.snapshot import key_of, snapshot_of

Make = Callable[[VmConfig, Path, Progress], None]


class Lines(Silent):
    """Keeps what is said at the start of each step."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, label: str, total: int | None = None, unit: str = "B") -> None:
        self.lines.append(label)


@pytest.fixture
def config(tmp_path: Path) -> VmConfig:
    for name in ("qemu", "kernel", "initrd"):
        (tmp_path / name).write_text(name)
    qemu = SimpleNamespace(argv=[str(tmp_path / "qemu"), "-L", "data"])
    return VmConfig(qemu, "tcg", tmp_path / "kernel", tmp_path / "initrd", tmp_path / "work")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[VmConfig]:
    """Guests that were booted to be saved; nothing is booted, but what a saved one consists of is there."""
    configs: list[VmConfig] = []

    def make(config: VmConfig, directory: Path, progress: Progress) -> None:
        configs.append(config)
        for number, name in enumerate(snapshot._HASHED):
            (directory / name).write_bytes(bytes([number + 1]) * 5000)
        snapshot.write_about(config, directory, "6.1.0")

    monkeypatch.setattr(snapshot, "make", make)
    return configs


# What a saved guest depends on.


def test_the_key_changes_with_everything_that_a_booted_guest_depends_on(
    config: VmConfig, cache: Cache
) -> None:
    disk = replace(config, swap="disk", swap_disk=Path("/w/swap"))
    variants = [
        config,
        replace(config, append="quiet"),
        replace(config, memory_mib=128),
        replace(config, cpus=2),
        replace(config, accel="kvm"),
        replace(config, iommu=True),
        replace(config, swap="zram:64"),
        replace(config, extra_args=["-device", "edu"]),
        disk,
        replace(disk, swap_disk_mib=64),
    ]
    keys = [key_of(variant, cache) for variant in variants]
    for changed in (config.kernel, config.initrd, Path(config.qemu.argv[0])):
        changed.write_text("another")
        keys.append(key_of(config, cache))
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_change_with_what_a_run_has_of_its_own(config: VmConfig, cache: Cache) -> None:
    other = replace(config, workdir=Path("/somewhere"), card_socket=Path("/card"), swap="disk")
    one = snapshot.bare(replace(other, swap_disk=Path("/a")))
    two = snapshot.bare(replace(other, swap_disk=Path("/b"), workdir=Path("/x"), card_socket=None))
    assert key_of(one, cache) == key_of(two, cache)


def test_a_file_of_the_cache_is_told_by_its_name_alone(config: VmConfig, cache: Cache) -> None:
    kernel = cache.entry("vmlinux", "key", lambda directory: (directory / "vmlinux").touch()) / "vmlinux"
    before = key_of(replace(config, kernel=kernel), cache)
    os.utime(kernel)
    assert key_of(replace(config, kernel=kernel), cache) == before


def test_what_cannot_be_saved_is_refused(config: VmConfig, cache: Cache) -> None:
    with pytest.raises(UsageError, match="interactive"):
        snapshot_of(replace(config, interactive=True), Silent(), cache=cache)


# Made once, and kept in order.


def test_it_is_made_once_without_the_card_and_found_again(
    config: VmConfig, cache: Cache, made: list[VmConfig]
) -> None:
    with_card = replace(config, card_socket=Path("/card"))
    first = snapshot_of(with_card, Silent(), cache=cache)
    assert snapshot_of(with_card, Silent(), cache=Cache(cache.root)) == first
    (saved,) = made
    assert saved.slot
    assert saved.card_socket is None
    (item,) = [item for item in cache.list() if item.kind == snapshot.KIND]
    assert "256 MiB" in item.label


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: os.truncate(saved / PAGES, 4999),
        lambda saved: (saved / PAGES).write_bytes(b"x" * 5000),
        lambda saved: (saved / restore.STATE).unlink(),
        lambda saved: (saved / snapshot._ABOUT).write_text("{"),
        lambda saved: (saved / snapshot._ABOUT).write_text("[]"),
        lambda saved: (saved / snapshot._ABOUT).write_text('{"files": {}}'),
    ],
)
@pytest.mark.parametrize("used", [False, True])
def test_a_damaged_one_is_made_again_with_one_line(
    damage: Callable[[Path], object], used: bool, config: VmConfig, cache: Cache, made: list[VmConfig]
) -> None:
    saved = snapshot_of(config, Silent(), cache=cache)
    if used:  # its content was looked at, and is not again as long as nothing happens to the files
        snapshot_of(config, Silent(), cache=cache)
    damage(saved)
    said = Lines()
    assert snapshot_of(config, said, cache=cache) == saved
    assert len(made) == 2
    assert snapshot.what_is_wrong(saved, cache) == ""
    (line,) = said.lines
    assert line.startswith("A snapshot is damaged (")


def test_content_is_read_again_only_after_a_change(
    config: VmConfig, cache: Cache, made: list[VmConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = snapshot_of(config, Silent(), cache=cache)
    measured: list[Path] = []
    measure = snapshot._measure

    def count(path: Path) -> list[object]:
        measured.append(path)
        return measure(path)

    monkeypatch.setattr(snapshot, "_measure", count)
    assert snapshot_of(config, Silent(), cache=cache) == saved
    assert measured == []
    (saved / PAGES).touch()
    assert snapshot_of(config, Silent(), cache=cache) == saved
    assert saved / PAGES in measured
    assert len(made) == 1


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(errno.ENOSPC, "full"), SetupError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_full_disk_or_a_ctrl_c_leaves_the_cache_as_it_was(
    error: BaseException,
    seen: type[BaseException],
    config: VmConfig,
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half(config: VmConfig, directory: Path, progress: Progress) -> None:
        (directory / PAGES).write_bytes(bytes(5000))
        raise error

    monkeypatch.setattr(snapshot, "make", half)
    with pytest.raises(seen):
        snapshot_of(config, Silent(), cache=cache)
    assert [item for item in cache.list() if item.kind in (snapshot.KIND, "partial")] == []


_RACER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from vcapdev.image.cache import Cache
from vcapdev.progress import Silent
from vcapdev.vm import snapshot
from vcapdev.vm.commandline import VmConfig
root = Path(sys.argv[1])
def make(config, directory, progress):
    with (root / "made").open("a") as log:
        log.write("x")
    time.sleep(0.3)
    for name in snapshot._HASHED:
        (directory / name).write_bytes(b"x" * 5000)
    snapshot.write_about(config, directory, "6.1.0")
snapshot.make = make
qemu = SimpleNamespace(argv=[str(root / "qemu")])
config = VmConfig(qemu, "tcg", root / "kernel", root / "initrd", root / "work")
print(snapshot.snapshot_of(config, Silent(), cache=Cache(root / "cache")))
"""


def test_of_several_that_want_the_same_one_makes_it(config: VmConfig, tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", _RACER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = {racer.communicate(timeout=60)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 4
    assert (tmp_path / "made").read_text() == "x"
    (place,) = told
    assert Path(place.strip()).is_dir()


def test_the_cache_keeps_those_that_were_used_last(
    config: VmConfig, cache: Cache, made: list[VmConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_MOST", 2)
    real, times = snapshot.make, iter(range(1, 10))

    def make_and_keep(config: VmConfig, directory: Path, progress: Progress) -> None:
        real(config, directory, progress)
        for about in cache.root.glob("snapshots/*/entry.json"):
            if about.stat().st_mtime > 1000:
                os.utime(about, (next(times),) * 2)

    monkeypatch.setattr(snapshot, "make", make_and_keep)
    saved = []
    for memory in (64, 128, 192, 256):
        other = Cache(cache.root)
        saved.append(snapshot_of(replace(config, memory_mib=memory), Silent(), cache=other))
        other.release()
    assert [place.exists() for place in saved] == [False, True, True, True]  # two, and the one just made


def test_prune_leaves_what_is_in_use_and_takes_the_rest(
    config: VmConfig, cache: Cache, made: list[VmConfig]
) -> None:
    snapshot_of(config, Silent(), cache=cache)
    other = Cache(cache.root)
    assert [item.kind for item in other.prune(everything=True).in_use] == [snapshot.KIND]
    cache.release()
    assert snapshot.KIND in [item.kind for item in other.prune(everything=True).removed]
    snapshot_of(config, Silent(), cache=cache)
    assert len(made) == 2


# How a guest goes on from it.


def test_a_restored_guest_has_neither_kernel_nor_card_but_a_slot(config: VmConfig, tmp_path: Path) -> None:
    words = build_command_line(replace(config, snapshot=tmp_path, card_socket=Path("/card")))
    text = " ".join(words)
    assert words[words.index("-incoming") + 1] == "defer"
    assert "-kernel" not in words
    assert "vfio-user" not in text
    assert "pcie-root-port,id=cardslot" in text
    assert "memory-backend-file,id=ram,size=256M,share=on,mem-path=/proc/self/fd/0" in words
    assert "append=on" in text


def test_a_snapshot_that_goes_away_at_the_last_moment_is_one_line(config: VmConfig, tmp_path: Path) -> None:
    config.workdir.mkdir()
    vm = Vm(replace(config, snapshot=tmp_path / "gone"))
    with pytest.raises(SnapshotError, match="cannot be read"):
        vm.start()
    assert vm.pid is None


@pytest.mark.parametrize(
    "record",
    [
        Record(12345678, "plain words, and more", 6),
        Record(1, "tab\tand \x1b[1m and back\\slash", 3),
        Record(2, "from a program", 5, False),
        Record(0, "", 0),
    ],
)
def test_the_kernel_log_is_kept_as_the_kernel_gives_it(record: Record) -> None:
    assert parse_kmsg(restore.as_kmsg(record, 7)) == record


def test_holes_of_a_swap_disk_stay_holes(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    size = 64 << 20
    with old.open("wb") as file:
        os.truncate(file.fileno(), size)
        for place in (0, 10 << 20, size - 4096):
            os.pwrite(file.fileno(), b"data" * 1024, place)
    new.write_bytes(b"something else")
    restore.copy_sparse(old, new)
    assert new.read_bytes() == old.read_bytes()
    assert new.stat().st_blocks * 512 < 1 << 20
    with old.open("wb") as file:
        os.truncate(file.fileno(), size)
    restore.copy_sparse(old, new)
    assert new.stat().st_size == size
    assert new.stat().st_blocks == 0
