# SPDX-License-Identifier: GPL-2.0-or-later
"""From a recipe to unpacked trees in the cache: kernel, modules and userland of a guest, or QEMU.

The first time, the packages are resolved, fetched and unpacked; what they were resolved to is kept, so that
later runs need neither network nor apt. ``refresh`` resolves anew, ``lock`` pins to an earlier resolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vcapdev.errors import SetupError, UsageError
from vcapdev.image import machine, offline
from vcapdev.image.apt import Address, AptRoot, Plan
from vcapdev.image.apttool import UnresolvableError
from vcapdev.image.archives import find_archives, read_config
from vcapdev.image.cache import Cache, digest, disk_errors
from vcapdev.image.download import VanishedError, download, stored, unpack
from vcapdev.image.lock import Package, Resolution, read_lock, write_lock
from vcapdev.image.recipe import Recipe
from vcapdev.progress import Progress

_KERNEL = re.compile(r"linux-(image|binary|modules|base)-")


@dataclass(frozen=True)
class Provisioned:
    """What a guest is made of. Trees are in the cache: read them, never write to them."""

    release: str  # as uname -r says it
    kernel: Path  # the compressed image, vmlinuz
    modules: Path  # lib/modules/RELEASE
    root: Path  # unpacked userland packages with their libraries
    packages: list[Package]
    warnings: list[str]
    resolution: Resolution

    def write_lock(self, path: Path, *others: Resolution, built: Mapping[str, Any] | None = None) -> None:
        """Write a lock file of this resolution and ``others`` (QEMU's, say) that a run can be pinned to.

        :param built: what it also tells of modules that were put in the place of stock ones.
        """
        write_lock(path, [self.resolution, *others], built)


def provision(
    recipe: Recipe,
    *,
    progress: Progress,
    lock: Path | None = None,
    refresh: bool = False,
    cache: Cache | None = None,
) -> Provisioned:
    """Have kernel and userland of ``recipe`` unpacked in the cache.

    :raise UsageError: the recipe has no kernel; the lock file is wrong.
    :raise SetupError: packages, signature, network or disk: one line, and the cache stays usable.
    """
    if recipe.kernel is None:
        raise UsageError(f"recipe {recipe.name!r} ({recipe.path}) has no kernel: it is no guest image")
    cache = cache if cache is not None else Cache()
    resolution = resolve(recipe, cache, progress, lock=lock, refresh=refresh)
    kernel = [package for package in resolution.packages if _KERNEL.match(package.name)]
    userland = [package for package in resolution.packages if not _KERNEL.match(package.name)]
    kernel_tree = unpacked(recipe, kernel, cache, progress, f"kernel of {recipe.name}")
    root = unpacked(recipe, userland, cache, progress, f"userland of {recipe.name}")
    image, modules = _find_kernel(kernel_tree, recipe.name)
    return Provisioned(
        release=modules.name,
        kernel=image,
        modules=modules,
        root=root,
        packages=list(resolution.packages),
        warnings=list(resolution.warnings),
        resolution=resolution,
    )


def _find_kernel(tree: Path, name: str) -> tuple[Path, Path]:
    for modules in sorted([*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]):
        for image in (tree / "boot" / f"vmlinuz-{modules.name}", modules / "vmlinuz"):
            if image.is_file():
                return image, modules
    raise SetupError(
        f"the kernel packages of recipe {name!r} hold no image with its modules: correct the recipe"
    )


def resolve(
    recipe: Recipe, cache: Cache, progress: Progress, *, lock: Path | None = None, refresh: bool = False
) -> Resolution:
    """Which packages ``recipe`` stands for: pinned, as kept from an earlier run, or newly found and fetched.

    :raise UsageError: the lock file is wrong. :raise SetupError: as :func:`provision`.
    """
    if lock is None:
        lock = offline.lock(recipe.name, cache, progress, guest=recipe.kernel is not None)
    if lock is not None:
        return _pinned(recipe, read_lock(lock, recipe.name))
    found = None if refresh else kept_resolution(recipe, cache)
    if found is None:
        root = _apt_root(recipe, cache)
        waiting = f"Waiting for another vcapdev that resolves {recipe.name}"
        with cache.locked(root.lock_name, lambda: progress.start(waiting)):
            found = None if refresh else kept_resolution(recipe, cache)
            if found is None:
                root.update(progress)
                found = _resolve(recipe, root, cache, progress)
                with disk_errors(cache.root):
                    write_lock(_kept(recipe, cache), [found])
    return found


def _pinned(recipe: Recipe, resolution: Resolution) -> Resolution:
    if resolution.key == recipe.key:
        return resolution
    note = f"the lock file was made from another version of recipe {recipe.name!r}; the lock file counts"
    return replace(resolution, warnings=(*resolution.warnings, note))


def _kept(recipe: Recipe, cache: Cache) -> Path:
    return cache.root / "resolutions" / f"{recipe.name}-{recipe.key[:16]}.json"


def kept_resolution(recipe: Recipe, cache: Cache) -> Resolution | None:
    """What ``recipe`` was resolved to earlier, or None. Needs no network."""
    try:
        found = read_lock(_kept(recipe, cache), recipe.name)
    except UsageError:
        return None  # not there, or damaged: made anew
    return found if found.key == recipe.key else None


def _apt_root(recipe: Recipe, cache: Cache) -> AptRoot:
    offline.refuse_network(recipe.name)
    machine.require("packages")
    config = read_config()
    archives = find_archives(recipe.suites, config)
    return AptRoot(
        cache, recipe.suites, archives, config, assume=recipe.assume, allow_expired=recipe.allow_expired
    )


def _resolve(recipe: Recipe, root: AptRoot, cache: Cache, progress: Progress) -> Resolution:
    """Resolve and fetch; what the mirror lists but lacks is excluded, and resolved again."""
    search = _Search(recipe, root)
    while True:
        progress.start("Resolving packages")
        plan = search.plan()
        addresses = root.locate(plan)
        progress.finish(f"{len(addresses)} packages")
        try:
            download(cache, addresses, root.environment, progress)
        except VanishedError as error:
            search.exclude(error)
            continue
        packages = tuple(sorted((address.package for address in addresses), key=lambda one: one.name))
        warnings = (*root.notes, *root.ages(), *search.notes)
        return Resolution(recipe.name, recipe.key, packages, warnings)


def _kernels(recipe: Recipe, root: AptRoot) -> list[str]:
    """Packages to try as the kernel, the best first; none in a recipe without."""
    if recipe.kernel is None:
        return []
    found = root.matching(recipe.kernel) if "*" in recipe.kernel else [recipe.kernel]
    found += [recipe.kernel_else] if recipe.kernel_else else []
    return found or [recipe.kernel]  # apt then says that there is none


class _Search:
    """A set of packages for a recipe, without those versions that the mirror turned out not to have."""

    def __init__(self, recipe: Recipe, root: AptRoot) -> None:
        self._recipe, self._root = recipe, root
        self._kernels = _kernels(recipe, root)
        self._excluded: set[tuple[str, str]] = set()
        self._last: Plan = []
        self._why: VanishedError | None = None
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What has to be said about the last plan."""
        wish, other = self._recipe.kernel, self._recipe.kernel_else
        if other is None or self._kernels[0] != other:
            return self._notes
        return [*self._notes, f"the mirror has no {wish}: {other} is used, which may be another release"]

    def plan(self) -> Plan:
        """The next plan. An exact dependency on a vanished version takes its dependents with it."""
        while True:
            names = [*self._kernels[:1], *self._recipe.packages]
            try:
                self._last = self._root.resolve(names, self._recipe.prefer, self._excluded)
                return self._last
            except UnresolvableError as error:
                if self._why is not None and self._exclude_dependents():
                    continue
                if len(self._kernels) < 2:
                    raise self._why or error from None
                del self._kernels[0]

    def exclude(self, error: VanishedError) -> None:
        self._why = error
        for package in error.packages:
            self._excluded.add((package.name, package.version))
            self._notes.append(
                f"the mirror lists {package.name} {package.version} but does not have it: the next version "
                "that it has is used"
            )

    def _exclude_dependents(self) -> bool:
        before = len(self._excluded)
        for name in {name for name, _ in self._excluded}:
            self._excluded.update(self._root.dependents(self._last, name))
        return len(self._excluded) > before


def unpacked(
    recipe: Recipe, packages: Sequence[Package], cache: Cache, progress: Progress, label: str
) -> Path:
    """The tree of these packages in the cache; fetched by address and checksum when their files are gone.

    :raise SetupError: the mirror has no longer these versions, no network, full disk.
    """
    tree = kept_tree(packages, cache)
    if tree is not None:
        return tree

    def build(into: Path) -> None:
        with cache.shared("debs"):  # no prune between the two
            files = fetch_pinned(recipe, packages, cache, progress)
            unpack(files, into, progress, f"Unpacking {label}", cache.root)

    return cache.entry("packages", _tree_key(packages), build, label=label)


def kept_tree(packages: Sequence[Package], cache: Cache) -> Path | None:
    """The tree of these packages if it is in the cache, else None. Needs no network."""
    return cache.lookup("packages", _tree_key(packages))


def _tree_key(packages: Sequence[Package]) -> str:
    return digest(*sorted(package.sha256 for package in packages))


def fetch_pinned(recipe: Recipe, packages: Sequence[Package], cache: Cache, progress: Progress) -> list[Path]:
    """Files of packages whose checksums are known: from the cache, else from the pool of the mirror."""
    if any(stored(cache, package) is None for package in packages):
        root = _apt_root(recipe, cache)
        with cache.locked(root.lock_name):
            root.configure()
        addresses = [Address(package, _pool(root, package)) for package in packages]
        download(cache, addresses, root.environment, progress)
    return [cache.root / "debs" / package.file_name for package in packages]


def _pool(root: AptRoot, package: Package) -> str:
    archive = root.archives.get(package.archive)
    if archive is None or not package.path:
        raise SetupError(
            f"package {package.name} {package.version} is not in the cache, and this machine has no "
            f"{package.archive} archive to get it from: set VCAPDEV_MIRROR"
        )
    return f"{archive.uri}/{quote(package.path, safe='/+~:')}"


def fetch(
    recipe: Recipe,
    names: Sequence[str],
    versions: Sequence[str | None],
    *,
    progress: Progress,
    cache: Cache | None = None,
) -> list[Path]:
    """Files of single packages, without dependencies, from the suites of ``recipe``; for building modules.

    ``versions`` goes with ``names``; None stands for the newest. The indexes of the recipe's resolution are
    used, so the versions that went with it are found; they are refreshed when they lack one.

    :raise SetupError: the mirror does not have a package in that version; network, signature, disk.
    """
    cache = cache if cache is not None else Cache()
    root = _apt_root(recipe, cache)
    with cache.locked(root.lock_name, lambda: progress.start("Waiting for another vcapdev")):
        fresh = not root.has_indexes
        if fresh:
            root.update(progress)
        root.configure()
        try:
            addresses = root.locate(_exact(root, names, versions))
        except UnresolvableError:
            if fresh:
                raise
            root.update(progress)
            addresses = root.locate(_exact(root, names, versions))
    return download(cache, addresses, root.environment, progress)


def _exact(root: AptRoot, names: Sequence[str], versions: Sequence[str | None]) -> Plan:
    plan: Plan = []
    for name, version in zip(names, versions, strict=True):
        known = root.versions(name)
        if version not in (None, *known) or not known:
            wanted = f"{name} {version}" if version else name
            have = f"it has {', '.join(known)}" if known else "it has none"
            raise UnresolvableError(
                f"the mirror does not list {wanted} ({have}): --refresh moves to the versions that it has"
            )
        plan.append((name, version or known[0]))
    return plan
