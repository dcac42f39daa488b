# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the content of the guest's initramfs, made from a small tree of made-up packages."""

from __future__ import annotations

import gzip
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from crafted_elf import kernel_image, module, program
from test_newc import Item, read_strictly

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.image.elf import resolve_in_root
from vcapdev.image.initramfs import WANTED_MODULES, build_initramfs
from vcapdev.progress import Silent

RELEASE = "6.1.0-9-amd64"
LOADER = "/lib64/ld-linux-x86-64.so.2"
BUSYBOX = "#!/bin/sh\nprintf '%s\\n' bin/sh sbin/insmod usr/bin/lspci usr/bin/awk\n"


@dataclass
class Made:
    """What the initramfs is made of."""

    release: str
    kernel: Path
    modules: Path
    root: Path


def put(path: Path, content: bytes | str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


@pytest.fixture
def guest(tmp_path: Path) -> Made:
    root, modules = tmp_path / "root", tmp_path / "modules" / RELEASE
    put(root / "bin/busybox", BUSYBOX)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    for name in ("v4l2-ctl", "v4l2-compliance"):
        put(root / f"usr/bin/{name}", program(["libv4l2.so.0", "libc.so.6"], interpreter=LOADER))
    for name in ("lspci", "setpci"):
        put(root / f"usr/bin/{name}", program(["libpci.so.3"], interpreter=LOADER, runpath="/opt/pci"))
    put(libraries / "libv4l2.so.0.0.0", program(["libv4lconvert.so.0", "libc.so.6"]))
    (libraries / "libv4l2.so.0").symlink_to("/usr/lib/x86_64-linux-gnu/libv4l2.so.0.0.0")
    put(libraries / "libv4lconvert.so.0", program(["libc.so.6"]))
    put(root / "opt/pci/libpci.so.3", program(["libc.so.6"]))
    put(root / "lib/x86_64-linux-gnu/libc.so.6", program(["ld-linux-x86-64.so.2"]))
    put(root / "usr/lib64/ld-linux-x86-64.so.2", program())
    needs = {"bttv": "videodev", "zram": "zsmalloc", "videodev": "", "zsmalloc": "", "virtio_blk": ""}
    for name, depends in needs.items():
        put(modules / f"kernel/drivers/{name}.ko", module(name, depends=depends))
    put(modules / "modules.builtin", "kernel/virtio_pci.ko\nkernel/virtio_console.ko\n")
    kernel = put(tmp_path / "vmlinuz", kernel_image(f"{RELEASE} (a@b) #1 SMP Debian 6.1.27-1"))
    put(tmp_path / "agent", b"agent")
    return Made(RELEASE, kernel, modules, root)


def build(guest: Made, tmp_path: Path, **overrides: Path) -> Path:
    programs = {"vcap-agent": tmp_path / "agent", "vcap-capture": tmp_path / "agent"}
    return build_initramfs(
        guest,
        programs=programs,
        modules=WANTED_MODULES,
        overrides=overrides,
        progress=Silent(),
        cache=Cache(tmp_path / "cache"),
    )


def content(path: Path) -> dict[str, Item]:
    return read_strictly(gzip.decompress(path.read_bytes()))


def test_init_programs_and_devices_are_in_place(guest: Made, tmp_path: Path) -> None:
    items = content(build(guest, tmp_path))
    assert items["init"].mode == stat.S_IFREG | 0o755
    assert items["init"].data.startswith(b"#!/bin/busybox sh")
    assert items["dev/console"].rdev == (5, 1)
    assert items["sbin/vcap-agent"].data == items["bin/vcap-capture"].data == b"agent"
    assert {"proc", "sys", "tmp", "etc/passwd"} <= set(items)


def test_applets_are_links_unless_the_place_is_taken(guest: Made, tmp_path: Path) -> None:
    items = content(build(guest, tmp_path))
    assert items["sbin/insmod"].data == items["bin/sh"].data == b"/bin/busybox"
    assert stat.S_ISREG(items["usr/bin/lspci"].mode), "the real lspci, not busybox's"


def test_modules_are_listed_in_load_order(guest: Made, tmp_path: Path) -> None:
    items = content(build(guest, tmp_path))
    order = items["etc/modules"].data.decode().split()
    assert order == [f"kernel/drivers/{n}.ko" for n in ("virtio_blk", "zsmalloc", "zram", "videodev", "bttv")]
    assert all(f"lib/modules/{RELEASE}/{name}" in items for name in order)
    dependencies = items[f"lib/modules/{RELEASE}/modules.dep"].data.decode()
    assert "kernel/drivers/bttv.ko: kernel/drivers/videodev.ko\n" in dependencies


def test_libraries_come_with_what_they_need_themselves(guest: Made, tmp_path: Path) -> None:
    items = content(build(guest, tmp_path))
    libraries = {name for name in items if name.startswith("lib/x86_64-linux-gnu/")}
    wanted = ("libv4l2.so.0", "libv4lconvert.so.0", "libc.so.6", "libpci.so.3")
    assert libraries == {f"lib/x86_64-linux-gnu/{name}" for name in wanted}
    assert items["lib64/ld-linux-x86-64.so.2"].data == program()


def test_the_same_content_is_built_once(guest: Made, tmp_path: Path) -> None:
    first = build(guest, tmp_path)
    made = first.stat().st_ino
    assert build(guest, tmp_path) == first
    assert first.stat().st_ino == made
    put(tmp_path / "agent", b"another agent")
    assert build(guest, tmp_path) != first


def test_a_replacement_is_loaded_instead(guest: Made, tmp_path: Path) -> None:
    own = put(tmp_path / "mine.ko", module("bttv", depends="videodev", extra=["version=mine"]))
    items = content(build(guest, tmp_path, bttv=own))
    assert items["etc/modules"].data.decode().split()[-1] == "updates/bttv.ko"
    assert items[f"lib/modules/{RELEASE}/updates/bttv.ko"].data == own.read_bytes()
    assert f"lib/modules/{RELEASE}/kernel/drivers/bttv.ko" not in items


def test_a_kernel_that_does_not_fit_the_modules_is_refused(guest: Made, tmp_path: Path) -> None:
    other = put(tmp_path / "own-kernel", kernel_image("6.1.77-mine (a@b) #1"))
    with pytest.raises(
        UsageError, match=r"own-kernel is 6\.1\.77-mine, and .* was built for 6\.1\.0-9-amd64"
    ):
        build(replace(guest, kernel=other), tmp_path)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("bin/busybox", "add busybox-static to the recipe"),
        ("usr/bin/v4l2-ctl", "add v4l-utils to the recipe"),
        ("usr/lib/x86_64-linux-gnu/libv4lconvert.so.0", "needs the library libv4lconvert.so.0"),
        ("usr/lib64/ld-linux-x86-64.so.2", "add libc6 to the recipe"),
    ],
)
def test_what_packages_lack_is_named(guest: Made, tmp_path: Path, gone: str, said: str) -> None:
    (guest.root / gone).unlink()
    with pytest.raises(SetupError, match=said):
        build(guest, tmp_path)


def test_a_busybox_without_a_shell_is_refused(guest: Made, tmp_path: Path) -> None:
    put(guest.root / "bin/busybox", "#!/bin/sh\necho bin/true\n")
    with pytest.raises(SetupError, match="does not list a shell"):
        build(guest, tmp_path)


def test_links_do_not_lead_out_of_the_root(tmp_path: Path) -> None:
    outside = put(tmp_path / "secret", b"x")
    root = tmp_path / "root"
    put(root / "usr/lib/real", b"y")
    (root / "lib").symlink_to("usr/lib")
    for name, target in {
        "up": "../secret",
        "abs": str(outside),
        "loop": "loop",
        "in": "/lib/../lib/real",
    }.items():
        os.symlink(target, root / name)
    assert resolve_in_root(root, "in") == root / "usr/lib/real"
    assert resolve_in_root(root, "/lib/real") == root / "usr/lib/real"
    assert [resolve_in_root(root, name) for name in ("up", "abs", "loop", "../secret")] == [None] * 4
