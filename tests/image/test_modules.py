# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the reading of kernel modules and their load order: a wrong order is a guest without its card."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
import zstandard
from crafted_elf import VERMAGIC, kernel_image, module, relocatable
from hypothesis import given
from hypothesis import strategies as st

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.elf import ElfError
from vcapdev.image.modules import (
    ModuleTree,
    built_kernel,
    kernel_banner,
    load_order,
    module_name,
    parse_modinfo,
    read_image,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """bttv needs two modules, one of them a third; compressed in three ways."""
    files = {
        "kernel/media/bttv.ko.xz": module("bttv", depends="videobuf-dma-sg,videodev"),
        "kernel/media/videobuf-dma-sg.ko": module("videobuf_dma_sg", depends="videobuf-core"),
        "kernel/media/videobuf-core.ko.zst": module("videobuf_core"),
        "kernel/media/videodev.ko.xz": module("videodev"),
        "kernel/fs/jbd2.ko": module("jbd2", extra=["softdep=pre: crypto-crc32c post: later"]),
        "kernel/crypto/crc32c_generic.ko": module("crc32c_generic", extra=["alias=crypto-crc32c"]),
    }
    for name, content in files.items():
        path = tmp_path / "rel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".xz"):
            content = lzma.compress(content)
        if name.endswith(".zst"):
            content = zstandard.ZstdCompressor().compress(content)
        path.write_bytes(content)
    (tmp_path / "rel/modules.builtin").write_text("kernel/drivers/virtio/virtio-pci.ko\n")
    return tmp_path / "rel"


def names(tree: Path, *wanted: str, **overrides: Path) -> list[str]:
    return [m.info.name for m in load_order(ModuleTree(tree), wanted, overrides)]


def test_dependencies_come_first_and_once(tree: Path) -> None:
    assert names(tree, "bttv", "videodev") == ["videobuf_core", "videobuf_dma_sg", "videodev", "bttv"]


def test_compression_leaves_content_and_target(tree: Path) -> None:
    loaded = {m.info.name: m for m in load_order(ModuleTree(tree), ["bttv"])}
    assert loaded["bttv"].image == module("bttv", depends="videobuf-dma-sg,videodev")
    assert loaded["videobuf_core"].target == "kernel/media/videobuf-core.ko"


def test_modules_order_finds_compressed_files(tree: Path) -> None:
    """Packages list uncompressed names there whatever the files are called."""
    listed = ["bttv", "videobuf-dma-sg", "videobuf-core", "videodev"]
    (tree / "modules.order").write_text("".join(f"kernel/media/{name}.ko\n" for name in listed))
    assert names(tree, "bttv")[-1] == "bttv"


def test_soft_dependencies_are_found_by_alias_and_not_missed(tree: Path) -> None:
    assert names(tree, "jbd2") == ["crc32c_generic", "jbd2"]
    (tree / "kernel/crypto/crc32c_generic.ko").unlink()
    assert names(tree, "jbd2") == ["jbd2"]


def test_built_in_modules_are_not_missed(tree: Path) -> None:
    assert names(tree, "virtio_pci", "videodev") == ["videodev"]


def test_all_missing_modules_are_named_with_who_needs_them(tree: Path) -> None:
    (tree / "kernel/media/videobuf-core.ko.zst").unlink()
    with pytest.raises(SetupError, match=r"videobuf_core \(needed by videobuf_dma_sg\), nosuch"):
        names(tree, "bttv", "nosuch")


def test_a_cycle_ends(tree: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tree / f"kernel/{one}.ko").write_bytes(module(one, depends=other))
    assert sorted(names(tree, "a")) == ["a", "b"]


def test_a_replacement_takes_the_place_of_the_stock_module(tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.ko"
    own.write_bytes(module("videobuf_dma_sg", depends="videobuf-core", extra=["version=mine"]))
    loaded = load_order(ModuleTree(tree), ["bttv"], {"videobuf-dma-sg": own})
    assert [m.info.name for m in loaded] == ["videobuf_core", "videobuf_dma_sg", "videodev", "bttv"]
    assert loaded[1].image == own.read_bytes()
    assert loaded[1].target == "updates/videobuf_dma_sg.ko"


def test_a_replacement_brings_its_own_dependencies(tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "videodev.ko"
    own.write_bytes(module("videodev", depends="jbd2"))
    assert "jbd2" in names(tree, "bttv", videodev=own)


def test_a_replacement_for_another_kernel_is_refused(tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "bttv.ko"
    own.write_bytes(module("bttv", vermagic="6.1.0-8-amd64 SMP preempt mod_unload modversions "))
    with pytest.raises(UsageError, match=r"bttv.ko was built for '6.1.0-8-amd64 .*6.1.0-9-amd64"):
        names(tree, "bttv", bttv=own)


def test_a_replacement_under_a_wrong_name_is_refused(tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "bttv.ko"
    own.write_bytes(module("cx88"))
    with pytest.raises(UsageError, match="is the module cx88, not bttv"):
        names(tree, "bttv", bttv=own)
    assert module_name(own) == "cx88"


def test_what_is_no_module_is_refused(tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "bttv.ko"
    for content in (
        b"",
        b"text",
        relocatable({".text": b""}),
        b"\xfd7zXZ\0broken",
        b"\x28\xb5\x2f\xfdbroken",
    ):
        own.write_bytes(content)
        with pytest.raises(UsageError, match=r"bttv\.ko"):
            names(tree, "bttv", bttv=own)
    with pytest.raises(UsageError, match="No such file"):
        names(tree, "bttv", bttv=tmp_path / "absent.ko")


def test_a_damaged_stock_module_is_named(tree: Path) -> None:
    (tree / "kernel/media/bttv.ko.xz").write_bytes(b"\xfd7zXZ\0broken")
    with pytest.raises(SetupError, match=r"bttv\.ko\.xz"):
        names(tree, "bttv")


def test_an_empty_directory_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no kernel modules"):
        names(tmp_path, "bttv")


def test_modinfo_is_read_in_full() -> None:
    extra = ["alias=pci:v0000109Ed0000036E", "alias=char-major-81-*", "softdep=pre: a b post: c"]
    info = parse_modinfo(module("bttv", depends="a,b", extra=extra))
    assert info.depends == ("a", "b")
    assert info.aliases == ("pci:v0000109Ed0000036E", "char-major-81-*")
    assert (info.softdep_pre, info.softdep_post) == (("a", "b"), ("c",))
    assert info.vermagic == VERMAGIC.strip()


@given(st.binary(max_size=300), st.integers(0, 400))
def test_damaged_elf_files_raise_only_their_own_error(noise: bytes, cut: int) -> None:
    good = module("bttv", depends="a,b")
    for image in (good[:cut], good[:cut] + noise, noise, b"\x7fELF\x02\x01" + noise):
        try:
            parse_modinfo(image)
        except ElfError:
            continue


def test_a_built_tree_gives_kernel_release_and_modules(tmp_path: Path) -> None:
    for name, content in {
        "include/config/kernel.release": b"6.1.99-mine\n",
        "arch/x86/boot/bzImage": kernel_image("6.1.99-mine (me@here) #1"),
        "drivers/media/pci/bt8xx/bttv.ko": module("bttv"),
        "modules.order": b"drivers/media/pci/bt8xx/bttv.o\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    built = built_kernel(tmp_path)
    assert built.release == "6.1.99-mine"
    loaded = load_order(ModuleTree(built.modules), ["bttv"])
    assert loaded[0].target == "kernel/drivers/media/pci/bt8xx/bttv.ko"
    built.kernel.unlink()
    with pytest.raises(UsageError, match="bzImage is missing"):
        built_kernel(tmp_path)


def test_the_banner_of_a_kernel_image(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(kernel_image("6.1.0-9-amd64 (x@y) #1 SMP Debian 6.1.27-1"))
    assert kernel_banner(image) == "6.1.0-9-amd64 (x@y) #1 SMP Debian 6.1.27-1"
    for content in (b"", b"\x7fELF" + bytes(2000)):
        image.write_bytes(content)
        with pytest.raises(UsageError, match="no bootable"):
            kernel_banner(image)


def test_plain_files_are_passed_through(tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    path.write_bytes(b"\x7fELF and so on")
    assert read_image(path) == b"\x7fELF and so on"
