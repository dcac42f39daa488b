# SPDX-License-Identifier: GPL-2.0-or-later
"""Building an out-of-tree module for the guest's kernel: each time only what has changed is compiled."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from vcapdev.errors import SetupError
from vcapdev.image import machine
from vcapdev.image.cache import Cache
from vcapdev.image.drivertree import declare_alike
from vcapdev.image.elf import Elf, with_section
from vcapdev.image.kmake import BuildError, run_make
from vcapdev.image.modules import ModuleTree
from vcapdev.image.parts import PARTS, module_files, prepare_build, touched_modules
from vcapdev.image.recipe import load_recipe
from vcapdev.image.sources import PackagedGuest, driver_sources, header_tree, kernel_version
from vcapdev.image.toolchain import Toolchain, choose_toolchain
from vcapdev.progress import Progress, Silent
from vcapdev.watch.sources import Sources

_TOLD = re.compile(r"error|warning: |\*\*\*|undefined!|No rule")
_NO_NEWS = re.compile(r"^make|: (some|all) warnings being treated as errors$")
_MOST_LINES = 12


@dataclass(frozen=True)
class Outcome:
    """What came of one build: modules, or why there are none; lines of the compiler that matter."""

    seconds: float
    modules: tuple[Path, ...] = ()
    error: str = ""
    lines: tuple[str, ...] = ()
    sources: int = 0

    @property
    def good(self) -> bool:
        """Whether there is something to load."""
        return not self.error


class ModuleBuild:
    """One module's sources, and what builds them.

    :param work: a directory for the build; must exist.
    :raise SetupError: headers, compiler or make are missing.
    """

    def __init__(
        self, sources: Sources, kernel: str, guest: PackagedGuest, work: Path, progress: Progress
    ) -> None:
        machine.require("modules")
        self._recipe, self._cache, self._progress = load_recipe(kernel), Cache(), progress
        self._kernel = kernel_version(guest)
        self.release = self._kernel.release
        headers = header_tree(self._recipe, self._kernel, progress, self._cache)
        self.toolchain: Toolchain = choose_toolchain(
            self._recipe, headers, self.release, progress, self._cache
        )
        self._sources, self._work = sources, work
        self._stock = ModuleTree(guest.modules)
        self._number = 0

    def lay_out(self) -> None:
        """Write the stock driver's sources to the directory that is watched.

        :raise SetupError: they cannot be fetched, or the directory not be written.
        """
        source = self._driver()
        try:
            prepare_build(source, self._sources.directory, touched_modules(source, None))
        except OSError as error:
            raise SetupError(
                f"--init {self._sources.directory}: {error.strerror}; name another place"
            ) from None

    def _driver(self) -> Path:
        return driver_sources(self._recipe, self._kernel, self._progress, self._cache)

    def build(self) -> Outcome:
        """Build the sources as of the last look. Each time the modules get a new place of their own."""
        begin = time.monotonic()
        place = self._work / "build"
        place.mkdir(exist_ok=True)
        self._sources.mirror(place)
        error = ""
        try:
            text = run_make(self.toolchain, self.release, place, "Building the module", Silent())
        except BuildError as failure:
            error, text = str(failure), failure.output
        modules = () if error else self._taken(place)
        if not error and not modules:
            error = "the build made no module; let the Makefile say: obj-m := NAME.o"
        return Outcome(time.monotonic() - begin, modules, error, tuple(_telling(text)), len(self._sources))

    def _taken(self, place: Path) -> tuple[Path, ...]:
        self._number += 1
        home = self._work / f"modules-{self._number}"
        home.mkdir()
        shutil.rmtree(self._work / f"modules-{self._number - 2}", ignore_errors=True)
        found = sorted(place.rglob("*.ko"))
        try:
            for path in found:
                (home / path.name).write_bytes(self._with_types(path, place))
            return tuple(home / path.name for path in found)
        except OSError as error:
            raise SetupError(f"the built modules cannot be kept: {error.strerror}; make room") from None

    def _with_types(self, built: Path, place: Path) -> bytes:
        """A module's image, with the stock one's type information where it declares the same structs.

        The build makes none: it would take the kernel's own vmlinux. The checker reads buffers by it.
        """
        image, stock = built.read_bytes(), self._stock.load(built.stem)
        types = Elf(stock.image).section(".BTF") if stock is not None else None
        if types is None or built.stem not in PARTS or Elf(image).section(".BTF") is not None:
            return image
        source = self._driver()
        own = {path.name: path for path in place.rglob("*.[ch]")}
        for file in module_files(source, built.stem):
            name = Path(file).name
            if name not in own or not declare_alike(own[name].read_bytes(), (source / file).read_bytes()):
                return image
        return with_section(image, ".BTF", types)


def _telling(text: str) -> list[str]:
    """The lines of a build's output that say what is wrong."""
    found = [line.rstrip() for line in text.splitlines() if _TOLD.search(line)]
    kept = [line for line in found if not _NO_NEWS.search(line)] or found
    left = len(kept) - _MOST_LINES
    return kept if left <= 0 else [*kept[:_MOST_LINES], f"({left} more lines)"]
