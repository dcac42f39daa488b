# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the way from a diff to a module that fits: versions, sources, headers, checks of the result.

A made-up kernel comes from the tests' own repository; its "build system" is a Makefile that appends the
source to a prepared module, so that the test sees what would have been compiled. test_kbuild_real.py builds
real ones.
"""

from __future__ import annotations

import io
import lzma
import subprocess
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aptrepo import Repository, make_recipe
from crafted_elf import kernel_image, module

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.lock import Package
from vcapdev.image.modules import parse_modinfo
from vcapdev.image.parts import module_objects, touched_modules
from vcapdev.image.recipe import Recipe
from vcapdev.image.sources import check_one_version, header_dependencies, kernel_version
from vcapdev.progress import Silent

RELEASE, VERSION = "6.1.0-9-amd64", "6.1.27-1"
VERMAGIC = f"{RELEASE} SMP preempt mod_unload modversions "
PACKAGE_H = f'#define LINUX_PACKAGE_ID " Debian {VERSION}"\n'
V4L2 = "drivers/media/v4l2-core"
#: The lines of videobuf-dma-sg.c (6.1) that the diffs hold on to.
DMA_SG = (
    "static int videobuf_dma_map(struct device *dev, struct videobuf_dmabuf *dma)\n"
    "{\n"
    "\tif (dma->pages) {\n"
    "\t\tdma->sglist = videobuf_pages_to_sg(dma->pages, dma->nr_pages,\n"
    "\t\t\t\t\t\t   dma->offset, dma->size);\n"
    "\t}\n"
    "\tif (dma->vaddr) {\n"
    "\t}\n"
    "\treturn 0;\n"
    "}\n"
    "\n"
    "int videobuf_dma_free(struct videobuf_dmabuf *dma)\n"
    "{\n"
    "\tif (dma->pages) {\n"
    "\t\tunpin_user_pages_dirty_lock(dma->pages, dma->nr_pages,\n"
    "\t\t\t\t\t    dma->direction == DMA_FROM_DEVICE);\n"
    "\t\tkfree(dma->pages);\n"
    "\t\tdma->pages = NULL;\n"
    "\t}\n"
    "}\n"
)
SOURCES = {
    "linux-source-6.1/arch/x86/big.c": "no",
    f"linux-source-6.1/{V4L2}/videobuf-core.c": "core",
    f"linux-source-6.1/{V4L2}/videobuf-dma-sg.c": DMA_SG,
    f"linux-source-6.1/{V4L2}/v4l2-dev.c": "no",
    "linux-source-6.1/drivers/media/pci/bt8xx/Makefile": "bttv-objs := bttv-driver.o \\\n\tbttv-risc.o\n",
    "linux-source-6.1/drivers/media/pci/bt8xx/bttv-driver.c": "driver",
    "linux-source-6.1/drivers/media/pci/bt8xx/bttv-risc.c": "risc",
    "linux-source-6.1/fs/ext4/ext4.c": "no",
}
COMMON_MAKEFILE = """\
modules:
	@echo "  CC [M]  something"
	@for ko in $(KO)/*.ko; do n=$$(basename $$ko .ko); test ! -f $(M)/$$n.c || \\
		cat $$ko $(M)/$$n.c > $(M)/$$n.ko; done
	@cat $(KO)/bttv.ko $(M)/Kbuild > $(M)/bttv.ko
	@cp $(KO)/built.symvers $(M)/Module.symvers
KO := $(dir $(lastword $(MAKEFILE_LIST)))/ko
"""


@dataclass
class Made:
    """The made-up guest."""

    release: str
    kernel: Path
    modules: Path
    root: Path
    packages: list[Package]


def source_archive(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return lzma.compress(stream.getvalue())


def add_kernel(repository: Repository, **changed: bytes | None) -> None:
    """Headers, build tools and source of the made-up kernel; ``changed`` files replace or drop some."""
    said = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    major = said.strip().split(".")[0]
    headers = f"usr/src/linux-headers-{RELEASE}"
    common = "usr/src/linux-headers-6.1.0-9-common"
    tools = ("basic/fixdep", "mod/modpost", "genksyms/genksyms")
    prepared = {
        f"{common}/ko/{name}.ko": module(name.replace("-", "_"), vermagic=VERMAGIC)
        for name in ("videobuf-core", "videobuf-dma-sg", "bttv")
    }
    files = {
        "headers": {
            f"{headers}/Makefile": f"include /{common}/Makefile\n".encode(),
            f"{headers}/.config": f'CONFIG_CC_VERSION_TEXT="gcc-{major} (Debian) {major}.1.0"\n'.encode(),
            f"{headers}/Module.symvers": b"0x11\tvideobuf_dma_map\tvideobuf-dma-sg\tEXPORT_SYMBOL_GPL\t\n",
            f"{headers}/include/generated/package.h": PACKAGE_H.encode(),
        },
        "common": {
            f"{common}/Makefile": COMMON_MAKEFILE.encode(),
            f"{common}/ko/built.symvers": b"0x11\tvideobuf_dma_map\tx\tEXPORT_SYMBOL_GPL\t\n",
            f"{common}/arch/arm/big.h": b"",
            f"{common}/arch/x86/small.h": b"",
            **prepared,
        },
    }
    for group in files.values():
        for name in list(group):
            for part, content in changed.items():
                if Path(name).name.replace(".", "_").replace("-", "_") == part and content is not None:
                    group[name] = content
    kbuild = {f"usr/lib/linux-kbuild-6.1/scripts/{tool}": b"#!/bin/sh\nexit 1\n" for tool in tools}
    depends = (
        "linux-headers-6.1.0-9-common (= 6.1.27-1), linux-kbuild-6.1 (>= 6.1.27-1), linux-compiler-gcc-12-x86"
    )
    repository.add(f"linux-headers-{RELEASE}", VERSION, files["headers"], depends=depends)
    repository.add("linux-headers-6.1.0-9-common", VERSION, files["common"])
    repository.add("linux-kbuild-6.1", VERSION, kbuild)
    if "no_source" not in changed:
        tarball = {"usr/src/linux-source-6.1.tar.xz": changed.get("source") or source_archive(SOURCES)}
        repository.add("linux-source-6.1", VERSION, tarball)
    else:
        repository.add("linux-source-6.1", "6.1.30-1", {"usr/src/linux-source-6.1.tar.xz": b""})
    repository.publish()


@pytest.fixture
def recipe() -> Recipe:
    return make_recipe(f"suites: [bookworm]\nkernel: linux-image-{RELEASE}\n")


@pytest.fixture
def guest(tmp_path: Path) -> Made:
    modules = tmp_path / "modules" / RELEASE
    (modules / "kernel").mkdir(parents=True)
    for name in ("videobuf-core", "videobuf-dma-sg", "bttv"):
        (modules / f"kernel/{name}.ko").write_bytes(module(name.replace("-", "_"), vermagic=VERMAGIC))
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(kernel_image(f"{RELEASE} (a@b) #1 SMP Debian {VERSION} (2023-05-08)"))
    package = Package(f"linux-image-{RELEASE}", VERSION, "0" * 64, "bookworm")
    return Made(RELEASE, kernel, modules, tmp_path, [package])


@pytest.mark.usefixtures("machine")
class TestBuild:
    """The whole way, from packages to modules."""

    def test_only_the_touched_module_is_built_from_altered_source(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository)
        built = build_mutant(recipe, guest, "no-dirty", Silent())
        assert list(built) == ["videobuf-dma-sg"]
        image = built["videobuf-dma-sg"].read_bytes()
        assert parse_modinfo(image).name == "videobuf_dma_sg"
        assert b"unpin_user_pages(dma->pages, dma->nr_pages);" in image
        assert b"dirty" not in image

    def test_early_unpin_lets_go_once(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository)
        source = build_mutant(recipe, guest, "early-unpin", Silent())["videobuf-dma-sg"].read_bytes()
        mapping, release = source.split(b"int videobuf_dma_free")
        assert mapping.count(b"unpin_user_pages_dirty_lock") == 1
        assert mapping.index(b"videobuf_pages_to_sg") < mapping.index(b"unpin_user_pages_dirty_lock")
        assert mapping.index(b"unpin_user_pages_dirty_lock") < mapping.index(b"dma->pages = NULL;")
        assert b"if (dma->pages)" in release, "it skips what is gone"

    @pytest.mark.parametrize("name", [None, "unaltered"])
    def test_the_unaltered_driver_is_built_whole(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made, name: str | None
    ) -> None:
        add_kernel(repository)
        built = build_mutant(recipe, guest, name, Silent())
        assert list(built) == ["bttv", "videobuf-core", "videobuf-dma-sg"]
        assert built["videobuf-dma-sg"].read_bytes().endswith(DMA_SG.encode())
        assert b"bttv-objs := bttv-driver.o bttv-risc.o" in built["bttv"].read_bytes()

    def test_a_second_build_needs_nothing(
        self,
        repository: Repository,
        cache: Cache,
        recipe: Recipe,
        guest: Made,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        add_kernel(repository)
        first = build_mutant(recipe, guest, "no-dirty", Silent())
        monkeypatch.setenv("PATH", "/nonexistent")
        assert build_mutant(recipe, guest, "no-dirty", Silent()) == first

    def test_of_the_sources_little_is_kept(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository)
        build_mutant(recipe, guest, "no-dirty", Silent())
        kept = [
            path
            for path in (cache.root / "sources").rglob("*")
            if path.is_file() and path.name != "entry.json"
        ]
        assert {path.name for path in kept} == {
            "videobuf-core.c", "videobuf-dma-sg.c", "Makefile", "bttv-driver.c", "bttv-risc.c",
        }  # fmt: skip
        assert not list((cache.root / "debs").glob("linux-source*"))
        headers = next((cache.root / "headers").glob("*/content"))
        assert not list(headers.glob("usr/src/*/arch/arm"))
        assert list(headers.glob("usr/src/*/arch/x86"))

    def test_a_source_of_another_version_is_refused(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository, no_source=None)
        with pytest.raises(SetupError, match=r"linux-source-6\.1 6\.1\.27-1 \(it has 6\.1\.30-1\)"):
            build_mutant(recipe, guest, "no-dirty", Silent())
        assert not list((cache.root / "modules").glob("*/content"))

    def test_headers_of_another_version_inside_are_refused(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository, package_h=b'#define LINUX_PACKAGE_ID " Debian 6.1.25-1"\n')
        with pytest.raises(SetupError, match=r"image 6\.1\.27-1, content of the headers 6\.1\.25-1"):
            build_mutant(recipe, guest, "no-dirty", Silent())

    def test_a_changed_interface_is_refused(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository, built_symvers=b"0x22\tvideobuf_dma_map\tx\tEXPORT_SYMBOL_GPL\t\n")
        with pytest.raises(SetupError, match="exports videobuf_dma_map as 0x22, the stock kernel as 0x11"):
            build_mutant(recipe, guest, "no-dirty", Silent())

    def test_a_module_for_another_kernel_is_refused(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository, videobuf_dma_sg_ko=module("videobuf_dma_sg", vermagic="6.1.0-8-amd64 SMP "))
        with pytest.raises(SetupError, match=r"built for '6\.1\.0-8-amd64 SMP'"):
            build_mutant(recipe, guest, "no-dirty", Silent())

    def test_a_failing_build_tells_its_first_error(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository, Makefile=b"modules:\n\t@echo 'x.c:3: error: no such thing' >&2; exit 1\n")
        with pytest.raises(SetupError, match=r"does not compile with gcc.*: x\.c:3: error: no such thing"):
            build_mutant(recipe, guest, "no-dirty", Silent())
        assert not list((cache.root / "modules").glob("*"))

    def test_another_driver_than_the_diff_was_made_for_is_refused(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        other = dict(SOURCES)
        other[f"linux-source-6.1/{V4L2}/videobuf-dma-sg.c"] = DMA_SG.replace("nr_pages", "count")
        add_kernel(repository, source=source_archive(other))
        with pytest.raises(
            UsageError, match=r"no-dirty does not fit the driver of kernel 6\.1\.0-9-amd64: .*FAILED"
        ):
            build_mutant(recipe, guest, "no-dirty", Silent())

    def test_a_damaged_source_package_is_named(
        self, repository: Repository, cache: Cache, recipe: Recipe, guest: Made
    ) -> None:
        add_kernel(repository, source=source_archive(SOURCES)[:150])
        with pytest.raises(SetupError, match=r"linux-source-6\.1_.*damaged"):
            build_mutant(recipe, guest, "no-dirty", Silent())


def test_an_own_kernel_is_not_taken_for_the_packaged_one(guest: Made, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_bytes(kernel_image(f"{RELEASE} (a@b) #1 SMP Debian 6.1.25-1 (2023-04-22)"))
    with pytest.raises(UsageError, match=r"is not that of package linux-image-6\.1\.0-9-amd64 6\.1\.27-1"):
        kernel_version(replace(guest, kernel=own))
    with pytest.raises(UsageError, match="no package of this recipe is the kernel"):
        kernel_version(replace(guest, packages=[]))


def test_a_kernel_without_the_driver_is_refused_at_once(guest: Made, recipe: Recipe, tmp_path: Path) -> None:
    (guest.modules / "kernel/videobuf-dma-sg.ko").unlink()
    with pytest.raises(UsageError, match=r"alters the module videobuf-dma-sg, which kernel 6\.1\.0-9-amd64"):
        build_mutant(recipe, guest, "no-dirty", Silent(), cache=Cache(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_a_cache_path_that_make_cannot_take_is_refused(guest: Made, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no blank or colon"):
        build_mutant(recipe, guest, "no-dirty", Silent(), cache=Cache(tmp_path / "my cache"))


def test_which_parts_differ_is_said() -> None:
    check_one_version({"image": "1", "linux-source-6.1": "1"})
    with pytest.raises(SetupError, match=r"image 1, linux-headers-x 1, linux-source-6\.1 2"):
        check_one_version({"image": "1", "linux-headers-x": "1", "linux-source-6.1": "2"})


def test_header_packages_name_what_they_need() -> None:
    depends = (
        "linux-headers-6.12.1+deb13-common (= 6.12.1-1), linux-kbuild-6.12.1+deb13, gcc-14, libc6 (>= 2)"
    )
    assert header_dependencies(depends) == ["linux-headers-6.12.1+deb13-common", "linux-kbuild-6.12.1+deb13"]


def test_files_belong_to_modules(tmp_path: Path) -> None:
    for name in (f"{V4L2}/videobuf-core.c", "drivers/media/pci/bt8xx/bttv-risc.c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    risc = "drivers/media/pci/bt8xx/bttv-risc.c"
    assert touched_modules(tmp_path, [risc, f"{V4L2}/videobuf-core.c", risc]) == ["bttv", "videobuf-core"]
    with pytest.raises(UsageError, match=r"changes mm/gup\.c"):
        touched_modules(tmp_path, ["mm/gup.c"])


def test_objects_are_read_from_continued_lines(tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text("bttv-objs      :=      a.o b.o \\\n\t\t       c.o\n\nobj-m += bttv.o\n")
    assert module_objects(makefile, "bttv") == ["a.o", "b.o", "c.o"]
    with pytest.raises(SetupError, match="what cx88 is made of"):
        module_objects(makefile, "cx88")
