# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture driver that is built already, so that an altered one costs no more than what was altered.

The driver of a kernel is built once as it is, and the whole tree with its objects kept in the cache. A
change is made in a copy of that tree; make then compiles what is newer than its object, and links. The
kernel's build compares command lines too, which name the directory: they are rewritten for the copy. Should
that ever miss a place, more is compiled than need be, nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vcapdev.errors import SetupError
from vcapdev.image.cache import Cache, digest
from vcapdev.image.elf import Elf, with_section
from vcapdev.image.kmake import BuildError, apply_diff, check_module, check_symbols, run_make
from vcapdev.image.modules import ModuleTree
from vcapdev.image.parts import PARTS, prepare_build, touched_modules
from vcapdev.image.recipe import Recipe
from vcapdev.image.sources import KernelVersion, driver_sources, header_tree
from vcapdev.image.toolchain import Toolchain, choose_toolchain
from vcapdev.progress import Progress

_TOUCHED = re.compile(r"^\+\+\+ b/(\S+)", re.M)
_STRUCT = re.compile(rb"^(?:struct|union|enum)\s+\w+\s*\{.*?^\}", re.S | re.M)
_ORIGIN = "origin"


@dataclass(frozen=True)
class Change:
    """By what an altered driver differs.

    :ivar diff: a file for ``patch -p1``.
    :ivar texts: paths in the kernel's source, and what those files shall hold (over the diff).
    """

    name: str
    diff: Path | None = None
    texts: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """The files that differ, as paths in the kernel's source; none for the driver as it is."""
        text = self.diff.read_text(encoding="utf-8", errors="replace") if self.diff else ""
        return list(dict.fromkeys([*_TOUCHED.findall(text), *self.texts]))

    @property
    def key(self) -> str:
        """A digest of the content; the name does not count."""
        parts = [part for file, text in sorted(self.texts.items()) for part in (file.encode(), text)]
        return digest(self.diff.read_bytes() if self.diff else b"", *parts)


@dataclass(frozen=True)
class DriverTree:
    """One kernel's driver: its sources, the tree in which they are built, and what built them."""

    source: Path
    built: Path
    origin: str
    toolchain: Toolchain
    kernel: KernelVersion
    stock: ModuleTree

    def build(self, change: Change, into: Path, progress: Progress, jobs: int | None = None) -> list[Path]:
        """Build the modules that ``change`` touches (all, if none) into a directory; may run in threads.

        :raise UsageError: a diff that does not fit, a file that is in none of the modules.
        :raise SetupError: it does not compile, or would not load.
        """
        files = change.files
        modules = touched_modules(self.source, files or None)
        with tempfile.TemporaryDirectory(prefix="build-", dir=into) as name:
            build = Path(name) / "build"
            _copy_built(self.built, self.origin, build)
            texts = self._altered(change, Path(name))
            for file, text in texts.items():
                (build / Path(file).name).write_bytes(text)
            if files:
                self._make(build, f"Building the {change.name} driver", progress, jobs)
            types = self._same_types(texts)
            return [self._take(build / f"{module}.ko", into, types) for module in modules]

    def _altered(self, change: Change, work: Path) -> dict[str, bytes]:
        if change.diff is None:
            return dict(change.texts)
        patched, files = work / "source", change.files
        for file in files:
            (patched / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.source / file, patched / file)
        apply_diff(change.diff, patched, self.kernel.release)
        return {file: (patched / file).read_bytes() for file in files} | dict(change.texts)

    def _make(self, build: Path, label: str, progress: Progress, jobs: int | None) -> None:
        run_make(self.toolchain, self.kernel.release, build, label, progress, jobs)
        check_symbols(self.toolchain.headers, self.kernel.release, build)

    def _take(self, built: Path, into: Path, same_types: bool) -> Path:
        """Check a module and put it into its place, with the type information of the stock one."""
        stock = check_module(self.stock, built.stem, built)
        image = built.read_bytes()
        types = Elf(stock).section(".BTF")
        if types is not None and same_types:
            image = with_section(image, ".BTF", types)
        (into / built.name).write_bytes(image)
        return into / built.name

    def _same_types(self, texts: Mapping[str, bytes]) -> bool:
        """Whether no struct is declared otherwise, so that the stock module's BTF describes the altered one.

        The build itself makes no BTF: that would take the kernel's own vmlinux and pahole.
        """
        return all(declare_alike(text, (self.source / file).read_bytes()) for file, text in texts.items())


def declare_alike(text: bytes, other: bytes) -> bool:
    """Whether two texts of C declare the same structs."""
    return _STRUCT.findall(text) == _STRUCT.findall(other)


def driver_tree(
    recipe: Recipe,
    kernel: KernelVersion,
    modules: Path,
    progress: Progress,
    cache: Cache,
    *,
    private_toolchain: bool = False,
) -> DriverTree:
    """The built driver of a kernel, from the cache if it is there. ``modules`` are the kernel's own.

    :raise SetupError: packages of one version, compiler or make are missing, or it does not compile.
    """
    headers = header_tree(recipe, kernel, progress, cache)
    toolchain = choose_toolchain(recipe, headers, kernel.release, progress, cache, private=private_toolchain)
    source = driver_sources(recipe, kernel, progress, cache)
    key = digest("drivers-1", kernel.sha256, kernel.version, repr(toolchain), repr(PARTS))

    def build(into: Path) -> None:
        place = into / "build"
        prepare_build(source, place, touched_modules(source, None))
        try:
            run_make(toolchain, kernel.release, place, f"Building the driver of {kernel.release}", progress)
            check_symbols(toolchain.headers, kernel.release, place)
        except BuildError as error:  # not the change's fault
            raise SetupError(str(error)) from None
        (into / _ORIGIN).write_text(str(place))

    content = cache.entry("drivers", key, build, label=f"built driver of {kernel.release}")
    origin = (content / _ORIGIN).read_text()
    return DriverTree(source, content / "build", origin, toolchain, kernel, ModuleTree(modules))


def _copy_built(built: Path, origin: str, place: Path) -> None:
    """Copy a built tree with its times, and tell its notes of the build where it is now."""
    shutil.copytree(built, place)
    old, new = origin.encode(), str(place).encode()
    for file in place.iterdir():
        if file.suffix in (".cmd", ".d", ".mod", ".order", ".symvers"):
            text = file.read_bytes()
            if old in text:
                status = file.stat()
                file.write_bytes(text.replace(old, new))
                os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
