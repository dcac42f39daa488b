# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiler for altered modules: the one that the kernel was built with, the machine's or its suite's.

A kernel's configuration names its compiler (CONFIG_CC_VERSION_TEXT). If the machine has gcc of that major
version and can run the build tools of the header packages, those are used. Otherwise compiler, binutils and
libraries are fetched from the recipe's suites into a private root in the cache. Nothing there is installed,
and neither root nor a user namespace is needed: each program is replaced by a two-line script that starts it
through the root's own loader with the root's own libraries, so that another C library than the machine's does
no harm.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vcapdev.errors import SetupError
from vcapdev.image.cache import Cache, digest, remove_tree
from vcapdev.image.download import unpack
from vcapdev.image.elf import Elf, ElfError, resolve_in_root
from vcapdev.image.provision import fetch_pinned, resolve
from vcapdev.image.recipe import Recipe
from vcapdev.progress import Progress

_CC_TEXT = re.compile(r'^CONFIG_CC_VERSION_TEXT="(.*)"', re.M)
_LOADERS = ("lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2")
_LIBRARY_DIRS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")


@dataclass(frozen=True)
class Toolchain:
    """What builds modules: header tree with tools that run here, compiler, and where else programs are."""

    headers: Path
    compiler: str
    version: str
    path: tuple[Path, ...] = ()

    def environment(self) -> dict[str, str]:
        """The environment for make: the machine's, with the private root's programs first."""
        keep = {k: v for k, v in os.environ.items() if k not in _DISTURBING and not k.startswith("LC_")}
        path = os.pathsep.join([*map(str, self.path), os.environ.get("PATH", os.defpath)])
        return {**keep, "PATH": path, "LC_ALL": "C"}


#: Variables that kbuild or make would take as orders.
_DISTURBING = frozenset(
    [
        *("ARCH", "CROSS_COMPILE", "CC", "CFLAGS", "KCFLAGS", "KBUILD_OUTPUT", "KBUILD_EXTRA_SYMBOLS"),
        *("LLVM", "LANG", "LANGUAGE", "O", "M", "V", "W", "LD_LIBRARY_PATH"),
        *("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS"),
    ]
)


def kernel_compiler(headers: Path, release: str) -> tuple[str, str]:
    """Name ("gcc-12") and full version text of the compiler that a kernel was built with.

    :raise SetupError: when its configuration does not say, or names another compiler than gcc.
    """
    config = headers / f"usr/src/linux-headers-{release}/.config"
    try:
        match = _CC_TEXT.search(config.read_text())
    except OSError:
        match = None
    version = re.search(r"gcc.* (\d+)\.\d+\.\d+", match[1]) if match else None
    if match is None or version is None:
        raise SetupError(f"the configuration of kernel {release} does not name a gcc that it was built with")
    return f"gcc-{version[1]}", match[1]


def choose_toolchain(
    recipe: Recipe, headers: Path, release: str, progress: Progress, cache: Cache, *, private: bool = False
) -> Toolchain:
    """The machine's compiler and the tools as they are, if both serve; else a private root of the suite.

    ``private`` asks for the private root in any case.

    :raise SetupError: packages, network, disk.
    """
    name, wanted = kernel_compiler(headers, release)
    found = None if private else host_compiler(name)
    if found is not None and tools_run(headers):
        compiler, version = found
        return Toolchain(headers, compiler, version)
    root = _private_root(recipe, name, headers, progress, cache)
    return Toolchain(root / "headers", name, f"{wanted} in a private root", (root / "root/usr/bin",))


def host_compiler(name: str) -> tuple[str, str] | None:
    """Path and version line of the machine's compiler of that name ("gcc-12"), or of a gcc of that major."""
    major = name.rpartition("-")[2]
    for candidate in (name, "gcc"):
        path = shutil.which(candidate)
        if path is None:
            continue
        dumped, text = _output([path, "-dumpversion"]), _output([path, "--version"])
        if dumped.split(".")[0].strip() == major and text:
            return path, text.splitlines()[0]
    return None


def tools_run(headers: Path) -> bool:
    """Whether this machine's C library and libraries can run the tools of the header packages."""
    kbuild = next(iter(sorted((headers / "usr/lib").glob("linux-kbuild-*"))), None)
    return kbuild is not None and all(_loads(program) for program in _programs(kbuild))


def _loads(program: Path) -> bool:
    """Whether all libraries are there, and new enough: the loader lists them and starts nothing (ld.so(8)).

    To start the program would tell less: some of the tools start another one.
    """
    listing = {"PATH": os.environ.get("PATH", os.defpath), "LD_TRACE_LOADED_OBJECTS": "1"}
    try:
        result = subprocess.run(
            [program], env=listing, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0 and "not found" not in result.stdout + result.stderr


def _output(argv: list[str]) -> str:
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _private_root(recipe: Recipe, compiler: str, headers: Path, progress: Progress, cache: Cache) -> Path:
    """A cache entry with root/ (compiler and libraries) and headers/ (a copy whose tools run through it)."""
    wanted = Recipe(
        name=f"{recipe.name}-{compiler}",
        path=recipe.path,
        description=f"{compiler} as the kernel of {recipe.name} was built with",
        suites=recipe.suites,
        packages=(compiler, "binutils", "libelf1", "zlib1g"),
        allow_expired=recipe.allow_expired,
    )
    resolution = resolve(wanted, cache, progress)
    # The scripts name the cache itself, so a moved cache gets a new entry.
    key = digest("toolchain-2", str(cache.root), str(headers), *resolution.sha256s)
    final = cache.root / "toolchains" / key / "content"

    def build(into: Path) -> None:
        debs = fetch_pinned(wanted, resolution.packages, cache, progress)
        (into / "root").mkdir()
        unpack(debs, into / "root", progress, f"Unpacking {compiler}")
        remove_tree(into / "root/usr/share")
        shutil.copytree(headers, into / "headers", symlinks=True)
        for tree in ("root", "headers"):
            wrap_programs(into / tree, final / tree, into / "root", final / "root")

    return cache.entry("toolchains", key, build, label=f"{compiler} for {recipe.name}")


def wrap_programs(tree: Path, final: Path, root: Path, final_root: Path) -> int:
    """Replace each dynamic program of ``tree`` by a script that runs it through ``root``'s loader; how many.

    ``final`` and ``final_root`` are where the two will be when they are used.

    :raise SetupError: when ``root`` has no loader.
    """
    loader = next((path for name in _LOADERS if (path := resolve_in_root(root, name))), None)
    if loader is None:
        raise SetupError("the packages of the compiler brought no loader (libc6); refresh the recipe")
    start = final_root / loader.relative_to(root)
    libraries = ":".join(str(final_root / name) for name in _LIBRARY_DIRS)
    programs = list(_programs(tree))
    for program in programs:
        real = _hidden(program)
        program.rename(real)
        place = final / real.relative_to(tree)
        # gcc finds its parts relative to argv[0]: the hidden name lies in the same directory.
        program.write_text(f'#!/bin/sh\nexec "{start}" --library-path "{libraries}" "{place}" "$@"\n')
        program.chmod(0o755)
    # Debian's modpost starts "its own name" + ".real-lsb-64": under its hidden name, too.
    for program in programs:
        for part in programs:
            if part.parent == program.parent and part.name.startswith(f"{program.name}."):
                rest = part.name.removeprefix(program.name)
                program.with_name(_hidden(program).name + rest).symlink_to(part.name)
    return len(programs)


def _hidden(program: Path) -> Path:
    return program.with_name(f".{program.name}.elf")


def _programs(tree: Path) -> Iterator[Path]:
    """Executables that ask for a loader; shared libraries do not."""
    for directory, _names, files in os.walk(tree):
        for name in files:
            path = Path(directory, name)
            if path.is_symlink() or not path.stat().st_mode & 0o111 or name.endswith(".so") or ".so." in name:
                continue
            with path.open("rb") as file:
                if file.read(4) != b"\x7fELF":
                    continue
            try:
                if Elf(path.read_bytes()).linkage().interpreter is not None:
                    yield path
            except ElfError:
                continue
