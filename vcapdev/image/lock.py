# SPDX-License-Identifier: GPL-2.0-or-later
"""Resolutions and lock files: which version and checksum of each package a recipe stands for.

A lock file is JSON and holds one resolution for each recipe of a run::

    {"format": "vcapdev-lock", "version": 1, "recipes": {
       "bookworm-6.1": {"key": "...", "packages": [{"name": ..., "version": ..., "sha256": ..., "suite": ...,
                        "size": ..., "architecture": ..., "archive": ..., "path": ...}], "warnings": [...]}},
     "built": {"mutant": ..., "built_from": [...], "modules": [...]}}

"built" tells people of modules that were put in the place of stock ones. It pins nothing: what a mutant is
built from is of the kernel's own version, which is pinned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from vcapdev.errors import UsageError
from vcapdev.image.cache import write_atomic

_FORMAT, _VERSION = "vcapdev-lock", 1
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")
_VERSION_TEXT = re.compile(r"[A-Za-z0-9.+~:-]+\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Package:
    """One Debian package: ``size`` in bytes, ``path`` of its file below the root of its ``archive``."""

    name: str
    version: str
    sha256: str
    suite: str
    size: int = 0
    architecture: str = "amd64"
    archive: str = "main"
    path: str = ""

    @property
    def file_name(self) -> str:
        """The name of its file in the cache: as Debian names it, with the start of the checksum."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.{self.sha256[:12]}.deb"


@dataclass(frozen=True)
class Resolution:
    """The packages that a recipe stood for at one time, and what had to be said about it."""

    recipe: str
    key: str
    packages: tuple[Package, ...]
    warnings: tuple[str, ...] = ()

    @property
    def sha256s(self) -> list[str]:
        """The checksums, sorted: the identity of what is unpacked."""
        return sorted(package.sha256 for package in self.packages)


def dump_lock(resolutions: Iterable[Resolution], built: Mapping[str, Any] | None = None) -> str:
    """The text of a lock file, stable for equal content.

    :param built: what is to be told of modules that were put in the place of stock ones.
    """
    recipes = {
        item.recipe: {
            "key": item.key,
            "packages": [asdict(package) for package in sorted(item.packages, key=lambda one: one.name)],
            "warnings": list(item.warnings),
        }
        for item in resolutions
    }
    whole: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "recipes": recipes}
    if built:
        whole["built"] = dict(built)
    return json.dumps(whole, indent=1) + "\n"


def write_lock(path: Path, resolutions: Iterable[Resolution], built: Mapping[str, Any] | None = None) -> None:
    """Write a lock file that ``provision(lock=path)`` and ``provision_qemu(lock=path)`` can be pinned to."""
    write_atomic(path, dump_lock(resolutions, built))


def locked_recipes(path: Path) -> list[str]:
    """Names of the recipes that a lock file pins.

    :raise UsageError: file missing or damaged.
    """
    return list(_load(path))


def read_lock(path: Path, recipe: str) -> Resolution:
    """The resolution of ``recipe`` in a lock file.

    :raise UsageError: file missing, damaged, or without this recipe.
    """
    recipes = _load(path)
    if recipe not in recipes:
        known = ", ".join(recipes) or "none"
        raise UsageError(f"lock file {path} does not hold recipe {recipe!r} (it holds: {known})")
    try:
        return _resolution(recipe, recipes[recipe])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UsageError(f"lock file {path}, recipe {recipe!r}: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read lock file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"lock file {path} is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT or data.get("version") != _VERSION:
        raise UsageError(f"{path} is not a lock file of this version of vcapdev")
    recipes = data.get("recipes")
    return recipes if isinstance(recipes, dict) else {}


def _resolution(recipe: str, data: Mapping[str, Any]) -> Resolution:
    packages = tuple(_package(item) for item in data["packages"])
    if not packages:
        raise ValueError("no packages")
    return Resolution(recipe, str(data["key"]), packages, tuple(map(str, data.get("warnings", []))))


def _package(item: Mapping[str, Any]) -> Package:
    unknown = set(item) - {field.name for field in fields(Package)}
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r} of a package")
    package = Package(**item)
    checks = ((_NAME, package.name), (_VERSION_TEXT, package.version), (_SHA256, package.sha256))
    for pattern, value in checks:
        if not isinstance(value, str) or not pattern.match(value):
            raise ValueError(f"bad value {value!r} of a package")
    if not isinstance(package.size, int) or package.size < 0 or not _NAME.match(package.architecture):
        raise ValueError(f"bad size or architecture of package {package.name}")
    path = PurePosixPath(package.path)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"bad path of package {package.name}")
    return package
