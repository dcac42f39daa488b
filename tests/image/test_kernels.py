# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the shipped kernels: how Debian packages each, what has to be loaded in it, what happens when the
archive moves on.

kernels.json holds what the archive had on the day that the recipes were written: packages with dependencies,
their files and modules as far as a guest needs them. Here they are made again, without their content.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from aptrepo import Repository, make_recipe
from crafted_elf import kernel_image, module

from vcapdev.image.initramfs import WANTED_MODULES, check_release
from vcapdev.image.modules import ModuleTree, load_order
from vcapdev.image.provision import Provisioned, provision
from vcapdev.image.recipe import Recipe, load_recipe, recipe_names
from vcapdev.progress import Silent

RECORDED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("kernels.json").read_text())
STACK = {"5.10": "videobuf", "6.1": "videobuf", "6.12": "videobuf2", "7.3": "videobuf2"}

pytestmark = pytest.mark.usefixtures("machine", "cache")


def content(path: str, kernel: dict[str, Any], builtin: list[str]) -> bytes:
    """Of a file of a kernel package, as far as anybody looks."""
    name = path.rpartition("/")[2]
    if name.startswith("vmlinuz"):
        return kernel_image(f"{kernel['release']} (a@b) #1 SMP")
    if name == "modules.builtin":
        return "".join(f"kernel/{one}.ko\n" for one in builtin).encode()
    if name == "modules.order":
        files = [file for package in kernel["packages"] for file in package["files"]]
        paths = [file.partition(f"{kernel['release']}/")[2] for file in files if ".ko" in file]
        return "".join(path.removesuffix(".xz") + "\n" for path in paths).encode()
    stem = name.removesuffix(".xz").removesuffix(".ko")
    about = kernel["modules"][stem]
    extra = [f"softdep={about['softdep']}"] if about["softdep"] else []
    image = module(stem, depends=about["depends"], vermagic=f"{kernel['release']} SMP", extra=extra)
    return lzma.compress(image, check=lzma.CHECK_CRC32) if name.endswith(".xz") else image


def publish(repository: Repository, kernel: dict[str, Any]) -> None:
    """The kernel's packages, and a userland of one package."""
    for package in kernel["packages"]:
        files = {path: content(path, kernel, kernel["builtin"]) for path in package["files"]}
        repository.add(package["name"], package["version"], files, depends=package["depends"])
    repository.add("tool", "1", {"usr/bin/tool": b""})
    repository.publish()


def here(name: str) -> Recipe:
    """A shipped recipe, with the only suite that the tests' repository has."""
    shipped = load_recipe(name)
    other = f"kernel-else: {shipped.kernel_else}\n" if shipped.kernel_else else ""
    return make_recipe(
        f"suites: [bookworm]\nkernel: {shipped.kernel}\n{other}packages: [tool]\n"
        f"assume: [{', '.join(shipped.assume)}]\n"
    )


def run(recipe: Recipe, refresh: bool = False) -> Provisioned:
    return provision(recipe, progress=Silent(), refresh=refresh)


@pytest.mark.parametrize("name", recipe_names())
def test_each_recorded_kernel_is_found_with_its_modules_in_order(repository: Repository, name: str) -> None:
    kernel = RECORDED[name]
    publish(repository, kernel)
    guest = run(here(name))
    assert guest.release == kernel["release"]
    assert guest.kernel.is_file()
    assert not guest.warnings
    loaded = load_order(ModuleTree(guest.modules), WANTED_MODULES)
    check_release(guest, loaded)
    assert [one.info.name for one in loaded] == kernel["order"]


@pytest.mark.parametrize("name", recipe_names())
def test_bttv_is_on_the_framework_that_the_recipe_says(name: str) -> None:
    recipe = load_recipe(name)
    order = RECORDED[name]["order"]
    stack = STACK[name.rpartition("-")[2]]
    assert f"bttv on {stack}-dma-sg" in recipe.description
    assert f"{stack}-dma-sg" in order
    assert ({"videobuf-dma-sg", "videobuf2-dma-sg"} & set(order)) == {f"{stack}-dma-sg"}
    assert order.index(f"{stack}-dma-sg") < order.index("bttv")


MOVING = make_recipe(
    "suites: [bookworm]\nkernel: linux-image-7.3.*+deb13-amd64\nkernel-else: linux-image-amd64\n"
    "packages: [tool]\n"
)


def add(repository: Repository, number: str, *, meta: bool = False, flavour: str = "amd64") -> Path:
    """A kernel of that number; ``meta``: the one that linux-image-amd64 stands for."""
    release, version = f"{number}+deb13-{flavour}", f"{number}-1~bpo13+1"
    files = {
        f"boot/vmlinuz-{release}": b"",
        f"usr/lib/modules/{release}/modules.order": b"",
    }
    path = repository.add(f"linux-image-{release}", version, files)
    if meta:
        repository.add("linux-image-amd64", version, depends=f"linux-image-{release} (= {version})")
    return path


def publish_tool(repository: Repository) -> None:
    repository.add("tool", "1", {"usr/bin/tool": b""})
    repository.publish()


def test_a_recipe_stays_with_its_release_while_the_archive_has_it(repository: Repository) -> None:
    for number in ("7.2.14", "7.3.4", "7.3.10", "7.3.9"):
        add(repository, number)
    add(repository, "7.3.11", flavour="cloud-amd64")
    add(repository, "7.4.1", meta=True)
    publish_tool(repository)
    guest = run(MOVING)
    assert guest.release == "7.3.10+deb13-amd64"
    assert not guest.warnings


def test_when_the_archive_has_moved_on_the_recipe_goes_along_and_says_so(repository: Repository) -> None:
    add(repository, "7.3.4", meta=True)
    publish_tool(repository)
    assert run(MOVING).release == "7.3.4+deb13-amd64"
    repository.debs.clear()
    add(repository, "7.4.1", meta=True)
    publish_tool(repository)
    assert run(MOVING).release == "7.3.4+deb13-amd64", "what is in the cache is used"
    guest = run(MOVING, refresh=True)
    assert guest.release == "7.4.1+deb13-amd64"
    assert guest.warnings == [
        "the mirror has no linux-image-7.3.*+deb13-amd64: linux-image-amd64 is used, which may be another "
        "release"
    ]


def test_a_release_whose_files_are_gone_is_passed_over(repository: Repository) -> None:
    add(repository, "7.3.4")
    add(repository, "7.4.1", meta=True)
    newest = add(repository, "7.3.9")
    publish_tool(repository)
    newest.unlink()
    guest = run(MOVING)
    assert guest.release == "7.3.4+deb13-amd64"
    assert "lists linux-image-7.3.9+deb13-amd64" in guest.warnings[0]
