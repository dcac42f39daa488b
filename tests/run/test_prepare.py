# SPDX-License-Identifier: GPL-2.0-or-later
"""What the user gives of his own (kernel, modules, parameters, QEMU options, a lock) reaches the guest.

Packages, compiler and QEMU are stood in for at the seams of vcapdev.run.prepare; nothing is started.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vcapdev.errors import UsageError
from vcapdev.image import kbuild
from vcapdev.image.initramfs import WANTED_MODULES
from vcapdev.image.lock import Package, Resolution, read_lock
from vcapdev.image.provision import Provisioned
from vcapdev.image.sources import KernelVersion
from vcapdev.progress import Silent
from vcapdev.run import prepare as preparing
from vcapdev.run.options import RunOptions
from vcapdev.run.prepare import prepare
from vcapdev.run.screen import Screen
from vcapdev.run.session import Session
from vcapdev.vm.accel import Accel
from vcapdev.vm.qemu import Qemu
from vcapdev.vm.watch import GuestCrash

PACKAGE = Package("linux", "6.1-1", "ab" * 32, "bookworm", 5, "amd64", "main", "pool/l/linux.deb")


class Seams:
    """Stands in for what would use the network, a compiler or a cache, and notes what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.locks: list[Path | None] = []
        self.image: dict[str, Any] = {}
        self.guest: Any = None
        recipe = Resolution("bookworm-6.1", "k" * 64, (PACKAGE,))
        self.provisioned = Provisioned(
            "6.1.0-stock", Path("/stock/vmlinuz"), Path("/stock/modules"), Path("/r"), [PACKAGE], [], recipe
        )
        self.qemu = Qemu(["qemu"], "11.1", "package", resolution=Resolution("qemu", "q" * 64, (PACKAGE,)))
        for name in ("provision", "provision_qemu", "build_initramfs"):
            monkeypatch.setattr(preparing, name, getattr(self, name))
        monkeypatch.setattr(preparing, "choose_accel", lambda *_: Accel("tcg", "a test"))
        monkeypatch.setattr(preparing, "build_programs", lambda *_: {})
        monkeypatch.setattr(preparing, "quick_kernel", lambda kernel, _: kernel)

    def install(self, modules: Path) -> Path:
        """Stock modules: just the two that the guest's driver consists of here."""
        for name in ("bttv", "videobuf_dma_sg"):
            module_file(modules / "kernel" / f"{name}.ko", name)
        names = "".join(f"kernel/{name}.ko\n" for name in WANTED_MODULES if name != "bttv")
        (modules / "modules.builtin").write_text(names)
        self.provisioned = replace(self.provisioned, modules=modules)
        return modules

    def provision(self, _recipe: object, *, lock: Path | None, **_: object) -> Provisioned:
        self.locks.append(lock)
        return self.provisioned

    def provision_qemu(self, _explicit: object, _progress: object, *, lock: Path | None, **_: object) -> Qemu:
        self.locks.append(lock)
        return self.qemu

    def build_initramfs(self, guest: Provisioned, **image: object) -> Path:
        self.guest, self.image = guest, image
        return Path("/initrd")

    def qemu_words(self, options: RunOptions) -> list[str]:
        """The command that would start the guest."""
        with Session(options, prepare(options, Silent()), Screen(io.StringIO())) as session:
            return session.report.command_line["qemu"]


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> Seams:
    return Seams(monkeypatch)


def module_file(path: Path, name: str) -> Path:
    """A relocatable ELF file with nothing but a .modinfo section that gives a name."""
    info, names = f"name={name}\0vermagic=6.9.0 SMP\0".encode(), b"\0.modinfo\0.shstrtab\0"
    rows = ((0, 0, 0, 0), (1, 1, 64, len(info)), (10, 3, 64 + len(info), len(names)))
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", n, kind, 0, 0, at, size, 0, 0, 1, 0) for n, kind, at, size in rows
    )
    start = 64 + len(info) + len(names)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, 3, 2
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + info + names + table)
    return path


def test_a_module_replaces_the_one_that_it_says_it_is(seams: Seams, tmp_path: Path) -> None:
    seams.install(tmp_path / "stock")
    own = module_file(tmp_path / "my-build-3.ko", "videobuf_dma_sg")
    prepared = prepare(RunOptions(modules=(own,)), Silent())
    assert seams.image["overrides"] == prepared.overrides == {"videobuf_dma_sg": own}
    kernel = prepared.describe_kernel(RunOptions(modules=(own,)))
    assert kernel.replaced_modules == [str(own)]
    assert [(one["name"], one["vermagic"]) for one in kernel.modules] == [("videobuf_dma_sg", "6.9.0 SMP")]
    assert kernel.built_from == []


def test_a_mutant_is_told_with_what_it_was_built_from(
    seams: Seams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the report's kernel, and in the lock file; a run with the stock driver tells of nothing."""
    seams.install(tmp_path / "stock")
    stock = prepare(RunOptions(), Silent())
    stock.write_lock(tmp_path / "stock.lock", stock.describe_kernel(RunOptions()))
    assert "built" not in json.loads((tmp_path / "stock.lock").read_text())
    built = module_file(tmp_path / "bttv.ko", "bttv")
    monkeypatch.setattr(kbuild, "build_mutant", lambda *_: {"bttv": built})
    monkeypatch.setattr(preparing, "kernel_version", lambda _: KernelVersion("6.9-1", "6.9.0-1-amd64", "x"))
    monkeypatch.setenv("VCAPDEV_CACHE", str(tmp_path / "cache"))
    options = RunOptions(mutant="no-dirty")
    prepared = prepare(options, Silent())
    kernel = prepared.describe_kernel(options)
    assert kernel.replaced_modules == []
    assert [one["name"] for one in kernel.modules] == ["bttv"]
    assert kernel.built_from == [
        {"name": "linux-headers-6.9.0-1-amd64", "version": "6.9-1"},
        {"name": "linux-source-6.9", "version": "6.9-1"},
    ]
    prepared.write_lock(tmp_path / "lock", kernel)
    assert json.loads((tmp_path / "lock").read_text())["built"] == {
        "mutant": "no-dirty", "built_from": kernel.built_from, "modules": kernel.modules,
    }  # fmt: skip
    assert read_lock(tmp_path / "lock", "bookworm-6.1").packages == (PACKAGE,)


def test_a_lean_kernel_needs_zram_only_to_swap_to_it(seams: Seams, tmp_path: Path) -> None:
    builtin = seams.install(tmp_path / "stock") / "modules.builtin"
    prepare(RunOptions(), Silent())
    assert tuple(seams.image["modules"]) == WANTED_MODULES
    builtin.write_text("".join(line for line in builtin.open() if "zram" not in line))
    prepare(RunOptions(swap="disk"), Silent())
    assert set(seams.image["modules"]) == set(WANTED_MODULES) - {"zram"}
    prepare(RunOptions(swap="zram"), Silent())
    assert "zram" in seams.image["modules"], "the image says what is missing"


def test_the_same_module_twice_is_refused(seams: Seams, tmp_path: Path) -> None:
    seams.install(tmp_path / "stock")
    files = tuple(module_file(tmp_path / name, "bttv") for name in ("a.ko", "b.ko"))
    with pytest.raises(UsageError, match=r"b\.ko: .*a\.ko is the module bttv already"):
        prepare(RunOptions(modules=files), Silent())


def test_what_is_no_module_is_refused(seams: Seams, tmp_path: Path) -> None:
    seams.install(tmp_path / "stock")
    (tmp_path / "x.ko").write_text("text")
    with pytest.raises(UsageError, match=r"--module .*x\.ko"):
        prepare(RunOptions(modules=(tmp_path / "x.ko",)), Silent())


def test_all_modules_of_a_directory_replace_stock_ones(seams: Seams, tmp_path: Path) -> None:
    seams.install(tmp_path / "stock")
    own = module_file(tmp_path / "own" / "deep" / "bttv.ko", "bttv")
    assert prepare(RunOptions(modules=(tmp_path / "own",)), Silent()).overrides == {"bttv": own}


def test_an_own_image_takes_the_modules_that_were_installed_for_it(seams: Seams, tmp_path: Path) -> None:
    seams.install(tmp_path / "stock")
    tree = seams.install(tmp_path / "root/lib/modules/6.9.0")
    seams.install(tmp_path / "stock")
    prepared = prepare(RunOptions(kimg=tmp_path / "bzImage", modules=(tmp_path / "root",)), Silent())
    assert (prepared.guest.kernel, prepared.guest.modules) == (tmp_path / "bzImage", tree)
    assert (prepared.guest.release, prepared.overrides) == ("6.9.0", {})


def test_an_own_kernel_image_is_booted_with_the_packaged_modules(seams: Seams, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    words = seams.qemu_words(RunOptions(kimg=image, cold=True))
    assert words[words.index("-kernel") + 1] == str(image)
    assert (seams.guest.kernel, seams.guest.modules) == (image, Path("/stock/modules"))


def test_a_built_tree_gives_kernel_and_modules(seams: Seams, tmp_path: Path) -> None:
    for name, text in (
        ("include/config/kernel.release", "6.1.99-mine\n"),
        ("arch/x86/boot/bzImage", "image"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    words = seams.qemu_words(RunOptions(kdir=tmp_path, cold=True))
    assert words[words.index("-kernel") + 1] == str(tmp_path / "arch/x86/boot/bzImage")
    assert (seams.guest.release, seams.guest.modules) == ("6.1.99-mine", tmp_path)


def test_a_directory_that_is_no_built_tree_is_refused(seams: Seams, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"is no built kernel tree: include/config/kernel\.release is missing"
    ):
        prepare(RunOptions(kdir=tmp_path), Silent())


def test_kernel_parameters_and_qemu_options_come_last(seams: Seams) -> None:
    words = seams.qemu_words(
        RunOptions(append="bttv.debug=1", qemu_opts=("-device", "edu"), memory=320, cpus=2, cold=True)
    )
    parameters = words[words.index("-append") + 1].split()
    assert parameters[-1] == "bttv.debug=1"
    assert "page_poison=1" in parameters
    assert words[-2:] == ["-device", "edu"]
    assert (words[words.index("-m") + 1], words[words.index("-smp") + 1]) == ("320M", "2")


class DumbAgent:
    """A guest that says nothing more, whose /proc/vmstat is empty."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pull(self, _path: str) -> bytes:
        return b""

    def pump(self, _timeout: float) -> None:
        self._session.vm.watch.poll()


def test_a_warning_of_the_last_moment_is_not_missed(seams: Seams, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the buffers are given back, just before the run ends."""
    options = RunOptions(cold=True)
    with Session(options, prepare(options, Silent()), Screen(io.StringIO())) as session:
        monkeypatch.setattr(session.device, "call", lambda *_, **__: {"settled": True})
        agent: Any = DumbAgent(session)
        session._settle(agent)
        session.vm.watch.feed_kmsg(b"4,1,5000000,-;WARNING: CPU: 0 PID: 7 at mm/gup.c:73 x\n")
        with pytest.raises(GuestCrash, match=r"mm/gup\.c:73"):
            session._settle(agent)


def test_the_lock_of_one_run_pins_kernel_userland_and_qemu_of_another(seams: Seams, tmp_path: Path) -> None:
    lock = tmp_path / "packages.lock"
    prepare(RunOptions(), Silent()).write_lock(lock)
    assert read_lock(lock, "bookworm-6.1") == seams.provisioned.resolution
    assert read_lock(lock, "qemu") == seams.qemu.resolution
    seams.locks.clear()
    prepare(RunOptions(lock=lock), Silent())
    assert seams.locks == [lock, lock]
