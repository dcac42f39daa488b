# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the way from a diff to a module that fits: versions, sources, headers, checks of the result.

The kernel is made up (made_kernel.py); test_kbuild_real.py builds real ones.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from aptrepo import Repository
from crafted_elf import kernel_image, module
from made_kernel import DMA_SG, RELEASE, SOURCES, V4L2, Made, add_kernel, source_archive

from vcapdev.errors import SetupError, UsageError
from vcapdev.image.cache import Cache
from vcapdev.image.kbuild import build_mutant
from vcapdev.image.modules import parse_modinfo
from vcapdev.image.recipe import Recipe
from vcapdev.image.sources import check_one_version, header_dependencies, kernel_version
from vcapdev.progress import Silent


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
        assert DMA_SG.encode() in built["videobuf-dma-sg"].read_bytes()
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
