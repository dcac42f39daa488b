# SPDX-License-Identifier: GPL-2.0-or-later
"""Build altered drivers as modules that the stock kernel loads: those of guest/mutants, or any others.

Image, headers and sources are of one identical version, the compiler is the one that the kernel was built
with, and the result is checked before it is used (:mod:`vcapdev.image.kmake`).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from vcapdev.errors import SetupError, UsageError
from vcapdev.image import machine
from vcapdev.image.cache import Cache, digest
from vcapdev.image.drivertree import Change, DriverTree, driver_tree
from vcapdev.image.kmake import BuildError
from vcapdev.image.modules import ModuleTree
from vcapdev.image.mutants import UNALTERED, Mutant, find_mutant
from vcapdev.image.parts import module_of
from vcapdev.image.recipe import Recipe
from vcapdev.image.sources import KernelVersion, PackagedGuest, kernel_version
from vcapdev.progress import Progress, Silent

_REFUSED = "refused"  # in the place of modules: why it does not compile
_PLAIN_REFUSAL = re.compile(r"error: ")
_MACHINE_FAILED = re.compile(r"internal compiler error|Killed|No space left|Cannot allocate|fork")


@dataclass(frozen=True)
class Built:
    """What came of a change: modules by name, or why there are none."""

    change: Change
    modules: dict[str, Path] = field(default_factory=dict)
    error: str = ""


class Builder:
    """Builds altered drivers for the kernel of one guest; what was built before comes from the cache.

    The kernel's own driver is built first, once and for all; a change then costs one or two seconds.

    :raise UsageError: the kernel is the user's own. :raise SetupError: a cache path that make cannot take.
    """

    def __init__(
        self,
        recipe: Recipe,
        guest: PackagedGuest,
        progress: Progress,
        *,
        cache: Cache | None = None,
        private_toolchain: bool = False,
    ) -> None:
        self.kernel: KernelVersion = kernel_version(guest)
        self._recipe, self._guest, self._progress = recipe, guest, progress
        self._cache = cache if cache is not None else Cache()
        self._private = private_toolchain
        self._tree: DriverTree | None = None
        self._lock = threading.Lock()
        if re.search(r"[\s:]", str(self._cache.root)):
            raise SetupError(
                f"modules cannot be built in the cache at {self._cache.root}: the kernel's build takes no "
                "blank or colon in a path; set VCAPDEV_CACHE to another directory"
            )

    @property
    def tree(self) -> DriverTree:
        """Sources and the built driver as it is; fetched and built on first use.

        :raise SetupError: packages of one version, compiler, make or patch are missing, or the build fails.
        """
        with self._lock:
            if self._tree is None:
                machine.require("modules")
                self._tree = driver_tree(
                    self._recipe,
                    self.kernel,
                    self._guest.modules,
                    self._progress,
                    self._cache,
                    private_toolchain=self._private,
                )
            return self._tree

    def build(self, change: Change, progress: Progress | None = None, jobs: int | None = None) -> Built:
        """Build one change; that it does not fit or compile is told in the result.

        :raise SetupError: anything else: packages, compiler, disk.
        """
        try:
            return Built(change, self.modules(change, progress, jobs))
        except (BuildError, UsageError) as error:
            return Built(change, error=str(error))

    def modules(
        self, change: Change, progress: Progress | None = None, jobs: int | None = None
    ) -> dict[str, Path]:
        """The modules (name -> .ko) of a change, built with ``jobs`` compilers at a time.

        :raise UsageError: it does not fit this kernel. :raise BuildError: it does not compile.
        :raise SetupError: anything else: packages, compiler, disk.
        """
        check_kernel_has(self._guest, change)
        # Known without sources and headers, so that a second run looks at nothing else.
        key = digest("modules-4", self.kernel.sha256, self.kernel.version, str(self._private), change.key)
        shown = progress if progress is not None else self._progress

        def make(into: Path) -> None:
            try:
                self.tree.build(change, into, shown, jobs)
            except BuildError as error:
                if _MACHINE_FAILED.search(str(error)) or not _PLAIN_REFUSAL.search(str(error)):
                    raise
                (into / _REFUSED).write_text(str(error))

        label = f"{change.name} driver for {self.kernel.release}"
        content = self._cache.entry("modules", key, make, label=label)
        refused = content / _REFUSED
        if refused.is_file():
            raise BuildError(refused.read_text())
        return {path.stem: path for path in sorted(content.glob("*.ko"))}

    def build_all(self, changes: Iterable[Change], workers: int | None = None) -> Iterator[Built]:
        """Build many, several at a time (as many as there are CPUs), each as soon as it is there.

        :raise SetupError: as :meth:`build`.
        """
        wanted = list(changes)
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            self._progress.start("Building altered drivers", len(wanted), "drivers")
            futures = [pool.submit(self.build, change, Silent(), 1) for change in wanted]
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    self._progress.advance(done)
                    yield future.result()
                self._progress.finish(f"{len(wanted)} for {self.kernel.release}")
            finally:
                for future in futures:
                    future.cancel()


def build_mutant(
    recipe: Recipe,
    guest: PackagedGuest,
    name: str | None,
    progress: Progress,
    *,
    cache: Cache | None = None,
    private_toolchain: bool = False,
) -> dict[str, Path]:
    """Modules (name -> .ko) of an altered driver for the guest's kernel, from the cache if built before.

    ``name`` None or "unaltered" builds the driver as it is, all of its modules, the same way.

    :raise UsageError: no such driver, or it does not fit this kernel.
    :raise SetupError: packages of one version, compiler, make or patch are missing, or the build fails.
    """
    change = Change(UNALTERED)
    if name is not None and name != UNALTERED:
        change = mutant_change(find_mutant(name), recipe)
    builder = Builder(recipe, guest, progress, cache=cache, private_toolchain=private_toolchain)
    return builder.modules(change)


def mutant_change(mutant: Mutant, recipe: Recipe) -> Change:
    """The change that an altered driver of guest/mutants is.

    :raise UsageError: it says that it is for other kernels.
    """
    if not any(fnmatchcase(recipe.name, glob) for glob in mutant.kernels):
        raise UsageError(
            f"{mutant.name} is for the kernels {', '.join(mutant.kernels)}, not for {recipe.name}"
        )
    return Change(mutant.name, mutant.diff)


def check_kernel_has(guest: PackagedGuest, change: Change) -> None:
    """Refuse a driver that this kernel has not, before 140 MB of its source are fetched.

    :raise UsageError: naming the module.
    """
    tree = ModuleTree(guest.modules)
    for module in {name for file in change.files if (name := module_of(file)) is not None}:
        if tree.load(module) is None:
            other = "trixie-6.12 or newer" if module.startswith("videobuf2") else "bookworm-6.1 or older"
            raise UsageError(
                f"{change.name} alters the module {module}, which kernel {guest.release} lacks; take {other}"
            )
